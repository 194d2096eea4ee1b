"""Tables of the pages, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells as they are: its heads, and a line for each row.

    Raises:
        ValueError: a row that has not as many cells as there are heads.
    """
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"a row of {len(row)} cells in a table with the {len(heads)} heads {', '.join(heads)}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
