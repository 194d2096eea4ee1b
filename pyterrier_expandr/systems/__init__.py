"""Expander, encoder and index in, one artefact out: `expandr.ExpandR` indexes, searches, is saved, loaded and checked.

`store` is its folder on disk; `names` opens a system as the command line and recipes name it. To touch: the grammar of
names. The folder's layout has a version (`store.FORMAT_VERSION`).
"""

from ..common.lazy import lazy_names

_HOME = {"ExpandR": "expandr", "SystemOpener": "names"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
