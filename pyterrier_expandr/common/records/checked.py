"""Which folders were read completely and found undamaged on this machine, so that it is done once for each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import cache_folder, write_json
from ..fingerprint import digest
from .manifest import FILES, SEAL, check_files

#: number of records remembered; older ones are read again
MOST = 10_000


class Checked:
    """The records whose files were read completely before; `save` adds those that were checked since.

    Example:
        >>> checked = Checked()
        >>> checked.check(Path("cell.json"), {"means": {}}, "an older record lists no files, so none is read")
        >>> checked.save()
    """

    def __init__(self) -> None:
        self._known, self._fresh = set(_read()), list[str]()

    def check(self, path: Path, record: dict[str, Any], mend: str) -> None:
        """Compare every byte of the files that a record lists, unless that was done before at this place.

        Args:
            path: the record.
            record: its content.
            mend: what to do about damage; the end of the message.

        Raises:
            ValueError: a file differs from what was written.
        """
        if FILES in record and (key := key_of(path, record)) not in self._known:
            check_files(path.parent, record[FILES], mend, content=True)
            self._fresh.append(key)

    def save(self) -> None:
        """Remember what was checked."""
        remember(self._fresh)


def check_once(path: Path, record: dict[str, Any], mend: str) -> None:
    """`Checked.check` of a single record."""
    checked = Checked()
    checked.check(path, record, mend)
    checked.save()


def key_of(path: Path, record: dict[str, Any]) -> str:
    """The identity of a record at its place: a folder that is copied or downloaded is another one."""
    return digest([str(path.resolve()), record.get(SEAL)])


def remember(keys: Iterable[str]) -> None:
    """Add keys; without a cache folder that can be written, nothing is remembered and the check is repeated."""
    before = _read()
    if fresh := [key for key in keys if key not in set(before)]:
        with suppress(OSError):
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_json(_file(), [*before, *fresh][-MOST:])


def _read() -> list[str]:
    try:
        keys = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return keys if isinstance(keys, list) else []


def _file() -> Path:
    return cache_folder() / "checked.json"
