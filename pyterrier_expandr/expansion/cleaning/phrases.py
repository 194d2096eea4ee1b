"""How the lists of phrases in this package are written: in readable form."""
# ruff: noqa: RUF001  models write typographic apostrophes

from __future__ import annotations


def phrases(written: str) -> str:
    """The regular expression that `written` stands for, as a group; line breaks are only for readability.

    A space stands for white space of any length, and an apostrophe also for the typographic one.

    Example:
        >>> phrases("let me know|feel free")
        '(?:let\\\\s+me\\\\s+know|feel\\\\s+free)'
    """
    one_line = "".join(map(str.strip, written.splitlines()))
    return f"(?:{one_line})".replace(" ", r"\s+").replace("'", "['’]")
