"""What every source of training data gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingExample:
    """One query with its relevant documents, and negatives and expansions where there are some.

    Texts are as an encoder reads documents (`title + " " + text` where there is a title). `positive_ids` names
    `positives` in the same order, best grade first; a source without document ids gives ids of its own.

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
