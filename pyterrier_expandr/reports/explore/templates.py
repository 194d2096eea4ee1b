"""The templates of the page, filled; every text from data is escaped."""

from __future__ import annotations

from typing import Any


def render(name: str, **parts: Any) -> str:
    """The template `name` of `assets/` with `parts` in it.

    Example:
        >>> "&lt;b&gt;" in render("report.html", report={"about": ["<b>"]}, notes=[], level=0.05)
        True
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__, "assets"), autoescape=True)
    return environment.get_template(name).render(**parts)
