"""Results in, one self-contained HTML page out: the systems, what changes for each query, and every query by itself.

`page.explore` puts the page together. `sources` opens the collections, `gathering` reads scores, rankings and passages,
`maps` projects embeddings, `documents` chooses which texts fit, `library` gets the charting library, and `assets/` has
the template, the style and the scripts. To change: what the page shows. Scores are only read here.
"""

from ...common.lazy import lazy_names

_HOME = {"Page": "page", "explore": "page", "results_of_runs": "runs"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
