"""Expander, encoder and indexes in, one artefact out: `expandr.ExpandR`, which is saved, loaded and checked as a whole.

`store` is its folder on disk; `names` opens a system as the command line and recipes name it; `baselines` are other
ways to use passages; `tuning` chooses the numbers of a system on training queries, and `settings` writes them down. To
touch: the grammar of names, a baseline, the grid. The folder's layout has a version (`store.FORMAT_VERSION`).
"""

from ..common.lazy import lazy_names

_HOME = {
    "ExpandR": "expandr",
    "HybridSettings": "settings",
    "SystemOpener": "names",
    "TunedSettings": "settings",
    "tune": "tuning",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
