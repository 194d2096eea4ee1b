"""Checking that what lies in a folder is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.verify import verify as verify_folder
from .common import app


@app.command(epilog="Example: expandr verify pocket.faiss")
def verify(
    folder: Annotated[Path, typer.Argument(help="An index, a saved system, results, a trained model, or several.")],
) -> None:
    """Read every file of an artefact and compare it with the SHA-256 that was recorded when it was written."""
    found = verify_folder(folder)
    if found.problems:
        listed = "\n  ".join(found.problems)
        raise ValueError(f"{len(found.problems)} problem(s) in {str(folder)!r}:\n  {listed}")
    typer.echo(f"{found.files} files in {found.records} records of {folder} are as they were written")
