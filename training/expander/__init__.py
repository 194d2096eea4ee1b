"""Preference pairs in, a LoRA adapter out (DPO, Eq. 17), and from adapter and base a model that stands alone.

`train.train_expander` trains; `pair_tokens` makes rows of the very tokens of inference, `dpo` sets up TRL and PEFT,
`report` says what came out, `merge.merge_adapter` merges. To touch: a setting of `ExpanderTrainingConfig`. A row's
tokens must stay those that the backend renders.
"""

from ...common.lazy import lazy_names

_HOME = {"ExpanderTrainingConfig": "config", "merge_adapter": "merge", "train_expander": "train"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
