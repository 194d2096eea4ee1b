"""Expander, encoder and indexes in, one artefact out: `expandr.ExpandR`, saved, loaded and checked as a whole.

`store` is its folder on disk; `names` opens systems by their names in commands and recipes; `baselines` are other ways
to use passages; `tuning` chooses a system's parameters on training queries, and `settings` stores them; `hub` shares
what was made, with a card from `cards`. To change: the grammar of names, a baseline, the grid. The folder's layout has
a version (`store.FORMAT_VERSION`).
"""

from ..common.lazy import lazy_names

_HOME = {
    "ExpandR": "expandr",
    "HybridSettings": "settings",
    "SystemOpener": "names",
    "TunedSettings": "settings",
    "push_to_hub": "hub",
    "tune": "tuning",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
