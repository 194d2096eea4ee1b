"""Removes the prompt if a model begins by repeating it."""
# ruff: noqa: RUF001  models write full-width marks

from __future__ import annotations

import re
from collections.abc import Iterator

from ..prompts import PROMPTS

#: prompts to look for if the real one is not known: those in which only a one-line query is unknown
_NAMED = tuple(prompt for prompt in PROMPTS.values() if not re.search(r"\{(?!query\})", prompt))
_QUERY = r"[^\n]{1,500}?"
_ASKS = re.compile(r"\s*(?:question|query)\s*:", re.IGNORECASE)
# A one-line prompt that is not a sentence may also be the title of the passage ("Tim Berners-Lee").
_SENTENCE_LIKE = re.compile(r"[.:?!。：？！]")
_ROLE = r"\s*(?:user[ \t]*\n\s*)?"


def without_echo(text: str, prompt: str | None = None) -> str:
    """`text` without the prompt at its beginning: all of it, its first lines, or its lines from the question on.

    White space and letter case are ignored. Without `prompt`, the named prompts are looked for, with any query.

    Example:
        >>> prompt = "Write an answer.\\nQuestion: why is it blue\\nPassage:"
        >>> without_echo("Question: why is it blue\\nPassage: Air scatters light.", prompt)
        'Air scatters light.'
    """
    for asked in _NAMED if prompt is None else (prompt,):
        for lines in _endings(asked):
            for rest in (_after_all(text, lines), _after_some(text, lines)):
                if rest is not None and re.search(r"\w", rest):
                    return rest
    return text


def _endings(prompt: str) -> Iterator[list[str]]:
    """The lines of a prompt from the start and from its question on: an echo never starts in a document in between."""
    lines = [line for line in prompt.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        if place == 0 or _ASKS.match(line):
            yield lines[place:]


def _after_all(text: str, lines: list[str]) -> str | None:
    """The text after all of `lines`, whatever white space is between them."""
    if not _may_begin(text, lines[0]) or not _SENTENCE_LIKE.search("".join(lines)):
        return None
    found = re.match(_ROLE + r"\s+".join(map(_pattern, lines)), text, re.IGNORECASE)
    # After a single line, a lower-case letter continues a sentence that merely begins so ("Why? is what ...").
    if not found or (len(lines) == 1 and re.match(r"[ \t]*[a-zà-ÿ]", text[found.end() :])):
        return None
    return text[found.end() :].lstrip()


def _after_some(text: str, lines: list[str]) -> str | None:
    """The text after those first lines of `lines` that `text` also has, each as a whole line."""
    end, count = 0, 0
    while count < len(lines) and _may_begin(text[end:], lines[count]):
        found = re.match(_ROLE + _pattern(lines[count]) + r"[ \t]*(?:\n|$)", text[end:], re.IGNORECASE)
        if not found:
            break
        end, count = end + found.end(), count + 1
    enough = count > 1 or (count == 1 and _SENTENCE_LIKE.search(lines[0]))
    return text[end:].lstrip() if enough else None


def _may_begin(text: str, line: str) -> bool:
    """Whether the first word could begin an echo: most texts have none, and skip the pattern of a long prompt."""
    first = text.split(None, 1)[:1]
    return bool(first) and first[0].casefold() in (line.split()[0].casefold(), "user")


def _pattern(line: str) -> str:
    return r"\s+".join(map(re.escape, line.split())).replace(re.escape("{query}"), _QUERY)
