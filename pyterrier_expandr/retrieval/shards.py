"""Several indexes of parts of a collection: merged into one, or searched together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding.vectors import describe_source, same_vectors, with_source

if TYPE_CHECKING:
    from .faiss_index import FaissIndex

#: number of vectors that are read from a shard at once
BLOCK = 1024


def check_shards(shards: Sequence[FaissIndex]) -> None:
    """Raise unless all `shards` are built, of one size and metric, and of one encoder; the one that differs is named.

    Raises:
        FileNotFoundError: a shard is not built. ValueError: there is none, or one differs from the first.
    """
    if not shards:
        raise ValueError("there are no shards: name at least one")
    first = shards[0]
    for shard in shards:
        for name in ("dim", "metric"):
            if shard.metadata[name] != first.metadata[name]:
                raise ValueError(
                    f"the shard {str(shard.path)!r} has {name} {shard.metadata[name]!r}, but {str(first.path)!r} has "
                    f"{first.metadata[name]!r}: all shards must be alike"
                )
        if not same_vectors(shard.encoder, first.encoder):
            raise ValueError(
                f"the shard {str(shard.path)!r} was made by {describe_source(shard.encoder)}, but {str(first.path)!r} "
                f"by {describe_source(first.encoder)} (or with other settings): index it again with that encoder"
            )


def documents_of(shards: Sequence[FaissIndex]) -> Iterator[dict[str, Any]]:
    """The `{"docno", "doc_vec"}` of all shards, one shard after another, as they were indexed.

    Raises:
        ValueError: a shard does not keep vectors as they are (another factory than "Flat").
    """
    for shard in shards:
        if not shard.exact:
            raise ValueError(
                f"the shard {str(shard.path)!r} has the factory {shard.metadata['factory']!r}, which does not keep "
                "vectors as they are: build shards as 'Flat', and give the merged index its factory; or search them "
                "together (retriever(shards=...))"
            )
    for shard in shards:
        opened, docnos, source = shard.open(), shard.docnos, shard.encoder
        for start in range(0, len(shard), BLOCK):
            vectors = opened.reconstruct_n(start, min(BLOCK, len(shard) - start))
            rows = vectors if source is None else with_source(vectors, source)
            for docno, vector in zip(docnos[start : start + BLOCK].to_pylist(), rows, strict=True):
                yield {"docno": docno, "doc_vec": vector}


def best_of(
    found: Sequence[tuple[np.ndarray, np.ndarray]], sizes: Sequence[int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of what several shards found: scores and numbers (n, k), best first, -1 for no document.

    Args:
        found: scores (the higher the better) and numbers (n, k of the shard) of each shard.
        sizes: the number of documents in each shard; numbers continue from one shard to the next.
        k: number of results.

    Example:
        >>> one, other = (np.array([[9.0, 1.0]]), np.array([[0, 1]])), (np.array([[5.0]]), np.array([[0]]))
        >>> best_of([one, other], [2, 1], 2)[1]
        array([[0, 2]])
    """
    starts = np.cumsum([0, *sizes[:-1]])
    scores = np.concatenate([part for part, _ in found], axis=1)
    numbers = np.concatenate(
        [np.where(part >= 0, part + start, -1) for (_, part), start in zip(found, starts, strict=True)], axis=1
    )
    scores = np.where(numbers >= 0, scores, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(numbers, best, axis=1)
