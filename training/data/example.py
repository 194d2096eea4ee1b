"""The record that every source of training data yields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingExample:
    """One query with its relevant documents, plus negatives and expansions if available.

    Texts are in the form an encoder reads (`title + " " + text` if there is a title). `positive_ids` identifies
    `positives` in the same order, best grade first; sources without document ids get generated ones.

    Example:
        >>> TrainingExample("1", "why is the sky blue", ("d7",), ("Air scatters short waves.",)).negatives
        ()
    """

    query_id: str
    query: str
    positive_ids: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    expansions: tuple[str, ...] = ()
