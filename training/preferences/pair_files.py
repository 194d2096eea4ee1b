"""Preference pairs as files: TRL's conversational rows, and the rows of the released training data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...common.files import path_of, replacing
from ...common.jsonl import read_jsonl, write_jsonl
from ...common.records.manifest import check_beside
from ...expansion.prompts import render, resolve_prompt
from ..data.chunks import in_chunks
from .choice import Decision

#: number of rows held in memory when writing Parquet
ROW_GROUP = 1024


def trl_row(decision: Decision, prompt: str = "q2d") -> dict[str, Any]:
    """A pair as TRL reads it: `prompt`, `chosen` and `rejected` are lists of chat messages.

    It also has `query_id`, `chosen_reward`, `rejected_reward`, `chosen_candidate` and `rejected_candidate` (their
    indices among the query's candidates, from 0).

    Raises:
        ValueError: the query was dropped, so there is no pair.
    """
    if decision.chosen is None or decision.rejected is None:
        raise ValueError(f"query {decision.of.query_id!r} gives no pair: {decision.dropped}")
    texts = decision.of.candidates
    return {
        "query_id": decision.of.query_id,
        "prompt": list(render(resolve_prompt(prompt), query=decision.of.query)),
        "chosen": [{"role": "assistant", "content": texts[decision.chosen]}],
        "rejected": [{"role": "assistant", "content": texts[decision.rejected]}],
        "chosen_reward": decision.rewards[decision.chosen],
        "rejected_reward": decision.rewards[decision.rejected],
        "chosen_candidate": decision.chosen,
        "rejected_candidate": decision.rejected,
    }


def released_row(row: dict[str, Any]) -> dict[str, Any]:
    """A TRL row in the format of the released training data; rewards and candidate indices are left out.

    Example:
        >>> row = {side: [{"role": "assistant", "content": side}] for side in ("prompt", "chosen", "rejected")}
        >>> released_row(row)["chosen"]
        {'from': 'gpt', 'value': 'chosen'}
    """
    return {
        "conversations": [{"from": "human", "value": row["prompt"][-1]["content"]}],
        "chosen": {"from": "gpt", "value": row["chosen"][-1]["content"]},
        "rejected": {"from": "gpt", "value": row["rejected"][-1]["content"]},
    }


def _from_released(row: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return {
            "prompt": [{"role": "user", "content": row["conversations"][0]["value"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]["value"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]["value"]}],
        }
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{where} has conversations but is not a row of the released data, which needs a first turn, and chosen "
            f"and rejected with a value each; it has {sorted(row)}"
        ) from error


def write_pairs(path: str | Path, rows: Iterable[dict[str, Any]], *, released: bool = False) -> int:
    """Write TRL rows to a JSONL or Parquet file (by suffix) and return their number; it appears only when complete.

    Args:
        path: ends in .jsonl or .parquet.
        rows: as returned by `trl_row`.
        released: write the format of the released training data.

    Raises:
        ValueError: any other suffix. OSError: the disk is full; no file is left behind.
    """
    path = Path(path_of(path))
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"pairs are written as .jsonl or .parquet, got {path.name!r}")
    rows = map(released_row, rows) if released else rows
    return write_jsonl(path, rows) if path.suffix == ".jsonl" else _write_parquet(path, rows)


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunks = in_chunks(rows, ROW_GROUP)
    with replacing(path) as part:
        table = pa.Table.from_pylist(next(chunks, []))
        count = table.num_rows
        with pq.ParquetWriter(part, table.schema) as writer:
            writer.write_table(table)
            for chunk in chunks:
                writer.write_table(pa.Table.from_pylist(chunk, schema=table.schema))
                count += len(chunk)
    return int(count)


def read_pairs(path: str | Path) -> Iterator[dict[str, Any]]:
    """TRL rows of a file in either format, JSONL or Parquet.

    Raises:
        ValueError: a malformed line, a row in neither format (file, line and the fields found are named), or a file of
            another size than `build_pairs` recorded next to it.
        FileNotFoundError: there is no such file.
    """
    path = Path(path_of(path))
    check_beside(path, "pairs.json", "copy the pairs again, or make them again")
    for where, row in _rows(path):
        if "conversations" in row:
            yield _from_released(row, where)
        elif {"prompt", "chosen", "rejected"} <= row.keys():
            yield row
        else:
            raise ValueError(
                f"{where} is not a preference pair: it needs prompt, chosen and rejected (or conversations), "
                f"but has {sorted(row)}"
            )


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".parquet":
        yield from read_jsonl(path)
        return
    import pyarrow.parquet as pq

    rows = (row for batch in pq.ParquetFile(path).iter_batches() for row in batch.to_pylist())
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", row
