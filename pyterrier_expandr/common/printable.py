"""Text of others as a terminal may show it."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` with what a terminal obeys rather than shows (escape sequences, marks of direction) written as `\x1b`.

    Line breaks and tabs stay.

    Example:
        >>> printable("\x1b[2Jwiped\n\u202eback")
        '\\x1b[2Jwiped\n\\u202eback'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
