"""Phrases that two texts share."""

from __future__ import annotations

import html
import re

WORD = re.compile(r"\w+")

#: English function words, which do not indicate shared content
FUNCTION_WORDS = frozenset(
    """a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it
    its may might more most must no nor not of on or our she should so such than that the their them then there these
    they this those to too us was we were what when where which while who whom why will with would you your""".split()
)


def shared_phrases(text: str, other: str, min_words: int = 2) -> list[tuple[int, int]]:
    """Phrases of at least `min_words` words that `text` shares with `other`, as (start, end) in characters of `text`.

    Case and characters between words are ignored. English function words at either end of a phrase are counted but not
    returned, and phrases that consist of function words alone are left out.

    Raises:
        ValueError: `min_words` below 1.

    Example:
        >>> text = "The same side of the Moon faces us."
        >>> [text[start:end] for start, end in shared_phrases(text, "one side of the moon, always")]
        ['side of the Moon']
    """
    if min_words < 1:
        raise ValueError(f"min_words must be 1 or more, got {min_words}")
    words = list(WORD.finditer(text))
    mine, theirs = [word.group().lower() for word in words], [word.lower() for word in WORD.findall(other)]
    phrases = {tuple(theirs[i : i + min_words]) for i in range(len(theirs) - min_words + 1)}
    shared = [False] * len(words)
    for i in range(len(words) - min_words + 1):
        if tuple(mine[i : i + min_words]) in phrases:
            shared[i : i + min_words] = [True] * min_words
    runs = [_without_ends(run, mine) for run in _runs(shared)]
    return [(words[run[0]].start(), words[run[-1]].end()) for run in runs if run]


def _runs(flags: list[bool]) -> list[list[int]]:
    """The positions of True, grouped into consecutive runs."""
    runs: list[list[int]] = []
    for i, flag in enumerate(flags):
        if flag and i and flags[i - 1]:
            runs[-1].append(i)
        elif flag:
            runs.append([i])
    return runs


def _without_ends(run: list[int], words: list[str]) -> list[int]:
    content = [i for i in run if words[i] not in FUNCTION_WORDS]
    return list(range(content[0], content[-1] + 1)) if content else []


def highlighted(text: str, spans: list[tuple[int, int]]) -> str:
    """`text` as HTML, escaped, with the spans in `<mark>`.

    Example:
        >>> highlighted("a < b", [(0, 1)])
        '<mark>a</mark> &lt; b'
    """
    parts, done = [], 0
    for start, end in spans:
        parts += [html.escape(text[done:start]), f"<mark>{html.escape(text[start:end])}</mark>"]
        done = end
    return "".join([*parts, html.escape(text[done:])])
