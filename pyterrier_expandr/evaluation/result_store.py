"""The folder of an experiment, written cell by cell, so that finished results survive a crash.

    FOLDER/experiment.json                              systems, collections, measures, settings, state of each cell
    FOLDER/<system>/<collection>/run.res.gz             the ranking, in TREC format
    FOLDER/<system>/<collection>/per_query.parquet      system, collection, qid, measure, value
    FOLDER/<system>/<collection>/passages.jsonl         the passages of each query, if the system has any
    FOLDER/<system>/<collection>/cell.json              fingerprint, means, queries, seconds, versions, hashes

A cell is finished when its cell.json exists, which is written last. Folder names are percent-encoded; the real names
are in cell.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import quote

import pandas as pd

from ..common.files import part_of, path_of, replacing, write_json
from ..common.locks import one_writer
from ..common.records.checked import key_of, remember
from ..common.records.manifest import describe_file, read_record, sealed, write_record
from .cell_files import (
    CELL,
    MEND,
    PASSAGES,
    PER_QUERY,
    PER_QUERY_COLUMNS,
    RUN,
    read_run,
    read_whole_cell,
    write_passages,
    write_run,
)

logger = logging.getLogger(__name__)

#: version of the folder's layout
FORMAT_VERSION = 1
EXPERIMENT = "experiment.json"
#: seconds that a process waits for another one that is writing the record, which takes milliseconds
TIMEOUT = 60.0
#: packages whose versions are recorded with each cell
PACKAGES = (
    "pyterrier_expandr pyterrier ir-measures pytrec-eval-terrier torch transformers sentence-transformers "
    "faiss-cpu pyterrier-pisa"
).split()


class ResultStore:
    """Writes the cells of an experiment; `Results.load` reads them.

    Opening a folder that holds an experiment adds to it: its systems and collections are kept. Several processes may
    have it open: what they record is merged under a lock, and `taken` gives each cell to one of them.

    Args:
        folder: new, empty, or written by this class.
        systems, collections, measures: names, in the order in which tables show them.
        settings: JSON values that apply to all cells; they must be the same each time the folder is opened.

    Raises:
        FileExistsError: the folder holds other things. InUseError: its record is locked for a minute. ValueError: it
            was written by another version, is damaged, or has other settings. OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> store = ResultStore(tempfile.mkdtemp(), ["BM25"], ["SciFact"], ["nDCG@10"], {"num_results": 1000})
        >>> store.finished("BM25", "SciFact", "a fingerprint") is None
        True
    """

    def __init__(
        self,
        folder: str | Path,
        systems: Sequence[str],
        collections: Sequence[str],
        measures: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        self.folder = path_of(folder)
        _check_names(systems)
        make_folder(self.folder)
        self._named = {"systems": list(systems), "collections": list(collections), "measures": list(measures)}
        self._settings = dict(settings)
        self._states: dict[tuple[str, str], dict[str, Any]] = {}
        self._record({})

    def cell(self, system: str, collection: str) -> Path:
        """The folder of one cell."""
        return cell_folder(self.folder, system, collection)

    def taken(self, system: str, collection: str) -> AbstractContextManager[None]:
        """A block in which no other process computes this cell. Raises InUseError if one does."""
        return one_writer(self.cell(system, collection))

    def finished(self, system: str, collection: str, fingerprint: str) -> dict[str, Any] | None:
        """The record of a finished cell with this fingerprint, or None; any other record is discarded."""
        path = self.cell(system, collection) / CELL
        try:
            record = read_whole_cell(path.parent)
        except ValueError as error:
            logger.warning("%s on %s is computed again: %s", system, collection, error)
            record = {"fingerprint": None}
        if record is not None and record["fingerprint"] != fingerprint:
            path.unlink()
            self._mark(system, collection, "pending")
            return None
        if record is not None and self._states[system, collection]["state"] != "done":
            self._mark(system, collection, "done")
        return record

    def save_run(self, system: str, collection: str, run: pd.DataFrame) -> None:
        """Write the ranking `[qid, docno, rank, score]` of a cell, and its passages if it has `query_expansions`."""
        folder = self.cell(system, collection)
        folder.mkdir(parents=True, exist_ok=True)
        write_passages(run, folder / PASSAGES)
        with replacing(folder / RUN) as part:
            write_run(run, part, system)

    def read_run(self, system: str, collection: str) -> pd.DataFrame:
        """The ranking that `save_run` wrote. Raises ValueError if it is damaged."""
        return read_run(self.cell(system, collection))

    def commit(self, system: str, collection: str, per_query: pd.DataFrame, record: Mapping[str, Any]) -> None:
        """Finish a cell.

        Args:
            system, collection: the cell.
            per_query: `[qid, measure, value]`: one row for each judged query and measure.
            record: JSON values with at least `fingerprint`, `means` (measure -> value), `n_queries` and `seconds`.
        """
        folder = self.cell(system, collection)
        folder.mkdir(parents=True, exist_ok=True)
        frame = per_query.assign(system=system, collection=collection)[PER_QUERY_COLUMNS]
        with replacing(folder / PER_QUERY) as part:
            frame.astype({"value": "float64"}).to_parquet(part, index=False)
        names = {"system": system, "collection": collection}
        files = {name: describe_file(folder / name) for name in (RUN, PER_QUERY, PASSAGES) if (folder / name).is_file()}
        written = write_record(folder / CELL, {**names, **record, "versions": versions()}, files)
        remember([key_of(folder / CELL, written)])
        self._mark(system, collection, "done")

    def fail(self, system: str, collection: str, error: BaseException) -> None:
        """Record that a cell failed, and why."""
        self._mark(system, collection, "failed", f"{type(error).__name__}: {error}")

    def _mark(self, system: str, collection: str, state: str, error: str | None = None) -> None:
        self._record({(system, collection): _state(system, collection, state, error)})

    def _record(self, changed: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Merge what this process names, and the cells that it has `changed`, into what is recorded by now."""
        path = self.folder / EXPERIMENT
        with one_writer(path, wait=TIMEOUT):
            left = {part_of(path), path.with_name(f".{EXPERIMENT}.lock")}  # a kill may have left them
            before = read_experiment(self.folder) if set(self.folder.iterdir()) - left else {}
            if before.get("settings", self._settings) != self._settings:
                raise ValueError(
                    f"{str(self.folder)!r} contains an experiment with {before['settings']}, not {self._settings}: "
                    "the results would not be comparable; choose another folder"
                )
            names = {kind: _union(before.get(kind, []), ours) for kind, ours in self._named.items()}
            _check_names(names["systems"])
            cells = {(cell["system"], cell["collection"]): cell for cell in before.get("cells", [])}
            for system, collection in product(self._named["systems"], self._named["collections"]):
                cells.setdefault((system, collection), _state(system, collection, "pending"))
            self._states = cells | changed
            content = {"format_version": FORMAT_VERSION, **names, "settings": self._settings}
            write_json(path, sealed({**content, "cells": list(self._states.values())}))


def make_folder(folder: Path) -> None:
    """Create a folder if needed. Raises OSError if nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        said = f"cannot write to the folder {str(folder)!r} ({error.strerror}): choose another, or make it writable"
        raise OSError(error.errno, said) from error


def _state(system: str, collection: str, state: str, error: str | None = None) -> dict[str, Any]:
    return {"system": system, "collection": collection, "state": state, "error": error}


def _union(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _check_names(systems: Sequence[str]) -> None:
    """Raise ValueError if a name is empty or two systems would share a folder."""
    folders: dict[str, str] = {}
    for name in systems:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a system needs a name, got {name!r}")
        key = _folder_name(name).casefold()
        if key in folders:
            clash = "is used twice" if folders[key] == name else f"is too similar to {folders[key]!r}"
            raise ValueError(f"the system name {name!r} {clash}: give each system its own name")
        folders[key] = name


def _folder_name(name: str) -> str:
    encoded = quote(name, safe=" +,()=@")
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded


def cell_folder(folder: Path, system: str, collection: str) -> Path:
    """The folder with the files of one cell."""
    return folder / _folder_name(system) / _folder_name(collection)


def read_experiment(folder: Path) -> dict[str, Any]:
    """The content of experiment.json.

    Raises:
        FileNotFoundError: there is no such folder. FileExistsError: it holds something other than an experiment.
        ValueError: the file is damaged, or of another version of the layout.
    """
    path = folder / EXPERIMENT
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}: give one that an experiment has written")
    if not path.is_file():
        raise FileExistsError(f"{str(folder)!r} is not the folder of an experiment (no {EXPERIMENT}): choose another")
    mend = "copy it again, remove the folder, or choose another"
    content = read_record(path, mend, newest=FORMAT_VERSION)
    if (found := content.get("format_version")) != FORMAT_VERSION:
        raise ValueError(
            f"{str(folder)!r} was written in version {found} of the layout, but this release uses {FORMAT_VERSION}: "
            "choose another folder, or use the release that wrote it"
        )
    if wrong := _malformed(content):
        raise ValueError(f"{str(path)!r} is damaged (in it, {wrong} is not what it should be): {mend}")
    return content


def missing_cells(folder: Path) -> None:
    """Raise ValueError if a cell that experiment.json says is finished has no record any more, or if it is damaged."""
    for cell in read_experiment(folder)["cells"]:
        path = cell_folder(folder, cell["system"], cell["collection"]) / CELL
        if cell["state"] == "done" and not path.is_file():
            raise ValueError(f"{str(path)!r} is missing: {MEND}")


def _malformed(content: Mapping[str, Any]) -> list[str]:
    """The fields of experiment.json that cannot be read as what they are; none in a file that `ResultStore` wrote."""
    names = ("systems", "collections", "measures")
    good = {
        name: isinstance(value := content.get(name), list) and all(isinstance(each, str) for each in value)
        for name in names
    }
    cells = content.get("cells")
    fields = {"system", "collection", "state", "error"}
    good["cells"] = isinstance(cells, list) and all(isinstance(cell, dict) and fields <= set(cell) for cell in cells)
    good["settings"] = isinstance(content.get("settings"), dict)
    return [name for name, fits in good.items() if not fits]


def versions() -> dict[str, str]:
    """The versions of the packages involved, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
