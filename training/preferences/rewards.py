"""How useful an expansion is for retrieval: rewards over the candidates of queries.

The formulas are pure functions on arrays of shape (n_queries, n_candidates). A `Reward` is a callable that takes
information about some queries' candidates (`Candidates`) and returns such an array; larger is better. Any such
function can be used, and `REWARDS` names the ones that need only similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...encoding.fusion import Fusion, fuse

if TYPE_CHECKING:
    import pyterrier as pt


@dataclass(frozen=True)
class Candidates:
    """The input of a reward: n queries with m candidates each, their embeddings (of dimension d) and similarities.

    `to_query`, `to_answer` and `to_gold` are (n, m) dot products of each candidate's embedding with that of its query,
    of the LLM's own answer and of the relevant document; `to_answer` is NaN for a query without an answer.
    """

    query_ids: Sequence[str]
    queries: Sequence[str]
    texts: Sequence[Sequence[str]]
    query_vectors: np.ndarray
    vectors: np.ndarray
    to_query: np.ndarray
    to_answer: np.ndarray
    to_gold: np.ndarray


#: the name of the reward that searches an index (`MeasureGain`), and so cannot be named without one
MEASURE = "measure"

#: larger is better; float (n_queries, n_candidates)
Reward = Callable[[Candidates], np.ndarray]


def ranks(similarity: np.ndarray) -> np.ndarray:
    """Ranks (n, m), int64, of each row's candidates: 1 for the most similar; ties go to the first.

    Raises:
        ValueError: `similarity` is not a matrix, or contains NaN (the rows are named).

    Example:
        >>> ranks(np.array([[0.2, 0.9, 0.2]]))
        array([[2, 1, 3]])
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2:
        raise ValueError(f"similarity must have the shape (n_queries, n_candidates), got {similarity.shape}")
    if np.isnan(similarity).any():
        rows = np.flatnonzero(np.isnan(similarity).any(axis=1))[:5].tolist()
        raise ValueError(f"similarity has NaN in rows {rows}: an embedding in each of them is broken")
    order = np.argsort(-similarity, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(1, similarity.shape[1] + 1)[None, :].repeat(len(order), 0), axis=1)
    return places


def self_reward(answer_similarity: np.ndarray) -> np.ndarray:
    """1/rank by similarity to the LLM's own answer, sim(E(y), E(d_exp)) (Eq. 13); float64 (n, m)."""
    return 1.0 / ranks(answer_similarity)


def retriever_reward(gold_similarity: np.ndarray) -> np.ndarray:
    """1/rank by similarity to the relevant document, sim(E(d_gold), E(d_exp)) (Eq. 14); float64 (n, m)."""
    return 1.0 / ranks(gold_similarity)


def combined_reward(rewards: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """The weighted sum of rewards of one shape; equal weights of 1 give Eq. 11.

    Raises:
        ValueError: nothing to combine, shapes that differ, or a number of weights other than that of rewards.

    Example:
        >>> combined_reward([np.array([[1.0, 0.5]]), np.array([[0.5, 1.0]])], weights=(1, 0))
        array([[1. , 0.5]])
    """
    weights = [1.0] * len(rewards) if weights is None else weights
    shapes = {np.shape(reward) for reward in rewards}
    if len(shapes) != 1 or len(weights) != len(rewards):
        raise ValueError(
            f"rewards must all have the same shape, with one weight each; got shapes {sorted(shapes)} and "
            f"{len(weights)} weights"
        )
    return np.sum([weight * reward for weight, reward in zip(weights, rewards, strict=True)], axis=0)


def cosine_margin(similarity: np.ndarray) -> np.ndarray:
    """How far each similarity lies above its row's mean, float64 (n, m); unlike ranks, this preserves clear leads.

    Example:
        >>> cosine_margin(np.array([[0.75, 0.5, 0.25]]))
        array([[ 0.25,  0.  , -0.25]])
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    return similarity - similarity.mean(axis=1, keepdims=True)


def length_penalty(lengths: np.ndarray, limit: int) -> np.ndarray:
    """0 up to `limit`, beyond it the negative excess as a share of `limit`; float64, in the shape of `lengths`.

    Raises:
        ValueError: `limit` is below 1.

    Example:
        >>> length_penalty(np.array([[50, 150]]), limit=100)
        array([[-0. , -0.5]])
    """
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    return -np.maximum(np.asarray(lengths, dtype=np.float64) - limit, 0) / limit


@dataclass(frozen=True)
class LengthPenalty:
    """A reward: `length_penalty` of the candidates' lengths in words.

    Example:
        >>> LengthPenalty(limit=100).limit
        100
    """

    limit: int

    def __call__(self, candidates: Candidates) -> np.ndarray:
        """Float64 (n, m), 0 or below."""
        return length_penalty(np.array([[len(text.split()) for text in row] for row in candidates.texts]), self.limit)


@dataclass(frozen=True, eq=False)
class MeasureGain:
    """A reward: the gain in a measure, such as nDCG@10, from fusing the query with a candidate, on your own index.

    This is what the rank rewards approximate, at the cost of one search per candidate.

    Args:
        retriever: `[qid, query, query_vec]` -> R, such as `FaissIndex.retriever()`, over the reward encoder's vectors.
        qrels: `[qid, docno, label]`.
        measure: in the notation of ir-measures.
        fusion: how query and candidate are fused into one vector.

    Raises:
        ValueError: when called, if two queries share an id.

    Example:
        >>> from pyterrier_expandr import FaissIndex
        >>> retriever = FaissIndex("pocket.faiss").retriever(num_results=10)
        >>> MeasureGain(retriever, pd.DataFrame({"qid": [], "docno": [], "label": []})).measure
        'nDCG@10'
    """

    retriever: pt.Transformer
    qrels: pd.DataFrame
    measure: str = "nDCG@10"
    fusion: Fusion = "average"

    def __call__(self, candidates: Candidates) -> np.ndarray:
        """Float64 (n, m): the measure with the candidate minus that of the query alone."""
        n, m, d = candidates.vectors.shape
        queries = np.broadcast_to(candidates.query_vectors[:, None, :], (n, m, d))
        fused = fuse(queries, candidates.vectors[:, :, None, :], self.fusion)
        alone = self._values(candidates, candidates.query_vectors)
        return np.stack([self._values(candidates, fused[:, number]) - alone for number in range(m)], axis=1)

    def _values(self, candidates: Candidates, vectors: np.ndarray) -> np.ndarray:
        """The measure (n,) of the queries when searching with `vectors` (n, d)."""
        import ir_measures

        ids = [str(query_id) for query_id in candidates.query_ids]
        if len(set(ids)) < len(ids):
            raise ValueError("two queries have the same id, so their judgments cannot be told apart")
        queries = pd.DataFrame({"qid": ids, "query": list(candidates.queries), "query_vec": list(vectors)})
        found = self.retriever.transform(queries)
        judged = self.qrels[self.qrels["qid"].isin(ids)]
        measured = ir_measures.iter_calc(
            [ir_measures.parse_measure(self.measure)],
            judged.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"}),
            found.rename(columns={"qid": "query_id", "docno": "doc_id"})[["query_id", "doc_id", "score"]],
        )
        values = {metric.query_id: metric.value for metric in measured}
        return np.array([values.get(query_id, 0.0) for query_id in ids])

    def __repr__(self) -> str:
        judged = f"<{len(self.qrels)} judgments>"
        return f"MeasureGain({self.retriever!r}, {judged}, {self.measure!r}, fusion={self.fusion!r})"


#: the rewards that need similarities only; "self" and "retriever" together are the paper's (Eq. 11)
REWARDS: Mapping[str, Reward] = {
    "self": lambda candidates: self_reward(candidates.to_answer),
    "retriever": lambda candidates: retriever_reward(candidates.to_gold),
    "self-margin": lambda candidates: cosine_margin(candidates.to_answer),
    "retriever-margin": lambda candidates: cosine_margin(candidates.to_gold),
}
