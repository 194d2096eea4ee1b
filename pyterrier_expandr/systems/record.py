"""The record of a saved system: read only if it and the files that it lists are what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..common.records.checked import check_once
from ..common.records.manifest import FILES, check_files, check_inside
from ..common.records.manifest import read_record as read_json_record

#: version 2 has a lexical index; a system without one is written as 1, which older releases can read
FORMAT_VERSION = 2
RECORD = "expandr_system.json"
#: what to do about a damaged system
MEND = "save the system again, or copy or download it again"


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a saved system, after a check of its files: sizes always, contents the first time at this place.

    Raises:
        FileNotFoundError: there is none. ValueError: the record is damaged or newer, a file is damaged, or a file or
            the encoder is outside the folder.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no ExpandR system: it has no {RECORD}")
    record = read_json_record(path, MEND, newest=FORMAT_VERSION)
    if record.get("format_version", 0) > FORMAT_VERSION:
        raise ValueError(
            f"the system in {str(folder)!r} has format {record['format_version']}, this release reads up to "
            f"{FORMAT_VERSION}: upgrade pyterrier_expandr"
        )
    if missing := [name for name in ("format_version", "encoder", "expander", "index") if name not in record]:
        raise ValueError(f"{str(path)!r} is damaged (it lacks {missing}): {MEND}")
    check_inside(folder)
    check_files(folder, record.get(FILES, {}), MEND)
    check_once(path, record, MEND)
    return record


@contextmanager
def understood(folder: Path) -> Iterator[None]:
    """Say that a record is damaged where it lacks what its reader needs, or has something of another kind there."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(folder / RECORD)!r} is damaged ({type(error).__name__}: {error}): {MEND}") from error
