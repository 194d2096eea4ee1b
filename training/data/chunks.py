"""Streams in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `items` in lists of `size`, the last one perhaps shorter; no more than one list is held.

    Example:
        >>> list(in_chunks(range(5), 2))
        [[0, 1], [2, 3], [4]]
    """
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
