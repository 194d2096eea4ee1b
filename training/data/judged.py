"""Training examples from a collection with relevance judgments."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...collections.qrels import distinct
from ...common.frames import document_text
from ...common.utf8 import decoded
from .chunks import in_chunks
from .example import TrainingExample

if TYPE_CHECKING:
    import ir_datasets

    from ...collections import BeirFolder

#: number of queries whose documents are looked up together
CHUNK = 256


class _Source(Protocol):
    """The interface shared by both kinds of collection."""

    def judgments(self) -> Iterator[tuple[str, str, int]]:
        """(query id, document id, grade)."""

    def queries(self) -> Iterator[tuple[str, str]]:
        """(query id, text), in the collection's order."""

    def texts(self, ids: set[str]) -> dict[str, str]:
        """Document texts by id, as an encoder reads them; unknown ids are left out."""


def examples_of_collection(
    name: str, split: str = "train", *, min_relevance: int = 1, skipped: Counter[str] | None = None
) -> Iterator[TrainingExample]:
    """An example for each query with a relevant document, in the order of the collection's queries.

    Judgments are held in memory; documents are looked up a few hundred queries at a time, in ir-datasets' docstore or
    by their offsets in corpus.jsonl, so the corpus is never loaded. Positives are sorted by grade, best first, and
    then by the order of the judgments. Documents judged below 1 are negatives. Queries without a relevant document
    yield no example.

    Args:
        name: `pocket`, `irds:NAME`, or a folder in BEIR format.
        split: the split of the judgments, for pocket and BEIR folders.
        min_relevance: the lowest grade at which a document counts as positive.
        skipped: a counter in which "unknown query", "unknown document", "empty query", "empty document", "broken line"
            and "no relevant document" are counted; without one, all but the last raise an error.

    Raises:
        ValueError: judgments for queries or documents that the collection lacks or that have no text (they are named),
            conflicting judgments for one pair, no document with the required grade (the grades found are named), or an
            unknown collection.

    Example:
        >>> example = next(examples_of_collection("pocket", "test", min_relevance=2))
        >>> len(example.positives)
        1
    """
    if min_relevance < 1:
        raise ValueError(
            f"min_relevance must be 1 or more, since grades below 1 mean not relevant, got {min_relevance}"
        )
    source = _open(name, split, skipped)
    judged: dict[str, list[tuple[int, str]]] = {}
    for query_id, doc_id, grade in source.judgments():
        judged.setdefault(query_id, []).append((grade, doc_id))
    grades = Counter(grade for rows in judged.values() for grade, _ in rows)
    if not any(grade >= min_relevance for grade in grades):
        raise ValueError(f"{name} has no judgment of grade {min_relevance} or more: its grades are {sorted(grades)}")
    known = _known_queries(source, judged, name, skipped)
    for chunk in in_chunks(known, CHUNK):
        yield from _chunk(source, chunk, judged, min_relevance, name, skipped)


def _open(name: str, split: str, skipped: Counter[str] | None) -> _Source:
    if name.startswith("irds:"):
        return _Irds(name.removeprefix("irds:"))
    from ...collections import beir_folder, pocket

    return _Beir(pocket(split) if name == "pocket" else beir_folder(name, split), skipped)


def _known_queries(
    source: _Source, judged: dict[str, list[tuple[int, str]]], name: str, skipped: Counter[str] | None
) -> Iterator[tuple[str, str]]:
    queries = {query_id: text for query_id, text in source.queries() if query_id in judged}
    unknown = [query_id for query_id in judged if query_id not in queries]
    _leave_out(skipped, "unknown query", unknown, f"the judgments of {name} refer to {len(unknown)} unknown queries")
    yield from queries.items()


def _chunk(
    source: _Source,
    queries: list[tuple[str, str]],
    judged: dict[str, list[tuple[int, str]]],
    min_relevance: int,
    name: str,
    skipped: Counter[str] | None,
) -> Iterator[TrainingExample]:
    texts = source.texts({doc_id for query_id, _ in queries for _, doc_id in judged[query_id]})
    for query_id, query in queries:
        if not query.strip():
            _leave_out(skipped, "empty query", [query_id], f"judged queries of {name} have no text")
            continue
        rows = sorted(judged[query_id], key=lambda row: -row[0])
        unknown = [doc_id for _, doc_id in rows if doc_id not in texts]
        _leave_out(
            skipped,
            "unknown document",
            unknown,
            f"the judgments of query {query_id!r} of {name} refer to unknown documents",
        )
        empty = [
            doc_id for grade, doc_id in rows if grade >= min_relevance and doc_id in texts and not texts[doc_id].strip()
        ]
        _leave_out(
            skipped,
            "empty document",
            empty,
            f"documents that are relevant to query {query_id!r} of {name} have no text",
        )
        rows = [row for row in rows if row[1] not in {*unknown, *empty}]
        positives = [doc_id for grade, doc_id in rows if grade >= min_relevance]
        negatives = [doc_id for grade, doc_id in rows if grade < 1]
        if positives:
            yield TrainingExample(
                query_id,
                query,
                tuple(positives),
                tuple(texts[doc_id] for doc_id in positives),
                tuple(texts[doc_id] for doc_id in negatives),
            )
        elif skipped is not None:
            skipped["no relevant document"] += 1


def _leave_out(skipped: Counter[str] | None, reason: str, ids: list[str], problem: str) -> None:
    """Count what is left out, or raise ValueError if nothing may be left out."""
    if ids and skipped is None:
        raise ValueError(f"{problem}: {ids[:5]}")
    if skipped is not None and ids:
        skipped[reason] += len(ids)


class _Beir:
    def __init__(self, folder: BeirFolder, skipped: Counter[str] | None) -> None:
        self._folder, self._skipped = folder, skipped
        self._offsets: dict[str, int] | None = None

    def judgments(self) -> Iterator[tuple[str, str, int]]:
        yield from self._folder.get_qrels().itertuples(index=False, name=None)

    def queries(self) -> Iterator[tuple[str, str]]:
        yield from self._folder.get_queries(self._skipped)

    def texts(self, ids: set[str]) -> dict[str, str]:
        corpus = Path(self._folder.path) / "corpus.jsonl"
        if self._offsets is None:
            self._offsets = self._judged_offsets(corpus)
        found = {}
        with open(corpus, "rb") as file:
            for doc_id in ids & self._offsets.keys():
                file.seek(self._offsets[doc_id])
                row = json.loads(file.readline())
                found[doc_id] = document_text(row.get("title"), row["text"])
        return found

    def _judged_offsets(self, corpus: Path) -> dict[str, int]:
        """The file offsets of the judged documents; no others will be requested."""
        judged = set(self._folder.get_qrels()["docno"])
        offsets, place = {}, 0
        with open(corpus, "rb") as file:
            for number, line in enumerate(file, 1):
                row = _document(line, str(corpus), number, self._skipped) if line.strip() else None
                if row is not None and str(row["_id"]) in judged:
                    offsets[str(row["_id"])] = place
                place += len(line)
        return offsets


def _document(line: bytes, source: str, number: int, skipped: Counter[str] | None) -> dict[str, Any] | None:
    try:
        row = json.loads(decoded(line, source, number))
        if isinstance(row, dict) and "_id" in row and isinstance(row.get("text"), str):
            return row
        problem = f"found {sorted(row) if isinstance(row, dict) else type(row).__name__}"
    except ValueError as error:
        problem = str(error)
    if skipped is None:
        raise ValueError(f"{source}:{number} must be a JSON object with _id and text: {problem}")
    skipped["broken line"] += 1
    return None


class _Irds:
    def __init__(self, name: str) -> None:
        self._name = name
        import ir_datasets

        import pyterrier_expandr.collections  # noqa: F401  registers this package's own datasets with ir-datasets

        try:
            self._dataset: ir_datasets.Dataset = ir_datasets.load(name)
        except KeyError as error:
            raise ValueError(f"ir-datasets has no dataset {name!r}; its catalogue is at ir-datasets.com") from error
        if not (self._dataset.has_qrels() and self._dataset.has_queries() and self._dataset.has_docs()):
            raise ValueError(
                f"irds:{name} lacks judgments, queries or documents: give one of its splits, such as {name}/train"
            )

    def judgments(self) -> Iterator[tuple[str, str, int]]:
        rows = ((row.query_id, row.doc_id, int(row.relevance)) for row in self._dataset.qrels_iter())
        placed = ((f"judgment {number} of irds:{self._name}", row) for number, row in enumerate(rows, 1))
        yield from distinct(placed, f"irds:{self._name}")

    def queries(self) -> Iterator[tuple[str, str]]:
        for query in self._dataset.queries_iter():
            yield query.query_id, query.default_text()

    def texts(self, ids: set[str]) -> dict[str, str]:
        rows = self._dataset.docs_store().get_many_iter(ids)
        return {
            row.doc_id: document_text(getattr(row, "title", None), row.text)
            if hasattr(row, "text")
            else row.default_text()
            for row in rows
        }
