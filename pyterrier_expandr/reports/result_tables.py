"""The tables of an experiment, one for each measure, next to the paper's; every number is read from `Results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from .. import __version__
from ..evaluation.averages import AVERAGES
from ..evaluation.results import Results
from .paper import raw
from .paper_comparison import STATED, UNLIKE, Beside, beside_paper, settings_of
from .tables import Cell, Layout, Line, Table, with_best

#: differences with a corrected p-value below this are significant
LEVEL = 0.05

BETTER, WORSE = "†", "‡"


def nothing_computed(results: Results) -> ValueError:
    """The error for an experiment without any finished cell: it was not run, or names what failed first."""
    why = "run the experiment first"
    if len(results.failures):
        system, collection, error = results.failures.iloc[0]
        why = f"{system} on {collection} failed: {error}"
    return ValueError(f"nothing has been computed yet in {str(results.folder)!r}: {why}")


def result_tables(
    results: Results,
    *,
    compared: pd.DataFrame | None = None,
    baseline: str | None = None,
    paper: Mapping[str, str] | None = None,
    measures: Sequence[str] | None = None,
    layout: Layout = "collections",
) -> tuple[list[Table], list[str]]:
    """A table for each measure, and notes on where the numbers come from; the arguments are those of `report`.

    Args:
        results: `Results.load(folder)`.
        compared: `results.compare(baseline, correction="holm")`; None tests nothing.
        baseline: the system that others were tested against.
        paper: system -> the paper's row.
        measures: defaults to those of the experiment.
        layout: what makes a row.

    Raises:
        ValueError: nothing has been computed yet; an unknown layout, system, measure or paper row.

    Example:
        >>> tables, notes = result_tables(Results.load("out"))  # doctest: +SKIP
    """
    if layout not in ("collections", "systems"):
        raise ValueError(f'layout must be "collections" or "systems", got {layout!r}')
    if unknown := [name for name in paper or {} if name not in results.systems]:
        raise ValueError(f"there are no systems {unknown}: the experiment has {results.systems}")
    if unknown := [name for name in measures or [] if name not in results.measures]:
        raise ValueError(f"there are no measures {unknown}: the experiment has {results.measures}")
    means = with_plain_average(results.means())
    if means.empty:
        raise nothing_computed(results)
    tables = []
    for measure in measures or results.measures:
        values = means[means["measure"] == measure]
        if len(values):
            tests = None if compared is None else compared[compared["measure"] == measure]
            tables.append(_table(results, values, tests, baseline, paper or {}, layout))
    return tables, _about(results, paper or {})


def with_plain_average(means: pd.DataFrame) -> pd.DataFrame:
    """`Results.means` with "Avg", the mean over all collections, if there are several and none of the paper's averages.

    As in the paper's Table 3; only for systems that have a value on every collection.
    """
    names = set(means["collection"])
    if len(names) < 2 or any(name.startswith("Avg") for name in names):
        return means
    complete = means.groupby(["system", "measure"], sort=False)["value"].agg(["mean", "size"]).reset_index()
    complete = complete[complete["size"] == len(names)].rename(columns={"mean": "value"})
    return pd.concat([means, complete.assign(collection="Avg")[list(means.columns)]], ignore_index=True)


def _table(
    results: Results,
    values: pd.DataFrame,
    compared: pd.DataFrame | None,
    baseline: str | None,
    paper: Mapping[str, str],
    layout: Layout,
) -> Table:
    """The table of one measure; `values` and `compared` contain only its rows."""
    measure = str(values["measure"].iloc[0])
    scale = 100 if values["value"].max() <= 1 else 1
    found = list(dict.fromkeys(values["collection"]))
    cells = _cells(values, scale, {} if compared is None else _daggers(compared))
    beside = {system: beside_paper(name, measure, settings_of(results, system)) for system, name in paper.items()}
    lines = []
    for system in results.systems:
        own = cells.get(system, {})
        lines.append(Line(system, own))
        if system in beside:
            theirs = {name: _paper_cell(own[name], each) for name, each in beside[system].items() if name in own}
            lines.append(Line(f"paper: {paper[system]}", theirs, beside=True))
    notes = [f"{'Percent. ' if scale == 100 else ''}Bold: the best. Underlined: the second."]
    if compared is not None:
        notes += _test_notes(compared, str(baseline))
    notes += [*_paper_notes(beside, measure), *_missing(results)]
    averages = [name for name in found if name.startswith("Avg")]
    return Table(measure, lines, [name for name in found if name not in averages], averages, notes, layout)


def _cells(values: pd.DataFrame, scale: int, marks: Mapping[tuple[str, str], str]) -> dict[str, dict[str, Cell]]:
    """Cells by system and collection."""
    cells: dict[str, dict[str, Cell]] = {}
    for collection, column in values.groupby("collection", sort=False):
        scores = dict(zip(column["system"], column["value"] * scale, strict=True))
        for system, cell in with_best(scores).items():
            mark = marks.get((system, str(collection)), "")
            cells.setdefault(system, {})[str(collection)] = replace(cell, mark=mark)
    return cells


def _daggers(compared: pd.DataFrame) -> dict[tuple[str, str], str]:
    significant = compared[compared["p_corrected"] < LEVEL]
    keys = zip(significant["system"], significant["collection"], strict=True)
    return dict(zip(keys, [BETTER if each > 0 else WORSE for each in significant["difference"]], strict=True))


def _test_notes(compared: pd.DataFrame, baseline: str) -> list[str]:
    notes = [
        f"{BETTER} better, {WORSE} worse than {baseline} with p < {LEVEL}: paired permutation test over queries, "
        "Holm-corrected for the number of systems."
    ]
    if any(name in AVERAGES for name in compared["collection"]):
        notes.append("Averages are tested with the weights that they give to queries.")
    if untested := sorted(set(compared.loc[compared["p_value"].isna(), "collection"])):
        notes.append(f"One query only, so that no test is possible: {', '.join(untested)}.")
    return notes


def _paper_cell(ours: Cell, beside: Beside) -> Cell:
    """The paper's value and how far ours is above it; no difference if the settings differ."""
    printed = f"{beside.value:.{beside.places}f}"
    if beside.unlike:
        return Cell(printed, mark=UNLIKE)
    difference = f"{float(ours.text) - beside.value:+.{beside.places}f}"
    return Cell(f"{printed} ({difference})", mark=STATED if beside.stated else "")


def _paper_notes(beside: Mapping[str, Mapping[str, Beside]], measure: str) -> list[str]:
    """Notes on the signs next to the paper's values: how the settings differ, reason by reason."""
    if not beside:
        return []
    notes = ["paper: the value printed there, and in brackets ours minus that."]
    if nothing := [system for system, row in beside.items() if not row]:
        notes.append(f"The paper prints no {measure} on these collections beside {', '.join(nothing)}.")
    if any(each.stated and not each.unlike for row in beside.values() for each in row.values()):
        notes.append(f"{STATED} that the retriever is the paper's is not recorded; whoever made this report says so.")
    places: dict[str, list[str]] = {}
    for system, row in beside.items():
        for collection, each in row.items():
            for reason in each.unlike:
                places.setdefault(reason, []).append(f"{system} on {collection}")
    return notes + [f"{UNLIKE} not comparable, {reason}: {', '.join(where)}." for reason, where in places.items()]


def _missing(results: Results) -> list[str]:
    """Notes on cells that failed or have not been computed yet."""
    notes = [
        f"Failed: {system} on {collection}: {error}"
        for system, collection, error in results.failures.itertuples(index=False, name=None)
    ]
    pending = results.cells[results.cells["state"] == "pending"]
    for system, rows in pending.groupby("system", sort=False):
        notes.append(f"Not computed yet: {system} on {', '.join(rows['collection'])}.")
    return notes


def _about(results: Results, paper: Mapping[str, str]) -> list[str]:
    """Where the numbers come from."""
    done = results.cells[results.cells["state"] == "done"]
    queries = done.drop_duplicates("collection").set_index("collection")["n_queries"]
    notes = [
        f"Written by pyterrier_expandr {__version__}. "
        f"Settings of the experiment: {', '.join(f'{name} = {value}' for name, value in results.settings.items())}.",
        f"Queries: {', '.join(f'{name} {count}' for name, count in queries.items())}.",
    ]
    if paper:
        source = raw()["source"]
        notes.append(
            f"The paper: {source['authors']}: {source['title']}. {source['venue']}, doi:{source['doi']}. Where a value "
            "of it has no sign, measure, collection, number of queries and named retriever are the same; the LLM, its "
            "sampling and the training data may differ."
        )
    return notes
