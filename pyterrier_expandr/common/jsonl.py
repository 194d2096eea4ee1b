"""Files with one JSON object per line: errors name the line, and written files appear only once complete."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .files import path_of, replacing
from .utf8 import decoded


def read_jsonl(
    path: str | Path, fields: Iterable[str] = (), *, skipped: Counter[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `("FILE:LINE", object)` for each line of a JSONL file that is not blank.

    Args:
        path: the file, in UTF-8.
        fields: the fields that each object must have.
        skipped: if given, broken lines are skipped and counted here under "broken line".

    Raises:
        ValueError: a line is not UTF-8, not a JSON object, or lacks one of `fields`; the message names file, line and
            what was found.
        FileNotFoundError: the file does not exist.
    """
    wanted = list(fields)
    with open(path_of(path), "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                yield where, _object(decoded(line, str(path), number), where, wanted)
            except ValueError:
                if skipped is None:
                    raise
                skipped["broken line"] += 1


def _object(line: str, where: str, wanted: list[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}; fix or remove the line") from error
    if not isinstance(row, dict) or not row.keys() >= set(wanted):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where} must have the fields {wanted}, but has {found}")
    return row


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write `rows` and return their number; the file appears only once complete, and a failure leaves nothing behind.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    target = path_of(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(target) as part, open(part, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
