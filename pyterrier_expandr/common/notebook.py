"""How parts show themselves in a notebook: a table of their settings, below PyTerrier's drawing if there is one."""

from __future__ import annotations

from html import escape
from typing import Any

#: characters of a value; a list of a thousand records is not a setting to read
LONGEST = 200


class Shown:
    """Gives a class `_repr_html_`: the values of the attributes in `SHOWN`, other parts in tables of their own.

    Nothing is loaded, read from a model or asked from the network: a cell that shows a part costs nothing.

    Example:
        >>> class Part(Shown):
        ...     SHOWN = ("name", "size")
        ...     name, size = "<a>", None
        >>> Part()._repr_html_()
        '<table><caption>Part</caption><tr><th>name</th><td>&lt;a&gt;</td></tr></table>'
    """

    SHOWN: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """What the table tells; None is left out."""
        return {name.removeprefix("_"): getattr(self, name) for name in self.SHOWN}

    def _repr_html_(self) -> str:
        drawing = getattr(super(), "_repr_html_", lambda: None)()
        return (drawing or "") + table_of(self)


def table_of(part: Shown) -> str:
    """The table of one part as HTML; every value is escaped."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{_cell(value)}</td></tr>"
        for name, value in part.shown().items()
        if value is not None
    )
    return f"<table><caption>{escape(type(part).__name__)}</caption>{rows}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, Shown):
        return table_of(value)
    text = value if isinstance(value, str) else repr(value)
    return escape(text if len(text) <= LONGEST else text[:LONGEST] + " ...")
