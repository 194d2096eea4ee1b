"""The results of an experiment, read from its folder: per-query values, means, and significant differences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.files import path_of
from ..common.records.checked import Checked
from .averages import AVERAGES, FORUMS, parts_of
from .cell_files import CELL, MEND, PER_QUERY_COLUMNS, read_cell, read_passages, read_per_query, read_run
from .result_store import cell_folder, read_experiment
from .significance import permutation_test

if TYPE_CHECKING:
    from ..reports.explore.page import Page

#: the package whose `explore` makes pages
VIEWER = "pyterrier_expandr.reports.explore"


class Results:
    """What an experiment has computed so far; created by `Results.load`.

    Attributes:
        folder: the experiment's folder.
        systems, collections, measures: names in the order of tables. The 12 sub-forums of CQADupStack appear as
            "CQADupStack" if all of them were requested.
        settings: settings that apply to all cells, such as `num_results`.
        cells: one row for each system and collection (sub-forums separately): system, collection, state ("done",
            "failed", "pending"), error, n_queries, seconds, fingerprint.
    """

    def __init__(
        self,
        folder: Path,
        systems: Sequence[str],
        collections: Sequence[str],
        measures: Sequence[str],
        settings: dict[str, Any],
        cells: pd.DataFrame,
        means: pd.DataFrame,
    ) -> None:
        self.folder, self.systems, self.measures, self.settings = folder, list(systems), list(measures), settings
        self.collections = _with_forums_folded(collections)
        self.cells, self._means = cells, means

    @classmethod
    def load(
        cls, folder: str | Path, *, systems: Sequence[str] | None = None, collections: Sequence[str] | None = None
    ) -> Results:
        """The results in `folder`; if given, only those of `systems` and `collections` (sub-forums by their own names).

        A cell whose files are damaged has failed, and its error names the file. Sizes are compared each time, contents
        the first time that the folder is read at its place.

        Raises:
            FileNotFoundError: there is no such folder. FileExistsError: it holds no experiment. ValueError: its
                experiment.json is damaged or was written by another version, or a name is not in it.
        """
        folder = path_of(folder)
        content = read_experiment(folder)
        chosen = {"systems": systems, "collections": collections}
        for kind, names in chosen.items():
            if unknown := [name for name in names or [] if name not in content[kind]]:
                raise ValueError(f"{str(folder)!r} has no {kind} {unknown}: it has {content[kind]}")
            content[kind] = content[kind] if names is None else list(names)
        states = {(cell["system"], cell["collection"]): cell for cell in content["cells"]}
        rows, means = [], []
        checked = Checked()
        for system in content["systems"]:
            for collection in content["collections"]:
                state = states.get((system, collection))
                if state is None:
                    continue
                record, problem = _intact(cell_folder(folder, system, collection), checked)
                if record is None and state["state"] == "done" and problem is None:
                    problem = f"{str(cell_folder(folder, system, collection) / CELL)!r} is missing: {MEND}"
                if problem is not None:
                    state = {**state, "state": "failed", "error": problem}
                row = {"n_queries": 0, "seconds": float("nan"), "fingerprint": None}
                if record is not None:
                    row = {name: record[name] for name in row}
                    if state["state"] != "failed":  # also if it was killed between the cell and its mark
                        state = {**state, "state": "done"}
                        means += [(system, collection, *item) for item in record["means"].items()]
                rows.append({**state, **row})
        checked.save()
        columns = ["system", "collection", "state", "error", "n_queries", "seconds", "fingerprint"]
        return cls(
            folder,
            content["systems"],
            content["collections"],
            content["measures"],
            content["settings"],
            pd.DataFrame(rows, columns=columns),
            pd.DataFrame(means, columns=["system", "collection", "measure", "value"]),
        )

    @property
    def failures(self) -> pd.DataFrame:
        """`[system, collection, error]` of the cells that could not be computed."""
        failed = self.cells[self.cells["state"] == "failed"]
        return failed[["system", "collection", "error"]].reset_index(drop=True)

    @cached_property
    def per_query(self) -> pd.DataFrame:
        """`[system, collection, qid, measure, value]` of all finished cells; sub-forums are listed separately.

        Raises:
            ValueError: a file is damaged.
        """
        done = self.cells[self.cells["state"] == "done"]
        frames = [
            read_per_query(cell_folder(self.folder, system, collection))
            for system, collection in zip(done["system"], done["collection"], strict=True)
        ]
        if not frames:
            return pd.DataFrame(columns=PER_QUERY_COLUMNS).astype({"value": float})
        return pd.concat(frames, ignore_index=True)

    def run(self, system: str, collection: str) -> pd.DataFrame:
        """The ranking `[qid, docno, rank, score]` of one cell.

        Raises:
            FileNotFoundError: there is none. ValueError: it is damaged.
        """
        return read_run(cell_folder(self.folder, system, collection))

    def passages(self, system: str, collection: str) -> dict[str, list[str]]:
        """The passages with which a cell searched, by qid; none if it had none, or an older release wrote it."""
        return read_passages(cell_folder(self.folder, system, collection))

    def record(self, system: str, collection: str) -> dict[str, Any]:
        """What is recorded about a cell (its `cell.json`). Raises FileNotFoundError if it is not finished."""
        record = read_cell(cell_folder(self.folder, system, collection))
        if record is None:
            raise FileNotFoundError(f"{system!r} on {collection!r} is not finished in {str(self.folder)!r}")
        return record

    def means(self, *, forums: bool = False) -> pd.DataFrame:
        """`[system, collection, measure, value]`: one row for each collection, then the averages.

        "CQADupStack" is the arithmetic mean of its 12 sub-forums; "Avg.BEIR14" and "Avg.All" are arithmetic means over
        collections (METHOD 5). An average is present only if all of its parts are.

        Args:
            forums: also include a row for each sub-forum of CQADupStack.
        """
        names = self.collections + [name for name in AVERAGES if name.startswith("Avg.")]
        names += list(FORUMS) if forums and "CQADupStack" in self.collections else []
        values = self._means.groupby(["system", "measure"], sort=False)
        rows = []
        for system in self.systems:
            for measure in self.measures:
                if (system, measure) not in values.groups:
                    continue
                cell = values.get_group((system, measure))
                own = dict(zip(cell["collection"], cell["value"], strict=True))
                for name in names:
                    if (weights := parts_of(name, own)) is not None:
                        value = sum(weight * own[part] for part, weight in weights.items())
                        rows.append((system, name, measure, value))
        return pd.DataFrame(rows, columns=["system", "collection", "measure", "value"])

    def compare(self, baseline: str, *, correction: str | None = None, **options: Any) -> pd.DataFrame:
        """Differences from a baseline and whether chance explains them: one row for each system and row of `means`.

        Columns: `[system, collection, measure, difference, p_value]`, and with a correction `p_corrected`. The test is
        `permutation_test` over the queries; for an average, each query is weighted by its share, so that the tested
        difference is that of the printed averages. The p-value is NaN if there is only one query, since no test is
        possible.

        Args:
            baseline: a system.
            correction: for the number of systems, per collection and measure: "holm", "bonferroni" ... as in
                `statsmodels.stats.multitest.multipletests`.
            options: `permutations` and `seed` of `permutation_test`.

        Raises:
            ValueError: an unknown baseline, or two systems that were evaluated on different queries.
        """
        if baseline not in self.systems:
            raise ValueError(f"there is no system {baseline!r}: choose the baseline from {self.systems}")
        means = self.means()
        tested = set(
            means.loc[means["system"] == baseline, ["collection", "measure"]].itertuples(index=False, name=None)
        )
        values = self.per_query.pivot(index=["collection", "qid"], columns=["system", "measure"], values="value")
        rows = []
        for system, collection, measure, _ in means.itertuples(index=False, name=None):
            if system != baseline and (collection, measure) in tested:
                pair = values[[(system, measure), (baseline, measure)]].dropna(how="all")
                rows.append((system, collection, measure, *_test(collection, pair, options)))
        frame = pd.DataFrame(rows, columns=["system", "collection", "measure", "difference", "p_value"])
        if correction is not None:
            groups = frame.groupby(["collection", "measure"], sort=False)["p_value"]
            frame["p_corrected"] = groups.transform(_corrected, method=correction)
        return frame

    def explore(self, **options: Any) -> Page:
        """One HTML page on these results, which displays itself in a notebook; `.save(path)` writes it.

        It is what `expandr explore` writes; `options` are those of `pyterrier_expandr.reports.explore.explore`,
        such as `baseline`, `data`, `queries` and `maps`.

        Example:
            >>> Results.load("results").explore(baseline="dense").save("page.html")  # doctest: +SKIP
        """
        # Pages are made in a room above this one, so their maker is looked up by name, when a page is asked for.
        return import_module(VIEWER).explore(self, **options)

    def __getitem__(self, query: str | tuple[str, str]) -> Page:
        """The page of one query, by its qid or (collection, qid); a qid that several collections have gives them all.

        Raises:
            KeyError: no finished cell has such a query.

        Example:
            >>> Results.load("results")["SciFact", "133"]  # doctest: +SKIP
        """
        known = list(dict.fromkeys(zip(self.per_query["collection"], self.per_query["qid"], strict=True)))
        only = [key for key in known if query in (key, key[1])]
        if not only:
            raise KeyError(f"no query {query!r} is in these results; there are {len(known)}, such as {known[:3]}")
        return self.explore(only=only)

    def __repr__(self) -> str:
        done = int((self.cells["state"] == "done").sum())
        return f"Results({str(self.folder)!r}: {done} of {len(self.cells)} cells)"


def _with_forums_folded(collections: Sequence[str]) -> list[str]:
    """The collections with the 12 sub-forums of CQADupStack merged into one, if all are present."""
    if not set(FORUMS) <= set(collections):
        return list(collections)
    return list(dict.fromkeys("CQADupStack" if name in FORUMS else name for name in collections))


def _intact(cell: Path, checked: Checked) -> tuple[dict[str, Any] | None, str | None]:
    """The record of a cell, and what is wrong with its files: sizes always, contents the first time at this place."""
    try:
        record = read_cell(cell)
        if record is not None:
            checked.check(cell / CELL, record, MEND)
        return record, None
    except ValueError as error:
        return None, str(error)


def _test(collection: str, pair: pd.DataFrame, options: dict[str, Any]) -> tuple[float, float]:
    """Difference and p-value from a frame of two columns of values, indexed by collection and qid."""
    weights = parts_of(collection, set(pair.index.get_level_values(0))) or {}
    pair = pair[pair.index.get_level_values(0).isin(list(weights))]
    if unlike := int(pair.isna().any(axis=1).sum()):
        systems = " and ".join(repr(column[0]) for column in pair.columns)
        raise ValueError(
            f"{systems} do not share {unlike} of the queries of {collection}: evaluate both on the same queries"
        )
    left, right = pair.iloc[:, 0].to_numpy(float), pair.iloc[:, 1].to_numpy(float)
    collections = pair.index.get_level_values(0).to_series()
    share = (collections.map(weights) / collections.groupby(collections).transform("size")).to_numpy(float)
    if len(pair) < 2:
        return float(((left - right) * share).sum()), float("nan")
    return permutation_test(left, right, weights=share, **options)


def _corrected(p_values: pd.Series, method: str) -> np.ndarray:
    """The p-values of one family of tests after correction; NaN means that there was no test."""
    from statsmodels.stats.multitest import multipletests

    corrected, tests = np.full(len(p_values), np.nan), p_values.notna().to_numpy()
    if tests.any():
        corrected[tests] = multipletests(p_values[tests], method=method)[1]
    return corrected
