"""Training examples with expansions in, a trained encoder out: contrastive training on fused queries (Eq. 6 to 9).

`train.train_retriever` trains; `data` writes the rows, `fused_batches` makes batches of them, `losses.ExpandRLoss`
fuses and compares, `trainer` sets up the trainer of sentence-transformers. To touch: a profile (`losses.PROFILES`).
The fusion is that of retrieval (`encoding.fusion`) and must stay it.
"""

from ...common.lazy import lazy_names

_HOME = {"ExpandRLoss": "losses", "RetrieverTrainingConfig": "train", "train_retriever": "train"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
