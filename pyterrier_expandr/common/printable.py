"""Makes text from outside safe to show in a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""`text` with everything that would control a terminal (escape sequences, direction marks) written as `\x1b`.

    Line breaks, tabs and spaces of any width are kept.

    Example:
        >>> printable("\x1b[2Jwiped\n\u202eback")
        '\\x1b[2Jwiped\n\\u202eback'
    """
    return "".join(c if _is_shown(c) else repr(c)[1:-1] for c in text)


def _is_shown(character: str) -> bool:
    # Spaces of other widths count as not printable in Python, but only take room, and Chinese and Japanese use them.
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"
