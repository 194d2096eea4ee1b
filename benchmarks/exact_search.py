"""Exact search with ready vectors, measured query by query: what several benchmarks have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ir_measures
import numpy as np


def measured_search(
    vectors: np.ndarray,
    documents: np.ndarray,
    docnos: Sequence[str],
    qids: Sequence[str],
    qrels: Iterable[Any],
    measures: Sequence[Any],
    depth: int = 100,
) -> list[np.ndarray]:
    """The values (n,) of each measure for query vectors (n, d) over document vectors (m, d), in the order of `qids`.

    Example:
        >>> found = measured_search(np.eye(2), np.eye(2), ["a", "b"], ["1", "2"], [ir_measures.Qrel("1", "a", 1),
        ...                   ir_measures.Qrel("2", "a", 1)], [ir_measures.RR], depth=1)
        >>> found[0].tolist()
        [1.0, 0.0]
    """
    scores = vectors @ documents.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    run = [
        ir_measures.ScoredDoc(qid, docnos[place], float(scores[row, place]))
        for row, qid in enumerate(qids)
        for place in best[row]
    ]
    values = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc([*measures], qrels, run)}
    return [np.array([values[qid, measure] for qid in qids]) for measure in measures]
