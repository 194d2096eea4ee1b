"""How the lists of phrases in this room are written: as one reads them."""
# ruff: noqa: RUF001  typographic apostrophes are what models write

from __future__ import annotations


def phrases(written: str) -> str:
    """The regular expression that `written` stands for, as a group: line breaks are for the reader alone.

    A space stands for white space of any length, and an apostrophe for the typographic one too.

    Example:
        >>> phrases("let me know|feel free")
        '(?:let\\\\s+me\\\\s+know|feel\\\\s+free)'
    """
    one_line = "".join(map(str.strip, written.splitlines()))
    return f"(?:{one_line})".replace(" ", r"\s+").replace("'", "['’]")
