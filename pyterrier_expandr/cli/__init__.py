"""The command `expandr`: arguments in, files and lines out; thin commands over the package's own classes.

One file for each family of commands; `common` has the app and the options that several share, `errors` what is said
when a command cannot go on, `demo` what `expandr demo` shows. To touch: a command, its help. What a command computes
belongs in a room below.
"""

from __future__ import annotations

from ..common.lazy import lazy_names
from .errors import answered

_HOME = {"app": "commands"}
_lazy, __dir__ = lazy_names(__name__, _HOME)


def __getattr__(name: str) -> object:
    return _lazy(name)


def main() -> None:
    """Run the command line; an error that the user can mend is one line and exit status 2, without a traceback."""
    with answered():
        from .commands import app  # within, since opening a library's folders can fail as well

        app()
