"""The command `expandr`: arguments in, files and lines out; thin commands over the package's own classes.

One file for each family of commands; `common` has the app and the options that several share, `demo` what
`expandr demo` shows. To touch: a command, its help. What a command computes belongs in a room below.
"""

from __future__ import annotations

import sys

import typer

from . import (  # noqa: F401  their commands register themselves with the app
    analyse,
    experiment,
    report,
    retrieve,
    train,
    train_expander,
    train_recipe,
    train_retriever,
)
from .common import app


def main() -> None:
    """Run the command line; an error that the user can mend is one line and exit status 2, without a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"expandr: error: {error}", err=True)
        sys.exit(2)
