"""Queries with their relevant documents, from any source: `open_examples` yields a stream of `TrainingExample`.

Sources: pocket, ir-datasets, BEIR folders (`judged`), several JSONL formats (`examples`). `negatives` mines hard ones.
To change: a source or a file format. Nothing here depends on a model.
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
