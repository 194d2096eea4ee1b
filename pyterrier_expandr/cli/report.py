"""`expandr report`: the tables of an experiment, next to the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.files import replacing
from ..common.locks import one_writer
from .common import app, collections_of, pairs_of, say


@app.command(epilog="Example: expandr report OUT --baseline dense --paper ExpandR=Contriever/ExpandR --format html")
def report(
    results: Annotated[Path, typer.Argument(help="Folder of an experiment, or of an adapter trained online.")],
    format: Annotated[str, typer.Option(help="md, latex or html.")] = "md",
    baseline: Annotated[str | None, typer.Option(help="The system that others are tested against.")] = None,
    paper: Annotated[
        list[str] | None,
        typer.Option(help="SYSTEM=ROW of the paper that it corresponds to, such as ExpandR=Contriever/ExpandR."),
    ] = None,
    system: Annotated[list[str] | None, typer.Option(help="Only these systems, in this order.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="Only these collections, in this order.")] = None,
    measure: Annotated[list[str] | None, typer.Option(help="Only these measures, in this order.")] = None,
    layout: Annotated[str, typer.Option(help="What makes a row: collections (Tables 2, 5-8) or systems (3).")] = (
        "collections"
    ),
    title: str = "Results",
    out: Annotated[Path | None, typer.Option(help="Write the report to this file instead of printing it.")] = None,
) -> None:
    """Tables of an experiment with significance and the paper's values, or the curves of an online training run."""
    from ..training.expander.online.report import is_training_run

    if is_training_run(results):
        options = {"--baseline": baseline, "--paper": paper, "--system": system, "--on": on, "--measure": measure}
        given: dict[str, Any] = options | {"--format": format != "md", "--title": title != "Results"}
        given["--layout"] = layout != "collections"
        if unused := [name for name, value in given.items() if value]:
            raise ValueError(
                f"{results} is a training run, whose report has no {', '.join(unused)}: leave them out, and name the "
                "file of a picture with --out if you want one"
            )
        _of_training(results, out)
        return
    from ..evaluation.results import Results as ResultSet
    from ..reports.page import report as written

    chosen: dict[str, Any] = {"format": format, "layout": layout}
    text = written(
        ResultSet.load(results, systems=system, collections=collections_of(on)),
        **chosen,
        baseline=baseline,
        paper=dict(pairs_of(paper or [])),
        measures=measure,
        title=title,
    )
    if out is None:
        say(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with one_writer(out), replacing(out) as part:
        part.write_text(text, encoding="utf-8")
    typer.echo(f"report in {out}")


def _of_training(run: Path, out: Path | None) -> None:
    """Print the table of a run's evaluations, or write it (.md) or their curves (.png, .svg, .pdf) to a file."""
    from ..training.expander.online.report import training_picture, training_report, training_rows

    rows = training_rows(run)
    if out is None:
        say(training_report(rows), nl=False)
        return
    if out.suffix not in (".md", ".png", ".svg", ".pdf"):
        raise ValueError(
            f"the report of a training run is a table (.md) or a picture (.png, .svg, .pdf), got {out.name!r}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with one_writer(out), replacing(out) as part:
        if out.suffix == ".md":
            part.write_text(training_report(rows), encoding="utf-8")
        else:
            training_picture(rows).savefig(part, dpi=150, format=out.suffix[1:])
    typer.echo(f"report in {out}")
