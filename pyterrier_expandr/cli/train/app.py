"""The group `expandr train`, and what its commands share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..common import Commands, app, say

train = Commands(help="Make training data, and train both models.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train, name="train")


def show_record(file: Path, names: Iterable[str]) -> None:
    """Print fields of a finished run's record, which only one process of a distributed run has."""
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        say(f"{json.dumps({name: record[name] for name in names}, indent=1)}\nin {file.parent}")


def shares(given: list[str], option: str) -> dict[str, float]:
    """NAME=NUMBER options as a dictionary. Raises ValueError for any other form, or a name given twice."""
    try:
        pairs = [(name, float(share)) for name, share in (one.rsplit("=", 1) for one in given)]
    except ValueError as error:
        raise ValueError(f"{option} must have the form NAME=NUMBER, such as nq=0.1, got {given}") from error
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{option} names something twice: {given}")
    return found
