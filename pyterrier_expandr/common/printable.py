"""Makes text from outside safe to show in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` with everything that would control a terminal (escape sequences, direction marks) written as `\x1b`.

    Line breaks and tabs are kept.

    Example:
        >>> printable("\x1b[2Jwiped\n\u202eback")
        '\\x1b[2Jwiped\n\\u202eback'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
