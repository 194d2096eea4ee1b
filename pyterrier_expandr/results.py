"""The results of an experiment, read from its folder: values for each query, means, and significant differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from .averages import AVERAGES, FORUMS, parts_of
from .result_store import CELL, PER_QUERY, PER_QUERY_COLUMNS, RUN, cell_folder, read_experiment, read_run


class Results:
    """What an experiment has computed so far; `Results.load` makes one.

    Attributes:
        folder: where it lies.
        systems, collections, measures: names in the order of tables. The 12 sub-forums of CQADupStack stand there as
            "CQADupStack" where all of them were asked for.
        settings: what holds for all cells, such as `num_results`.
        cells: one row for each system and collection (sub-forums by themselves): system, collection, state ("done",
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
        """The results in `folder`; with `systems` or `collections` only those (sub-forums by their own names).

        Raises:
            FileNotFoundError: there is no such folder. FileExistsError: it holds no experiment. ValueError: it is
                damaged or was written by another version, or a name is not in it.
        """
        folder = Path(folder)
        content = read_experiment(folder)
        chosen = {"systems": systems, "collections": collections}
        for kind, names in chosen.items():
            if unknown := [name for name in names or [] if name not in content[kind]]:
                raise ValueError(f"{str(folder)!r} has no {kind} {unknown}: it has {content[kind]}")
            content[kind] = content[kind] if names is None else list(names)
        states = {(cell["system"], cell["collection"]): cell for cell in content["cells"]}
        rows, means = [], []
        for system in content["systems"]:
            for collection in content["collections"]:
                state = states.get((system, collection))
                if state is None:
                    continue
                record = _read_cell(folder, system, collection)
                row = {"n_queries": 0, "seconds": float("nan"), "fingerprint": None}
                if record is not None:
                    row = {name: record[name] for name in row}
                    if state["state"] != "failed":  # also where it was killed between the cell and its mark
                        state = {**state, "state": "done"}
                        means += [(system, collection, *item) for item in record["means"].items()]
                rows.append({**state, **row})
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
        """`[system, collection, qid, measure, value]` of all finished cells; sub-forums stand by themselves."""
        done = self.cells[self.cells["state"] == "done"]
        frames = [
            pd.read_parquet(cell_folder(self.folder, system, collection) / PER_QUERY)
            for system, collection in zip(done["system"], done["collection"], strict=True)
        ]
        if not frames:
            return pd.DataFrame(columns=PER_QUERY_COLUMNS).astype({"value": float})
        return pd.concat(frames, ignore_index=True)

    def run(self, system: str, collection: str) -> pd.DataFrame:
        """The ranking `[qid, docno, rank, score]` of one cell. Raises FileNotFoundError where there is none."""
        return read_run(cell_folder(self.folder, system, collection) / RUN)

    def means(self, *, forums: bool = False) -> pd.DataFrame:
        """`[system, collection, measure, value]`: one row for each collection, then the averages.

        "CQADupStack" is the arithmetic mean of its 12 sub-forums; "Avg.BEIR14" and "Avg.All" are arithmetic means over
        collections (METHOD 5). An average stands there only where all of its parts do.

        Args:
            forums: also a row for each sub-forum of CQADupStack.
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

    def __repr__(self) -> str:
        done = int((self.cells["state"] == "done").sum())
        return f"Results({str(self.folder)!r}: {done} of {len(self.cells)} cells)"


def _with_forums_folded(collections: Sequence[str]) -> list[str]:
    """The collections with the 12 sub-forums of CQADupStack as one, where all of them are there."""
    if not set(FORUMS) <= set(collections):
        return list(collections)
    return list(dict.fromkeys("CQADupStack" if name in FORUMS else name for name in collections))


def _read_cell(folder: Path, system: str, collection: str) -> dict[str, Any] | None:
    path = cell_folder(folder, system, collection) / CELL
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): remove it and run the experiment again") from error
