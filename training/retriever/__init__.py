"""Training examples with expansions in, a trained encoder out: contrastive training on fused queries (Eq. 6 to 9).

`train.train_retriever` trains; `data` writes the rows, `fused_batches` batches them, `losses.ExpandRLoss` fuses and
compares, `trainer` sets up the sentence-transformers trainer. To change: a profile (`losses.PROFILES`). The fusion
must remain the one used in retrieval (`encoding.fusion`).
"""

from ...common.lazy import lazy_names

_HOME = {"ExpandRLoss": "losses", "RetrieverTrainingConfig": "train", "train_retriever": "train"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
