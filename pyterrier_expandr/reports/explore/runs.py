"""Rankings in TREC files as an experiment, so that the page can show them like any other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyterrier as pt
from ir_measures import Measure

from ...common.files import path_of
from ...evaluation import beir
from ...evaluation.beir_collections import Collection
from ...evaluation.results import Results


def results_of_runs(
    runs: Mapping[str, str | Path],
    collection: Collection,
    folder: str | Path,
    *,
    measures: Iterable[str | Measure] = beir.MEASURES,
) -> Results:
    """The results of TREC run files on a collection, evaluated like an experiment and written to `folder`.

    Args:
        runs: name -> file of lines `qid Q0 docno rank score name`; it may be compressed (.gz).
        collection: what the queries and judgments belong to.
        folder: new or empty.
        measures: ir-measures measures.

    Raises:
        ValueError: a file is not a run, or cannot be evaluated on this collection. FileNotFoundError: there is no such
            file. OSError: the collection is not on this machine.

    Example:
        >>> from pyterrier_expandr.evaluation.beir_collections import resolve
        >>> (pocket,) = resolve("pocket")
        >>> results_of_runs({"a": "a.trec", "b": "b.trec"}, pocket, "compared")  # doctest: +SKIP
    """
    frames = {name: read_trec(path) for name, path in runs.items()}
    _ = collection.topics  # a collection that cannot be read is an error by itself, and no failed cell
    systems = {name: _constant(frame) for name, frame in frames.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ cells failed")  # raised below
        results = beir.experiment(systems, collection, folder, measures=measures, verbose=False)
    if len(results.failures):
        name, _, error = results.failures.iloc[0]
        raise ValueError(f"the run {name!r} ({runs[name]}) cannot be evaluated on {collection.name}: {error}")
    return results


def read_trec(path: str | Path) -> pd.DataFrame:
    """`[qid, docno, rank, score]` of a TREC run. Raises ValueError if a line has other columns."""
    file = path_of(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no run {str(path)!r}: give a file of lines 'qid Q0 docno rank score name'")
    wanted = "lines of 'qid Q0 docno rank score name'"
    try:
        frame = pt.io.read_results(str(file))[["qid", "docno", "score"]]
    except (ValueError, KeyError, pd.errors.ParserError, OSError) as error:
        raise ValueError(f"{str(path)!r} is not a TREC run ({wanted}): {error}") from error
    if (bad := int(frame.isna().any(axis=1).sum())) or frame.empty:
        raise ValueError(f"{str(path)!r} is not a TREC run ({wanted}): {bad} of its {len(frame)} lines are incomplete")
    return pt.model.add_ranks(frame.astype({"qid": str, "docno": str}))[["qid", "docno", "rank", "score"]]


def _constant(frame: pd.DataFrame) -> beir.System:
    return lambda collection: pt.Transformer.from_df(frame)
