"""Which texts of documents a page holds: each once, the most important first, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence

from .packing import blocks_of
from .sources import Text

#: characters of a document that are shown
CHARACTERS = 2_000

#: documents that the browser decodes at once
BLOCK = 1_000

#: no text compresses further than this, so that no more is tried
SHRINKS_TO = 0.2


def fitting(
    docnos: Sequence[str], texts: Sequence[Text | None], importance: Sequence[float], room: float
) -> tuple[list[str], int]:
    """Packed blocks of `[docno, title, text]` in no more than `room` bytes, and how many texts did not fit.

    Args:
        docnos: the documents by number.
        texts: of each, or None if it has none.
        importance: smaller numbers are kept first; documents that do not fit keep only their docno.
        room: bytes.

    Example:
        >>> blocks, without = fitting(["a", "b"], [("", "x" * 9), ("", "y" * 9)], [1, 2], 1e6)
        >>> len(blocks), without
        (1, 0)
    """
    shown = [None if text is None else _cut(text) for text in texts]
    order = sorted((number for number, text in enumerate(shown) if text), key=lambda number: importance[number])
    characters = min(sum(len(text) + len(title) for title, text in filter(None, shown)), room / SHRINKS_TO)
    while True:
        kept = _first(order, shown, characters)
        rows = [[docno, *(shown[number] or ())] if number in kept else [docno] for number, docno in enumerate(docnos)]
        blocks = blocks_of(rows, BLOCK)
        size = sum(map(len, blocks))
        if size <= room or not kept:
            return blocks, len(order) - len(kept)
        characters = min(characters * room / size, characters - 1) * 0.95


def _cut(text: Text) -> Text:
    title, body = text
    return title[:300], body if len(body) <= CHARACTERS else body[:CHARACTERS] + " […]"


def _first(order: list[int], shown: Sequence[Text | None], characters: float) -> set[int]:
    """The documents at the start of `order` that have no more than `characters` together."""
    kept: set[int] = set()
    for number in order:
        title, text = shown[number] or ("", "")
        characters -= len(title) + len(text)
        if characters < 0:
            break
        kept.add(number)
    return kept
