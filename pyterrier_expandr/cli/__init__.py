"""The command `expandr`: arguments in, files and lines out; thin commands over the package's own classes.

One file per family of commands; `common` has the app and shared options, `errors` the messages shown when a command
cannot continue, `signals` how it is stopped, `demo` the content of `expandr demo`. To change: a command, its help. What
a command computes belongs in a package below.
"""

from __future__ import annotations

from ..common.lazy import lazy_names
from .errors import answered
from .signals import stoppable

_HOME = {"app": "commands"}
_lazy, __dir__ = lazy_names(__name__, _HOME)


def __getattr__(name: str) -> object:
    return _lazy(name)


def main() -> None:
    """Run the command line; what the user can fix, and a signal, gives one line and no traceback.

    The exit status is 2 for an error that the user can fix, 1 for a bug, 130 after Ctrl-C and 143 after SIGTERM.
    """
    with stoppable(), answered():
        from .commands import app  # inside, since opening a library's folders can fail as well

        app()
