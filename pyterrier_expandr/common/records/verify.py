"""A complete check of everything below a folder that has a record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .manifest import FILES, check_files, check_inside, read_record, record_at

#: PyTerrier's note on an artefact, and the record that each format of this package has beside it
PT_METADATA = "pt_meta.json"
RECORD_OF = {"expandr": "expandr_system.json", "expandr_faiss": "expandr_faiss.json"}
MEND = "make it again, or copy or download it again"


@dataclass
class Verified:
    """What `verify_folder` compared: the number of records and of files, and one sentence for each problem."""

    records: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)

    def attempt(self, check: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
        """Call a check, keep the message of the error that it raises, and return whether there was none."""
        try:
            check(*arguments, **options)
        except (ValueError, OSError) as error:
            self.problems.append(str(error))
            return False
        return True


def verify_folder(folder: Path) -> Verified:
    """Read all files below `folder` that a record lists, and compare them with it.

    Raises:
        FileNotFoundError: there is no such folder. ValueError: nothing in it has a record.

    Example:
        >>> verify_folder(Path("pocket.faiss")).problems  # doctest: +SKIP
        []
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    found = Verified()
    found.attempt(check_inside, folder)
    candidates = [path for path in sorted(folder.rglob("*.json")) if path.is_file() and not path.is_symlink()]
    records = {path: record for path in candidates if (record := record_at(path)) is not None}
    listed: dict[Path, tuple[Path, str, Any]] = {}
    for path, record in records.items():
        whole = found.attempt(read_record, path, MEND)
        for name, written in dict(record.get(FILES) or {}).items() if whole else ():
            listed.setdefault(path.parent / name, (path.parent, name, written))  # a system lists its index's files too
    for place, name, written in listed.values():
        found.attempt(check_files, place, {name: written}, MEND, content=True)
    for path in candidates:
        if path not in records and path not in listed:  # perhaps a record: nothing else tells what it was
            found.attempt(_parse, path)
    for path in folder.rglob(PT_METADATA):
        found.attempt(_has_record, path)
    found.records, found.files = len(records), len(listed)
    if not records and not found.problems:
        raise ValueError(
            f"nothing in {str(folder)!r} has a record of what was written: it is not of this package, or of an earlier "
            "release, whose files can only be opened"
        )
    return found


def _has_record(path: Path) -> None:
    try:
        record = RECORD_OF.get(json.loads(path.read_text(encoding="utf-8")).get("format"))
    except (ValueError, AttributeError):
        return  # as a file of the artefact it has been compared already
    if record is not None and not (path.parent / record).is_file():
        raise ValueError(f"{str(path.parent)!r} is damaged: {record} is missing; {MEND}")


def _parse(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): {MEND}") from error
