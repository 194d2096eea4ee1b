"""Tables as the paper prints them, before they are Markdown, LaTeX or HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

#: what a row stands for: a collection, as in the paper's Tables 2 and 5-8, or a system, as in Table 3
Layout = Literal["collections", "systems"]

MISSING = "–"  # noqa: RUF001  an en dash, as tables print for "no value"


@dataclass(frozen=True)
class Cell:
    """One printed value: its text, its formatting, and a sign (such as a dagger) after it."""

    text: str = MISSING
    bold: bool = False
    underlined: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """One system's values, or the paper's next to them, by collection."""

    label: str
    cells: dict[str, Cell]
    beside: bool = False

    @property
    def group(self) -> str:
        """The part before the slash in "Contriever/ExpandR"; empty if there is no slash."""
        return self.label.rpartition("/")[0] if not self.beside else ""


@dataclass(frozen=True)
class Table:
    """Lines over the same collections, the averages last, with notes below.

    Attributes:
        title: what the table shows.
        lines: one per system, each followed by the paper's, if any.
        collections: in the order of rows or columns.
        averages: the names among them that are averages.
        notes: what bold, daggers and other signs mean, and what is missing.
        layout: whether collections are rows or columns.
    """

    title: str
    lines: list[Line]
    collections: list[str]
    averages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layout: Layout = "collections"

    @property
    def keys(self) -> list[str]:
        """Collections, then averages."""
        return [*self.collections, *self.averages]

    def header(self) -> list[str]:
        """The titles of the columns, including the first."""
        if self.layout == "collections":
            return ["", *(line.label for line in self.lines)]
        return ["", *self.keys]

    def groups(self) -> list[tuple[str, int]]:
        """Names over adjacent columns and how many each spans; empty if no two columns share one."""
        if self.layout != "collections":
            return []
        names: list[str] = []
        for line in self.lines:
            names.append(names[-1] if line.beside and names else line.group)
        spans = [(name, len(list(members))) for name, members in groupby(names)]
        return spans if any(name and count > 1 for name, count in spans) else []

    def rows(self) -> list[tuple[str, list[Cell]]]:
        """The label and the cells of each row."""
        if self.layout == "collections":
            return [(key, [line.cells.get(key, Cell()) for line in self.lines]) for key in self.keys]
        return [(line.label, [line.cells.get(key, Cell()) for key in self.keys]) for line in self.lines]

    def rules(self) -> set[int]:
        """Which rows have a rule above them: the first average, or the first system of a group."""
        if self.layout == "collections":
            return {len(self.collections)} if self.averages and self.collections else set()
        breaks, last = set(), None
        for number, line in enumerate(self.lines):
            if not line.beside and line.group != last:
                breaks.add(number)
                last = line.group
        return breaks - {0}


def with_best(values: dict[str, float], places: int = 2) -> dict[str, Cell]:
    """Each system's value as a cell: the best in bold, the second underlined; compared as printed at `places`.

    A single system is neither.

    Example:
        >>> cells = with_best({"a": 10.0, "b": 12.001, "c": 12.0})
        >>> cells["b"].bold, cells["c"].bold, cells["a"].underlined
        (True, True, True)
    """
    printed = {system: f"{value:.{places}f}" for system, value in values.items()}
    order = sorted({float(text) for text in printed.values()}, reverse=True)
    best, second = (order[0], order[1]) if len(order) > 1 else (None, None)
    return {
        system: Cell(text, bold=float(text) == best, underlined=float(text) == second)
        for system, text in printed.items()
    }
