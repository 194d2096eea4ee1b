"""Everything that a page shows about each query: rankings, judgments and passages, read from an experiment's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.results import Results
from ...expansion.expander import RecordedExpander
from ...expansion.recorded import read_expansions
from .questions import Key, Questions
from .sources import Source

#: places in rankings that a page holds: with more systems or queries, rankings are shown less deep
PLACES = 1_000_000

#: documents judged relevant that no ranking shows, of each query
UNFOUND = 50


@dataclass
class Rankings:
    """The rankings of the queries shown.

    Attributes:
        documents: number of each document, by (collection, docno), in the order of first appearance.
        lists: by query, then by system: numbers of the first documents, or None without a ranking.
        lengths: by query, then by system: how many documents the whole ranking has.
        importance: of each document: the best rank that it has anywhere, 0 if it is judged relevant.
        depth: how many documents of a ranking are shown.
        notes: systems without a ranking.
    """

    depth: int
    documents: dict[Key, int] = field(default_factory=dict)
    lists: list[list[list[int] | None]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    importance: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def number(self, collection: str, docno: str, importance: int) -> int:
        """The number of a document, a new one if it has none."""
        number = self.documents.setdefault((collection, docno), len(self.documents))
        if number == len(self.importance):
            self.importance.append(importance)
        self.importance[number] = min(self.importance[number], importance)
        return number


def read_rankings(results: Results, questions: Questions, depth: int) -> Rankings:
    """The first `depth` documents of every ranking, fewer if a page cannot hold so many."""
    rankings = Rankings(min(depth, max(10, PLACES // (len(questions.keys) * len(results.systems)))))
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for system in results.systems:
        for collection in dict.fromkeys(name for name, _ in questions.keys):
            try:
                run = results.run(system, collection)
            except FileNotFoundError:
                rankings.notes.append(f"There is no ranking of {system} on {collection}.")
                continue
            wanted = {qid for name, qid in questions.keys if name == collection}
            found[system, collection] = _by_query(run[run["qid"].isin(wanted)])
    for collection, qid in questions.keys:
        whole = [found.get((system, collection), {}).get(qid) for system in results.systems]
        rankings.lengths.append([len(docnos or ()) for docnos in whole])
        rankings.lists.append([_numbered(rankings, collection, docnos) for docnos in whole])
    return rankings


def _by_query(run: pd.DataFrame) -> dict[str, list[str]]:
    ordered = run.sort_values("rank", kind="stable")
    return {str(qid): rows.tolist() for qid, rows in ordered.groupby("qid", sort=False)["docno"]}


def _numbered(rankings: Rankings, collection: str, docnos: list[str] | None) -> list[int] | None:
    if docnos is None:
        return None
    return [rankings.number(collection, docno, rank + 1) for rank, docno in enumerate(docnos[: rankings.depth])]


def judged(rankings: Rankings, questions: Questions, sources: Mapping[str, Source]) -> list[dict[str, Any]]:
    """The judgments of each query: `numbers` and `grades` of its documents, and `relevant`, how many there are.

    Documents that are judged relevant but in no ranking shown are numbered too, at most `UNFOUND` of them.
    """
    out = []
    for (collection, qid), lists in zip(questions.keys, rankings.lists, strict=True):
        labels = sources[collection].labels.get(qid, {}) if collection in sources else {}
        ranked = {number for ranking in lists for number in ranking or ()}
        best = sorted((docno for docno, label in labels.items() if label > 0), key=lambda docno: -labels[docno])
        unfound = [docno for docno in best if rankings.documents.get((collection, docno)) not in ranked][:UNFOUND]
        shown = {rankings.documents.get((collection, docno)): label for docno, label in labels.items()}
        grades = {number: label for number, label in shown.items() if number in ranked}
        grades |= {rankings.number(collection, docno, 0): labels[docno] for docno in unfound}
        for number, label in grades.items():
            if label > 0 and number is not None:
                rankings.importance[number] = 0
        out.append({"numbers": list(grades), "grades": list(grades.values()), "relevant": len(best)})
    return out


def read_passages(results: Results, questions: Questions, files: Mapping[str, str | Path]) -> list[dict[str, Any]]:
    """The passages of each query: distinct `texts`, and for each system `of`, the places of its own among them.

    Args:
        results: passages are stored with its cells.
        questions: the queries.
        files: system -> a JSONL file of passages, for results that do not hold them.
    """
    replayed = {system: _replayed(file, questions) for system, file in files.items()}
    collections = dict.fromkeys(name for name, _ in questions.keys)
    stored = {
        (system, name): results.passages(system, name)
        for system in results.systems
        if system not in replayed
        for name in collections
    }
    out = []
    for place, (name, qid) in enumerate(questions.keys):
        texts: dict[str, int] = {}
        of = []
        for system in results.systems:
            own = replayed[system][place] if system in replayed else stored[system, name].get(qid, [])
            of.append([texts.setdefault(text, len(texts)) for text in own])
        out.append({"texts": list(texts), "of": of})
    return out


def _replayed(file: str | Path, questions: Questions) -> list[list[str]]:
    """The passages that a file records for each query, cleaned as in a pipeline."""
    by_qid, _ = read_expansions(file)
    recorded = {qid: record.query for qid, record in by_qid.items()}
    rows = [
        (qid, text if text.strip() else recorded.get(qid) or qid)
        for (_, qid), text in zip(questions.keys, questions.texts, strict=True)
    ]
    topics = pd.DataFrame(rows, columns=["qid", "query"])
    return RecordedExpander(file, on_missing="query-only").transform(topics)["query_expansions"].tolist()
