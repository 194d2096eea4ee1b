"""Splits a text into sentences, in scripts with and without spaces."""
# ruff: noqa: RUF001  models write full-width marks

from __future__ import annotations

import re
from typing import NamedTuple

_SENTENCE = re.compile(r"[^\S\n]*[^\n]*?(?:(?<![.!?…])[.!?…]+[\"”’»)\]*_]*(?=\s|$)|[。！？]+[」』”）]*|\n|$)")


class Sentence(NamedTuple):
    """One sentence or line: its words with single spaces, where it ends in the text, and whether it is finished."""

    words: str
    end: int
    finished: bool


def sentences(text: str) -> list[Sentence]:
    """The sentences and lines of `text` in order, skipping those without a word; only the last can be unfinished.

    Example:
        >>> [s.words for s in sentences("It is blue. Why?\\nAir  scatters")]
        ['It is blue.', 'Why?', 'Air scatters']
    """
    found = []
    for match in _SENTENCE.finditer(text):
        if re.search(r"\w", match[0]):
            words = " ".join(match[0].split())
            end = match.end() - (match[0][-1] == "\n")
            finished = match.end() < len(text) or words[-1] in '.!?…。！？"”’»)]*_」』）'
            found.append(Sentence(words, end, finished))
    return found
