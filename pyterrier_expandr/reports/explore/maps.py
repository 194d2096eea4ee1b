"""Embeddings of a query, its passages, their fusion and the first documents in two dimensions, by PCA."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...evaluation.results import Results
from .gathering import Rankings
from .questions import Questions

if TYPE_CHECKING:
    from ...encoding.fusion import Fusion

#: documents of a ranking in a map
DOCUMENTS = 10

Json = dict[str, Any]


def plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components of vectors (n, d) as (n, 2), and the share of the variance that they keep.

    The sign of each component is such that its largest coordinate is positive.

    Example:
        >>> points, share = plane(np.array([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 0.1, 1.0]]))
        >>> points.shape, round(share, 6)
        ((3, 2), 1.0)
    """
    centred = np.asarray(vectors, dtype=float) - np.mean(vectors, axis=0, dtype=float)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(centred), 2))
    kept = min(2, len(sizes))
    points[:, :kept] = left[:, :kept] * sizes[:kept]
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    total = float((sizes**2).sum())
    return points, float((sizes[:2] ** 2).sum()) / total if total > 0 else 1.0


def add_maps(
    results: Results,
    questions: Questions,
    rankings: Rankings,
    passages: Sequence[Json],
    relevant: Sequence[Sequence[int]],
    *,
    limit: int,
    device: str | None = None,
) -> tuple[list[list[Json | None]], list[str]]:
    """A map for each query and system, where the vectors are at hand, and notes on why others have none.

    Args:
        results: its records say which index each cell searched; the index knows its encoder.
        questions: the `limit` queries whose scores differ most get a map.
        rankings: whose first documents are shown.
        passages: what `read_passages` returns.
        relevant: numbers of the documents judged relevant, of each query.
        limit: how many queries.
        device: of the encoder.
    """
    maps: list[list[Json | None]] = [[None] * len(results.systems) for _ in questions.keys]
    chosen = set(np.argsort(-questions.spread, kind="stable")[:limit].tolist())
    docnos = [docno for _, docno in rankings.documents]
    spaces = cache(partial(_Space, device=device))
    notes: dict[str, None] = {}
    for collection in dict.fromkeys(name for name, _ in questions.keys):
        places = [place for place in sorted(chosen) if questions.keys[place][0] == collection]
        for column, system in enumerate(results.systems if places else ()):
            try:
                searched = _searched(results, system, collection)
                if searched is None:
                    continue
                folder, fusion = searched
                rows = _rows(places, column, questions, rankings, passages, relevant)
                for place, drawn in spaces(folder).maps(rows, fusion, docnos):
                    maps[place][column] = drawn
            except (ValueError, OSError, ImportError) as error:
                notes[f"No embeddings of {system} on {collection}: {error}"] = None
    return maps, list(notes)


def _searched(results: Results, system: str, collection: str) -> tuple[Path, Fusion | None] | None:
    """The index that a cell searched and the fusion of its queries, or None if no index is recorded for it."""
    try:
        record = results.record(system, collection)
    except FileNotFoundError:
        return None
    if not record.get("index"):
        return None
    folder = Path(record["index"])
    moved = results.folder / ".indexes" / folder.name  # the folder of results may have been moved since
    return (folder if folder.is_dir() else moved), _fusion(record.get("pipeline"))


#: place of a query, its text, its passages, the numbers of its documents
_Row = tuple[int, str, list[str], list[int]]


def _rows(
    places: list[int],
    column: int,
    questions: Questions,
    rankings: Rankings,
    passages: Sequence[Json],
    relevant: Sequence[Sequence[int]],
) -> list[_Row]:
    """What is drawn for each query that has a text, under the system in this column."""
    rows = []
    for place in places:
        own = [passages[place]["texts"][number] for number in passages[place]["of"][column]]
        ranked = rankings.lists[place][column]
        if questions.texts[place].strip() and ranked is not None:
            numbers = list(dict.fromkeys([*ranked[:DOCUMENTS], *relevant[place][:DOCUMENTS]]))
            rows.append((place, questions.texts[place], own, numbers))
    return rows


class _Space:
    """An index and the encoder that filled it."""

    def __init__(self, folder: Path, device: str | None) -> None:
        from ...retrieval.faiss_index import FaissIndex

        self.index = FaissIndex(folder)
        if not self.index.exact:
            raise ValueError(f"the index {str(folder)!r} does not keep vectors as they are")
        self.encoder = self.index.query_encoder(device=device).bi_encoder_model

    def maps(self, rows: list[_Row], fusion: Fusion | None, docnos: list[str]) -> Iterator[tuple[int, Json]]:
        """The map of each row, with the place of its query."""
        if not rows:
            return
        frame = pd.DataFrame(rows, columns=["qid", "query", "query_expansions", "numbers"])
        fused = self.encoder.query_encoder(fusion=fusion).transform(frame)["query_vec"]
        vectors = self._documents({number for _, _, _, numbers in rows for number in numbers}, docnos)
        for (place, query, own, numbers), both in zip(rows, fused, strict=True):
            numbers = [number for number in numbers if number in vectors]
            kinds = [("query", 0), *(("passage", at) for at in range(len(own))), *([("fused", 0)] if own else [])]
            kinds += [("document", number) for number in numbers]
            parts = list(self.encoder.encode_queries([query]))
            if own:
                parts += [*self.encoder.encode_expansions(own), both]
            parts += [vectors[number] for number in numbers]
            points, share = plane(np.stack(parts))
            kind, what = zip(*kinds, strict=True)
            scaled = np.round(points / max(float(np.abs(points).max()), 1e-9), 3)
            yield place, {"kind": kind, "what": what, "xy": scaled.tolist(), "share": round(share, 3)}

    def _documents(self, numbers: set[int], docnos: list[str]) -> dict[int, np.ndarray]:
        """The vectors of those documents that the index has; a judged one may be missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from ...retrieval.doc_vectors import DocVectors

        wanted = sorted(numbers)
        names = pa.array([docnos[number] for number in wanted], self.index.docnos.type)
        there = pc.is_in(names, self.index.docnos).to_pylist()
        held = [number for number, known in zip(wanted, there, strict=True) if known]
        frame = pd.DataFrame({"qid": "", "docno": [docnos[number] for number in held]})
        return dict(zip(held, DocVectors(self.index).transform(frame)["doc_vec"], strict=True))


def _fusion(pipeline: Any) -> Fusion | None:
    """The fusion that is recorded for a pipeline, or None if there is none or it is a function."""
    if isinstance(pipeline, dict):
        if "fusion" in pipeline:
            try:
                return ast.literal_eval(pipeline["fusion"])
            except (ValueError, SyntaxError):
                return None
        pipeline = list(pipeline.values())
    if isinstance(pipeline, list):
        return next((found for found in map(_fusion, pipeline) if found is not None), None)
    return None
