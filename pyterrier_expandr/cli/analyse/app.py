"""The group `expandr analyse`, and the options that its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Commands, app

analyse = Commands(
    help="Explain a result: numbers to the terminal, a picture to --out.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(analyse, name="analyse")

Expansions = Annotated[
    list[str], typer.Option(help="NAME=FILE, a JSONL file of `expandr expand`; repeat it for each system.")
]


def _checked(path: Path | None) -> Path | None:
    """Check a figure's name before the work, not after it."""
    from ...analysis.figures import check_picture

    check_picture(path)
    return path


Picture = Annotated[Path | None, typer.Option(help="Save the picture here: .svg, .png or .pdf.", callback=_checked)]
