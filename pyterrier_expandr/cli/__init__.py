"""The command `expandr`: thin commands over the package's own classes, one file for each family of them."""

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
