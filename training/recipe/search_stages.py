"""The stages of a recipe that use what was trained: expansions, indexes, and the experiment at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...encoding.encoder import ExpandREncoder
from ...evaluation.beir import experiment
from ...evaluation.beir_collections import Collection
from ...expansion.expander import LLMExpander, RecordedExpander
from ...expansion.recorded import write_expansions
from ...retrieval.faiss_index import FaissIndex
from ..data.examples import examples_from_jsonl
from ..identity import corpus_identity, file_stem, queries_identity
from ..stage import Stage

#: returns the LLM's expander, given the folders of the stages that make the model and the stage's own
OpenExpander = Callable[[tuple[Path, ...], Path], LLMExpander]


def expansions_stage(open_expander: OpenExpander, settings: dict[str, Any], inputs: tuple[Stage, ...]) -> Stage:
    """expansions.jsonl: what the LLM writes for the retriever's training queries.

    Args:
        open_expander: returns the expander, given the folders of `inputs` after the first.
        settings: everything that determines its texts.
        inputs: the examples, and the stage that makes the model, if any.
    """

    def run(folder: Path, examples: Path, *llm: Path) -> dict[str, Any]:
        found = [(e.query_id, e.query) for e in examples_from_jsonl(examples / "retriever.jsonl")]
        topics = pd.DataFrame(found, columns=["qid", "query"]).drop_duplicates("qid")
        expander = open_expander(llm, folder)
        with expander.backend:
            return _expand(expander, topics, folder / "expansions.jsonl")

    return Stage("expansions", settings, inputs, run)


def test_expansions_stage(
    open_expander: OpenExpander, settings: dict[str, Any], collections: Sequence[Collection], inputs: tuple[Stage, ...]
) -> Stage:
    """COLLECTION.jsonl: what the LLM writes for the queries of each test collection; see `expansions_stage`."""

    def run(folder: Path, *llm: Path) -> dict[str, Any]:
        counts = {"queries": 0, "expansions": 0}
        expander = open_expander(llm, folder)
        with expander.backend:
            for collection in collections:
                found = _expand(expander, collection.topics, _file(folder, collection))
                counts = {name: counts[name] + found[name] for name in counts}
        return counts

    queries = [[file_stem(collection), queries_identity(collection)] for collection in collections]
    return Stage("test-expansions", settings | {"collections": queries}, inputs, run)


def index_stage(
    collections: Sequence[Collection], retriever: Stage, *, device: str | None = None, verbose: bool = False
) -> Stage:
    """COLLECTION.faiss: the documents of each test collection, encoded by that encoder."""

    def run(folder: Path, trained: Path) -> dict[str, Any]:
        encoder, documents = ExpandREncoder(trained / "model", device=device), 0
        for collection in collections:
            index = FaissIndex(_file(folder, collection, ".faiss"))
            corpus = index.remaining(collection.get_corpus_iter(verbose=verbose))
            (encoder.doc_encoder() >> index.indexer(mode="resume")).index(corpus)
            documents += len(index)
        return {"documents": documents}

    corpora = [[file_stem(collection), corpus_identity(collection)] for collection in collections]
    return Stage("index", {"collections": corpora}, (retriever,), run)


def experiment_stage(
    systems: Mapping[str, tuple[Stage, ...]],
    collections: Sequence[Collection],
    measures: Sequence[str],
    *,
    samples: Sequence[int] = (),
    device: str | None = None,
    verbose: bool = False,
) -> Stage:
    """table.csv: every system on every collection, by the BEIR protocol.

    Args:
        systems: name -> the stage of its index and, if it has expansions or a student, the stage of those.
        collections: the collections to compare them on.
        measures: of ir-measures.
        samples: numbers of passages; a system with expansions gets a row for each. Empty: one row with all passages.
        device: "cuda" or "cpu"; None means cuda if available.
        verbose: show progress bars.
    """
    inputs = [stage for stages in systems.values() for stage in stages]
    rows: dict[str, tuple[int, int | None, int | None]] = {}  # the places of its stages, and how many passages it takes
    place = 0
    for name, stages in systems.items():
        if len(stages) == 1:
            rows[name] = place, None, None
        elif not samples or stages[1].name == "student":
            rows[name] = place, place + 1, None
        else:
            rows |= {f"{name}, n={number}": (place, place + 1, number) for number in samples}
        place += len(stages)

    def run(folder: Path, *made: Path) -> dict[str, Any]:
        def pipeline(collection: Any, name: str) -> Any:
            index, other, number = rows[name]
            opened = FaissIndex(_file(made[index], collection, ".faiss"))
            search = opened.retriever(num_results=collection.num_results)
            if other is not None and inputs[other].name == "student":
                return ExpandREncoder(made[other] / "model", device=device).query_encoder() >> search
            found = opened.query_encoder(device=device) >> search
            return found if other is None else RecordedExpander(_file(made[other], collection), n=number) >> found

        makers = {name: (lambda collection, name=name: pipeline(collection, name)) for name in rows}
        results = experiment(makers, collections, folder / "results", measures=measures, verbose=verbose)
        if not results.failures.empty:
            raise RuntimeError(f"some cells failed; fix the cause and run again: {results.failures.to_dict('records')}")
        table(results.means(), list(rows)).to_csv(folder / "table.csv")
        return {"systems": len(rows), "collections": len(collections)}

    content = [
        [c.name, corpus_identity(c), queries_identity(c), c.self_matches, c.evaluated_results] for c in collections
    ]
    settings = {"systems": list(rows), "measures": list(map(str, measures)), "collections": content}
    return Stage("experiment", settings, tuple(inputs), run)


def table(means: pd.DataFrame, systems: list[str]) -> pd.DataFrame:
    """One row for each system, in the given order, and a column for each measure on each collection.

    Example:
        >>> means = pd.DataFrame({"system": ["a"], "collection": ["pocket"], "measure": ["R@100"], "value": [0.5]})
        >>> table(means, ["a"]).columns.tolist()
        ['pocket R@100']
    """
    columns = means["collection"] + " " + means["measure"]
    wide = means.assign(column=columns).pivot(index="system", columns="column", values="value")
    return wide.loc[systems, list(dict.fromkeys(columns))].rename_axis(columns=None)


def _file(folder: Path, collection: Any, ending: str = ".jsonl") -> Path:
    return folder / (file_stem(collection) + ending)


def _expand(expander: LLMExpander, topics: pd.DataFrame, path: Path) -> dict[str, Any]:
    expanded = expander.transform(topics)
    write_expansions(path, expanded)
    return {"queries": len(expanded), "expansions": int(expanded["query_expansions"].map(len).sum())}
