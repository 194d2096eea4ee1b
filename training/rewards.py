"""How well an expansion serves retrieval: rewards over the candidates of a query, as pure functions on arrays.

A reward takes a similarity matrix of shape (n_queries, n_candidates) and gives a reward of the same shape; larger is
better. Your own is any such function.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranks(similarity: np.ndarray) -> np.ndarray:
    """Ranks (n, m), int64, of each row's candidates: 1 for the most similar; of equal ones the first is ahead.

    Raises:
        ValueError: `similarity` is no matrix, or has NaN (the rows are named).

    Example:
        >>> ranks(np.array([[0.2, 0.9, 0.2]]))
        array([[2, 1, 3]])
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2:
        raise ValueError(f"similarity must have the shape (n_queries, n_candidates), got {similarity.shape}")
    if np.isnan(similarity).any():
        rows = np.flatnonzero(np.isnan(similarity).any(axis=1))[:5].tolist()
        raise ValueError(f"similarity has NaN in rows {rows}: an embedding of theirs is broken")
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
        ValueError: nothing to combine, shapes that differ, or another number of weights than rewards.

    Example:
        >>> combined_reward([np.array([[1.0, 0.5]]), np.array([[0.5, 1.0]])], weights=(1, 0))
        array([[1. , 0.5]])
    """
    weights = [1.0] * len(rewards) if weights is None else weights
    shapes = {np.shape(reward) for reward in rewards}
    if len(shapes) != 1 or len(weights) != len(rewards):
        raise ValueError(
            f"combine rewards of one shape with one weight each, got shapes {sorted(shapes)} and {len(weights)} weights"
        )
    return np.sum([weight * reward for weight, reward in zip(weights, rewards, strict=True)], axis=0)
