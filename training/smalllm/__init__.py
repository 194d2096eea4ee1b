"""A collection's own text in, a language model of a few million parameters out, for machines without a model hub.

The model has no knowledge, but lets every stage of the loop run offline. `train.train_small_lm` trains it; `text`
builds its tokenizer and rows.
"""

from ...common.lazy import lazy_names

_HOME = {"SmallLMConfig": "train", "train_small_lm": "train"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
