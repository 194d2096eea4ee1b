"""A report of an experiment: its tables next to the paper's, in Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..evaluation.results import Results
from . import formats as report_formats
from .explore.page import explore
from .result_tables import result_tables
from .tables import Layout

Format = Literal["md", "latex", "html"]

FORMATS = {"md": report_formats.markdown, "latex": report_formats.latex}


def report(
    results: Results,
    format: Format = "md",
    *,
    baseline: str | None = None,
    paper: Mapping[str, str] | None = None,
    measures: Sequence[str] | None = None,
    layout: Layout = "collections",
    title: str = "Results",
) -> str:
    """One document with a table per measure, laid out as in the paper; every number is read from `results`.

    Values are in percent (or unscaled, for measures that exceed 1). The best value for a collection is bold, the second
    underlined. Significant differences from the baseline have a dagger: paired permutation test, Holm-corrected for the
    number of systems, p < 0.05. A system that corresponds to one of the paper's rows has the paper's values next to its
    own: with the difference if the settings are comparable, otherwise with a sign and the reason below the table (see
    `beside_paper`).

    Args:
        results: `Results.load(folder)`; choose systems and collections there.
        format: "md", "latex" (for booktabs) or "html": the page of `explore`, without the texts of documents.
        baseline: the system that others are tested against; None tests nothing, and in HTML the first system.
        paper: system -> the paper's row, such as {"mine": "Contriever/ExpandR"} or {"mine": "7:Contriever/ExpandR"}.
        measures: defaults to those of the experiment.
        layout: "collections" as rows (Tables 2 and 5-8) or "systems" as rows (Table 3).
        title: the heading.

    Raises:
        ValueError: nothing has been computed yet; an unknown format, layout, baseline, system, measure or paper row;
            two systems that were evaluated on different queries.

    Example:
        >>> text = report(Results.load("out"), "md", baseline="query alone")  # doctest: +SKIP
    """
    if format not in (*FORMATS, "html"):
        raise ValueError(f"format must be one of {[*FORMATS, 'html']}, got {format!r}")
    chosen: dict[str, Any] = {"baseline": baseline, "paper": paper, "measures": measures, "layout": layout}
    if format == "html":
        return explore(results, **chosen, title=title, texts=False, maps=0).html
    compared = None if baseline is None else results.compare(baseline, correction="holm")
    return FORMATS[format](title, *result_tables(results, compared=compared, **chosen))
