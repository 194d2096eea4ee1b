"""Streams cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `items` in lists of `size` (the last may be shorter), holding one list at a time.

    Example:
        >>> list(in_chunks(range(5), 2))
        [[0, 1], [2, 3], [4]]
    """
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
