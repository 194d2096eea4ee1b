"""A YAML file in, the rows of the paper's Table 3 out: both models trained and compared, resumable stage by stage.

`recipe.read_recipe` reads and checks it, `plan` estimates its cost, `stages` connects the stages of the other
packages. To change: a row (`systems.ROWS`), a section of the file. A stage is identified by its inputs: whatever
determines its output belongs in its settings, and nothing else does.
"""

from ...common.lazy import lazy_names

_HOME = {"Recipe": "recipe", "RecipeStages": "stages", "read_recipe": "recipe"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
