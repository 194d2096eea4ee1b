"""The command `expandr`: arguments in, files and lines out; thin commands over the package's own classes.

One file per family of commands; `common` has the app and shared options, `errors` the messages shown when a command
cannot continue, `demo` the content of `expandr demo`. To change: a command, its help. What a command computes belongs
in a package below.
"""

from __future__ import annotations

from ..common.lazy import lazy_names
from .errors import answered

_HOME = {"app": "commands"}
_lazy, __dir__ = lazy_names(__name__, _HOME)


def __getattr__(name: str) -> object:
    return _lazy(name)


def main() -> None:
    """Run the command line; an error that the user can fix gives one line and exit status 2, without a traceback."""
    with answered():
        from .commands import app  # inside, since opening a library's folders can fail as well

        app()
