"""The first tab of the page: the tables of an experiment, and the differences from a baseline."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...evaluation.results import Results
from ..formats import short_header
from ..result_tables import LEVEL
from ..tables import Table


def report_tab(
    results: Results, tables: list[Table], compared: pd.DataFrame | None, baseline: str | None, about: list[str]
) -> dict[str, Any]:
    """What the template's first tab shows; notes that all tables share are given once.

    Args:
        results: the experiment.
        tables: what `result_tables` returns.
        compared: `results.compare(baseline, correction="holm")`, or None.
        baseline: the system that others were tested against.
        about: where the numbers come from.
    """
    shared = [note for note in tables[0].notes if all(note in table.notes for table in tables)] if tables else []
    return {
        "tables": [_table(table, [note for note in table.notes if note not in shared]) for table in tables],
        "shared": shared,
        "about": about,
        "baseline": baseline,
        "differences": [] if compared is None else _differences(results, compared, str(baseline)),
    }


def _table(table: Table, notes: list[str]) -> dict[str, Any]:
    by_row = table.layout == "systems"
    rows = []
    for number, (label, cells) in enumerate(table.rows()):
        flags = [table.lines[number].beside] * len(cells) if by_row else [line.beside for line in table.lines]
        rows.append((label, number in table.rules(), list(zip(cells, flags, strict=True))))
    header, groups = short_header(table), table.groups()
    return {"title": table.title, "groups": groups, "header": header, "rows": rows, "notes": notes}


def _differences(results: Results, compared: pd.DataFrame, baseline: str) -> list[dict[str, Any]]:
    """Each difference with its p-value, and how many queries gain and lose."""
    values = results.per_query.pivot(index=["collection", "qid"], columns=["measure", "system"], values="value")
    out = []
    for row in compared.to_dict(orient="records"):
        single = values.index.get_level_values(0) == row["collection"]  # averages have no queries of their own
        change = (values[row["measure"], row["system"]] - values[row["measure"], baseline])[single].dropna()
        counts = [int((change > 0).sum()), int((change < 0).sum()), int((change == 0).sum())] if len(change) else None
        significant = bool(row["p_corrected"] < LEVEL)
        sign = "better" if row["difference"] > 0 else "worse"
        named = {str(name): value for name, value in row.items()}
        out.append({**named, "counts": counts, "verdict": sign if significant else ""})
    return out
