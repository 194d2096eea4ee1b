"""Checking that what lies in a folder is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.records.verify import Verified, verify_folder
from .common import app, say


@app.command(epilog="Example: expandr verify pocket.faiss")
def verify(
    folder: Annotated[Path, typer.Argument(help="An index, a saved system, results, a trained model, or several.")],
) -> None:
    """Read every file of an artefact and compare it with the SHA-256 that was recorded when it was written."""
    found = verified(folder)
    if found.problems:
        listed = "\n  ".join(found.problems)
        raise ValueError(f"{len(found.problems)} problem(s) in {str(folder)!r}:\n  {listed}")
    say(f"{found.files} files in {found.records} records of {folder} are as they were written")


def verified(folder: Path) -> Verified:
    """`verify_folder`, and cells that an experiment says are finished but that are gone, or cells without experiment.

    Raises:
        FileNotFoundError: there is no such folder. ValueError: nothing in it has a record.

    Example:
        >>> verified(Path("results")).problems  # doctest: +SKIP
        []
    """
    from ..evaluation.cell_files import CELL
    from ..evaluation.result_store import EXPERIMENT, missing_cells

    found = verify_folder(folder)
    experiments = {path.parent for path in folder.rglob(EXPERIMENT)}
    experiments |= {path.resolve().parents[2] for path in folder.rglob(CELL)}
    for place in sorted(experiments):
        found.attempt(missing_cells, place)
    return found
