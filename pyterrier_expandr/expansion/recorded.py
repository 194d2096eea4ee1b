"""The JSONL format of recorded expansions: one query per line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.frames import without_surrogates
from ..common.jsonl import read_jsonl, write_jsonl


@dataclass
class Record:
    """The recorded expansions of one query, in file order."""

    qid: str | None
    query: str | None
    passages: list[str] = field(default_factory=list)


def read_expansions(source: str | Path | list[dict[str, Any]]) -> tuple[dict[str, Record], dict[str, Record]]:
    """Recorded expansions by qid (lines with `query_id`) and by query text (lines with `query`).

    Raises:
        ValueError: a line is malformed or lacks fields; the message has file and line number. FileNotFoundError: the
            file does not exist.
    """
    by_qid: dict[str, Record] = {}
    by_query: dict[str, Record] = {}
    for where, row in _rows(source):
        qid, query, passages = _fields(where, row)
        record = _of_qid(qid, query, by_qid, by_query) if qid is not None else None
        if record is None:
            record = by_query.setdefault(str(query), Record(None, query))
        elif query is not None and record.query is not None and record.query != query:
            raise ValueError(f"{where}: query_id {qid!r} occurs twice, with different queries")
        record.passages.extend(passages)
        if query is not None:
            by_query.setdefault(query, record)
    return by_qid, by_query


def _of_qid(qid: str, query: str | None, by_qid: dict[str, Record], by_query: dict[str, Record]) -> Record:
    """The record of `qid`, including any passages that earlier lines recorded for its query without a qid."""
    if qid not in by_qid:
        earlier = by_query.get(query) if query is not None else None
        by_qid[qid] = earlier if earlier is not None and earlier.qid is None else Record(qid, query)
        by_qid[qid].qid = qid
    return by_qid[qid]


def _rows(source: str | Path | list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    if not isinstance(source, (str, Path)):
        for number, row in enumerate(source, 1):
            yield f"record {number}", row
        return
    yield from read_jsonl(source)


def _fields(where: str, row: Any) -> tuple[str | None, str | None, list[str]]:
    given = {name for name, value in row.items() if value is not None} if isinstance(row, dict) else set()
    if not ({"query_id", "query"} & given and {"passage", "passages"} & given):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where} needs query_id or query, and passage or passages; it has {found}")
    passages = row["passages"] if "passages" in given else [row["passage"]]
    if not isinstance(passages, list) or not all(isinstance(text, str) for text in passages):
        raise ValueError(f"{where}: passage must be a string, passages a list of strings")
    qid, query = row.get("query_id"), row.get("query")
    text = None if query is None else without_surrogates(str(query))
    return None if qid is None else str(qid), text, [without_surrogates(passage) for passage in passages]


def write_expansions(path: str | Path, frame: pd.DataFrame) -> None:
    """Write `[qid, query, query_expansions]` for `RecordedExpander`; the file appears only once it is complete."""
    rows = zip(frame["qid"], frame["query"], frame["query_expansions"], strict=True)
    write_jsonl(
        path,
        (
            {"query_id": str(qid), "query": without_surrogates(query), "passages": list(texts)}
            for qid, query, texts in rows
        ),
    )
