"""Candidates for preference pairs: many expansions of each query, and an answer that has seen the gold document."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CandidateSet:
    """The candidates of one query, cleaned, ordered by temperature and then by sample.

    `temperatures` says at which temperature each candidate was drawn, in the same order; empty where it is not known.
    `answer` is "" where the model gave none.

    Example:
        >>> CandidateSet("1", "why is the sky blue", "d7", "Air.", "Scattering.", ("A.", "B."), (0.8, 1.0)).answer
        'Scattering.'
    """

    query_id: str
    query: str
    positive_id: str
    positive: str
    answer: str
    candidates: tuple[str, ...]
    temperatures: tuple[float, ...] = ()
