"""Preference pairs in, a LoRA adapter out (DPO, Eq. 17); adapter and base can be merged into a standalone model.

`train.train_expander` trains; `pair_tokens` builds rows of exactly the inference tokens, `dpo` sets up TRL and PEFT,
`report` summarises the results, `merge.merge_adapter` merges. To change: a setting of `ExpanderTrainingConfig`.
A row's tokens must remain those that the backend renders.
"""

from ...common.lazy import lazy_names

_HOME = {"ExpanderTrainingConfig": "config", "merge_adapter": "merge", "train_expander": "train"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
