"""Queries with their relevant documents, from every source: `open_examples` gives a stream of `TrainingExample`.

In: pocket, ir-datasets, a BEIR folder (`judged`), JSONL of several formats (`examples`). `negatives` mines hard ones.
To touch: a source or a file format. Nothing here knows a model.
"""

from ...common.lazy import lazy_names

_HOME = {
    "TrainingExample": "example",
    "examples_from_jsonl": "examples",
    "mine_negatives": "negatives",
    "open_examples": "examples",
    "split_examples": "examples",
    "write_examples": "examples",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
