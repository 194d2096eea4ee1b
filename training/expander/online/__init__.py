"""Queries and a reward in, a LoRA adapter out: the LLM writes while it is trained, and its texts are rewarded at once.

`settings` says which rewards and how texts are drawn, `queries` reads what to write for, `reward` values groups of
texts, `trainers` sets up GRPO and online DPO of TRL, `watch` measures held-out queries, and `signs` tells from that
whether the model collapses. To change: a reward, which is a callable as in `preferences.rewards`. Loops and losses are
TRL's.
"""

from ....common.lazy import lazy_names

_HOME = {"GroupReward": "reward", "OnlineSettings": "settings", "collapse": "signs", "training_report": "report"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
