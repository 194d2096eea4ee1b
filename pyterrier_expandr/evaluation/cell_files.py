"""The files of one cell of an experiment: they are read only as they were written, or not at all."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.frames import expansion_lists
from ..common.jsonl import read_jsonl, write_jsonl
from ..common.records.checked import check_once
from ..common.records.manifest import FILES, check_files, check_inside, read_record

CELL, PER_QUERY, RUN, PASSAGES = "cell.json", "per_query.parquet", "run.res.gz", "passages.jsonl"
PER_QUERY_COLUMNS = ["system", "collection", "qid", "measure", "value"]
#: what to do about a damaged cell
MEND = "run the experiment again, which computes this cell anew, or copy the folder again"


def read_cell(folder: Path) -> dict[str, Any] | None:
    """The record of a cell, or None if it is not finished.

    Raises:
        ValueError: the record is damaged, or a file is missing, has another size or is outside the folder.
    """
    path = folder / CELL
    if not path.is_file():
        return None
    record = read_record(path, MEND)
    kinds: dict[str, Any] = {"fingerprint": str, "means": dict, "n_queries": int, "seconds": (int, float)}
    if wrong := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise ValueError(f"{str(path)!r} is damaged (it lacks {wrong}): {MEND}")
    check_inside(folder)
    check_files(folder, record.get(FILES, {}), MEND)
    for file in (folder / RUN, folder / PER_QUERY):
        if file.is_file() and not file.stat().st_size:
            raise ValueError(f"{str(file)!r} is empty: {MEND}")
    return record


def read_whole_cell(folder: Path) -> dict[str, Any] | None:
    """`read_cell`, with every byte compared (once at this place), or all files of an older cell read."""
    record = read_cell(folder)
    if record is not None and FILES in record:
        check_once(folder / CELL, record, MEND)
    elif record is not None:
        read_run(folder)
        read_per_query(folder)
    return record


def read_run(folder: Path) -> pd.DataFrame:
    """`[qid, docno, rank, score]` of a cell's ranking.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged.
    """
    path = folder / RUN
    record = _unchanged(path)
    names = ["qid", "q0", "docno", "rank", "score", "name"]
    types: Any = {"qid": str, "docno": str, "rank": int, "score": float}
    try:
        frame = pd.read_csv(
            path, sep=" ", names=names, dtype=types, usecols=list(types), quoting=csv.QUOTE_NONE, keep_default_na=False
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if frame.empty:
        raise _damaged(path, "it is empty")
    if (known := record.get("n_queries", 0) - record.get("queries_without_results", 0)) > frame["qid"].nunique():
        raise _damaged(path, f"it has {frame['qid'].nunique()} queries, and {known} had results")
    return frame[["qid", "docno", "rank", "score"]]


def read_per_query(folder: Path) -> pd.DataFrame:
    """`[system, collection, qid, measure, value]` of a cell. Raises as `read_run`."""
    path = folder / PER_QUERY
    record = _unchanged(path)
    try:
        frame = pd.read_parquet(path)
        missing = set(PER_QUERY_COLUMNS) - set(frame.columns)
    except Exception as error:  # Arrow raises many types for a damaged file, some of them its own
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    wanted = record.get("n_queries", 0) * len(record.get("means", ()))
    if missing:
        raise _damaged(path, f"it lacks the columns {sorted(missing)}")
    if FILES not in record and len(frame) < wanted:  # an older cell: nothing else tells whether it is complete
        raise _damaged(path, f"it has {len(frame)} rows instead of {wanted}")
    return frame


def write_run(run: pd.DataFrame, path: Path, name: str) -> None:
    """Write `[qid, docno, rank, score]` as lines `qid Q0 docno rank score name`, compressed, without any quoting."""
    columns = run[["qid", "docno", "rank", "score"]]
    lines = columns.assign(q0="Q0", name="_".join(name.split()))[["qid", "q0", "docno", "rank", "score", "name"]]
    compression: Any = {"method": "gzip", "mtime": 0, "compresslevel": 6}
    lines.to_csv(path, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE, compression=compression)


def write_passages(run: pd.DataFrame, path: Path) -> None:
    """Write the passages of a run's queries; a run without `query_expansions` leaves no file."""
    path.unlink(missing_ok=True)
    if "query_expansions" in run:
        first = run.drop_duplicates("qid")
        rows = zip(first["qid"], expansion_lists(first), strict=True)
        write_jsonl(path, ({"query_id": qid, "passages": texts} for qid, texts in rows))


def read_passages(folder: Path) -> dict[str, list[str]]:
    """The passages of each query of a cell by qid; none if it has no such file. Raises ValueError if it is damaged."""
    path = folder / PASSAGES
    if not path.is_file():
        return {}
    _unchanged(path)
    return {row["query_id"]: row["passages"] for _, row in read_jsonl(path, ("query_id", "passages"))}


def _unchanged(path: Path) -> dict[str, Any]:
    """The record of the cell that `path` belongs to, after comparing the content of `path` with it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    record = read_record(path.parent / CELL, MEND) if (path.parent / CELL).is_file() else {}
    listed = record.get(FILES, {})
    check_files(path.parent, {path.name: listed[path.name]} if path.name in listed else {}, MEND, content=True)
    return record


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{str(path)!r} is damaged ({reason:.200}): {MEND}")
