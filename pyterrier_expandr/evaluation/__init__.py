"""Systems and collections in, a folder of results out, cell by cell, following the protocol of BEIR and the paper.

`beir.experiment` runs them; `beir_collections` knows the 15 collections; `cells` searches, checks and evaluates one
ranking; `result_store` commits it and `results.Results` reads the folder, averages and tests significance. To change: a
measure (any of ir-measures), a collection's entry. What makes a cell stale is decided in `provenance`.
"""

from ..common.lazy import lazy_names

_HOME = {
    "Results": "results",
    "beir": "beir",
    "permutation_test": "significance",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
