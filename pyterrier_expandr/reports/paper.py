"""The paper's printed numbers: as one table, checked against their own averages, and looked up by row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

PATH = Path(__file__).with_name("paper.json")

#: the averages and how many of the first of the 15 collections they leave out (MS MARCO is the first)
AVERAGES = {"Avg.BEIR14": 1, "Avg.All": 0}

#: the paper's tables of retrieval scores: number, key in the file, measure
TABLES = (
    (2, "table2_ndcg10", "nDCG@10"),
    (3, "table3_ablation_ndcg10", "nDCG@10"),
    (5, "table5_ndcg10", "nDCG@10"),
    (6, "table6_recall100", "R@100"),
    (7, "table7_qwen_ndcg10", "nDCG@10"),
    (8, "table8_cross_retriever_ndcg10", "nDCG@10"),
)

#: printed as R@100, but taken from the BEIR paper, which caps recall on TREC-COVID (hits / min(100, relevant))
CAPPED_RECALL = {(6, "BM25", "TREC-COVID"), (6, "DPR", "TREC-COVID")}


@lru_cache(maxsize=1)
def raw() -> dict[str, Any]:
    """The unmodified file of published numbers; `raw()["source"]` says where they come from.

    Example:
        >>> raw()["source"]["doi"]
        '10.18653/v1/2025.emnlp-main.963'
    """
    data: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return data


def paper_scores() -> pd.DataFrame:
    """Every retrieval score that the paper prints: `[table, measure, system, collection, value, unit]`.

    `value` is in percent, as printed. `unit` is that of the last decimal place that the paper prints for the system
    (0.1 or 0.01). Systems are named as in the paper: "BM25", "Contriever/ExpandR", in Table 3
    "AnchorDR/w/o Self-Reward". The rows "Avg.BEIR14", "Avg.All" and, in Table 3, "Avg" are the printed averages.

    Example:
        >>> scores = paper_scores()
        >>> row = scores[(scores.system == "AnchorDR/ExpandR") & (scores.collection == "NQ") & (scores.table == 2)]
        >>> row[["measure", "value", "unit"]].values.tolist()
        [['nDCG@10', 55.91, 0.01]]
    """
    rows = [
        (number, measure, system, collection, value)
        for number, key, measure in TABLES
        for system, collection, value in _cells(number, raw()[key])
    ]
    frame = pd.DataFrame(rows, columns=["table", "measure", "system", "collection", "value"])
    two_places = (frame["value"] * 10 % 1).round(6).between(1e-6, 1 - 1e-6)
    precise = two_places.groupby([frame["table"], frame["system"]]).transform("any")
    return frame.assign(unit=precise.map({True: 0.01, False: 0.1}))


def _cells(number: int, table: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(system, collection, value); Table 3 is the one whose rows are systems, under a retriever."""
    if number == 3:
        return [
            (f"{retriever}/{system}", collection, value)
            for retriever, systems in table.items()
            for system, values in systems.items()
            for collection, value in values.items()
        ]
    return [(system, collection, value) for collection, row in table.items() for system, value in row.items()]


def check_averages() -> pd.DataFrame:
    """Each printed average next to the one computed from its rows.

    Columns: `[table, system, average, printed, computed, verdict]`, averages in percent. `verdict` is "equal" if
    the computed average rounds to the printed one; "rounding" if it differs by less than one unit of the last
    printed place, which rounded rows can explain; otherwise the error: "swapped" (the two averages are in each
    other's place) or "differs from its rows".

    Example:
        >>> set(check_averages().query("verdict == 'swapped'").system)
        {'DPR'}
    """
    rows: list[tuple[Any, ...]] = []
    for (number, system), scores in paper_scores().groupby(["table", "system"], sort=False):
        printed = scores.set_index("collection")["value"]
        means = {name: float(_members(name, printed).mean()) for name in printed.index if name.startswith("Avg")}
        unit = float(scores["unit"].iloc[0])
        verdicts = {name: _verdict(printed[name], mean, unit) for name, mean in means.items()}
        swapped = len(means) == 2 and all(
            _verdict(printed[name], mean, unit) != "differs from its rows"
            for name, mean in zip(means, reversed(means.values()), strict=True)
        )
        for name, mean in means.items():
            wrong = verdicts[name] == "differs from its rows" and swapped
            rows.append((number, system, name, printed[name], mean, "swapped" if wrong else verdicts[name]))
    return pd.DataFrame(rows, columns=["table", "system", "average", "printed", "computed", "verdict"])


def _members(average: str, printed: pd.Series) -> pd.Series:
    rows = printed[[not name.startswith("Avg") for name in printed.index]]
    return rows.iloc[AVERAGES.get(average, 0) :]


def _verdict(printed: float, computed: float, unit: float) -> str:
    """How a printed average relates to the mean of printed rows: each of the two is off by up to half a unit."""
    distance = abs(printed - computed)
    if distance <= unit / 2 + 1e-9:
        return "equal"
    return "rounding" if distance < unit else "differs from its rows"


def inconsistencies() -> pd.DataFrame:
    """The printed averages that their own rows contradict; the columns of `check_averages`.

    Example:
        >>> inconsistencies()[["table", "system"]].drop_duplicates().values.tolist()
        [[6, 'DPR'], [8, 'AnchorDR/vanilla']]
    """
    checked = check_averages()
    return checked[~checked["verdict"].isin(["equal", "rounding"])].reset_index(drop=True)


@dataclass(frozen=True)
class PaperRow:
    """One system of one of the paper's tables.

    Attributes:
        table: its number.
        system: the row's name.
        measure: "nDCG@10" or "R@100".
        values: collection or average -> percentage.
        places: number of decimal places that the paper prints.
    """

    table: int
    system: str
    measure: str
    values: dict[str, float]
    places: int


def paper_row(name: str, measure: str) -> PaperRow | None:
    """What the paper prints for one system under one measure; None if it prints nothing under that measure.

    Args:
        name: a system's name in the paper ("Contriever/ExpandR"), taken from the first table that has it under this
            measure; "7:Contriever/ExpandR" names the table.
        measure: "nDCG@10" or "R@100".

    Raises:
        ValueError: no table has such a row under any measure.

    Example:
        >>> paper_row("7:Contriever/ExpandR", "nDCG@10").values["TREC-COVID"]
        48.18
    """
    scores = paper_scores()
    first, _, rest = name.partition(":")
    table, system = (int(first), rest) if first.isdigit() else (None, name)
    found = scores[(scores["system"] == system) & ((scores["table"] == table) | (table is None))]
    if found.empty:
        known = ", ".join(dict.fromkeys(scores["system"]))
        raise ValueError(
            f"the paper's tables have no row {name!r}; the rows are {known} (and, with a table's number, "
            "'7:Contriever/ExpandR')"
        )
    found = found[found["measure"] == measure]
    if found.empty:
        return None
    number = int(found["table"].min())
    found = found[found["table"] == number]
    values = dict(zip(found["collection"], found["value"].tolist(), strict=True))
    return PaperRow(number, system, measure, values, places=1 if found["unit"].iloc[0] == 0.1 else 2)
