"""A YAML file in, the rows of the paper's Table 3 out: both models trained and compared, resumable stage by stage.

`recipe.read_recipe` reads and checks it, `plan` says what it will cost, `stages` puts the stages of the other rooms
together. To touch: a row (`systems.SYSTEMS`), a section of the file. A stage is addressed by what goes into it: what
decides its output belongs in its settings, and nothing else does.
"""

from ...common.lazy import lazy_names

_HOME = {"Recipe": "recipe", "RecipeStages": "stages", "read_recipe": "recipe"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
