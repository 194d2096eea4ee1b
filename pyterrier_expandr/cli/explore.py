"""`expandr explore`: the page of an experiment, or of TREC runs."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Device, Split, app, collections_of, pairs_of

if TYPE_CHECKING:
    from ..evaluation.results import Results as ResultSet


@app.command(
    epilog="Examples: expandr explore OUT --baseline dense --open\n\n"
    "expandr explore --run a.trec --run b.trec --collection scifact --data beir"
)
def explore(
    results: Annotated[Path | None, typer.Argument(help="Folder of an experiment (expandr experiment).")] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="Instead of RESULTS: a TREC run, FILE or NAME=FILE; repeat it.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Of the runs: SciFact ..., pocket, irds:NAME, a folder in BEIR format.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of BEIR folders; if not given, where the experiment found them.")
    ] = None,
    split: Split = "test",
    baseline: Annotated[
        str | None, typer.Option(help="The system that others are tested against; the first if not given.")
    ] = None,
    system: Annotated[list[str] | None, typer.Option(help="Only these systems, in this order.")] = None,
    on: Annotated[list[str] | None, typer.Option(help="Only these collections, in this order.")] = None,
    measure: Annotated[
        list[str] | None, typer.Option(help="Only these measures; of runs, any measure of ir-measures.")
    ] = None,
    expansions: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: a system's passages, if the results do not hold them.")
    ] = None,
    queries: Annotated[int, typer.Option(help="Queries to show: those that differ most.", min=1)] = 2_000,
    depth: Annotated[int, typer.Option(help="Documents of a ranking to show.", min=1)] = 100,
    maps: Annotated[int, typer.Option(help="Queries whose embeddings are drawn; 0 loads no encoder.", min=0)] = 100,
    megabytes: Annotated[float, typer.Option(help="How large the page may be.", min=1)] = 20,
    title: str = "Results",
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="The page; default: explore.html in RESULTS, or here.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """One HTML page to look at results: systems, queries, passages, rankings, documents."""
    from ..reports.explore.page import explore as page_of

    if out is not None and out.is_dir():
        raise ValueError(f"{str(out)!r} is a folder, but --out is the file of the page: name one, such as explore.html")
    if (results is None) == (not run):
        raise ValueError("give either the folder of an experiment, or --run FILE for each ranking")
    runs = None if run is None else dict(pairs_of([_named(each) for each in run]))
    with _opened(results, runs, collection, data, split, measure) as opened:
        chosen = type(opened).load(opened.folder, systems=system, collections=collections_of(on))
        page = page_of(
            chosen,
            baseline=baseline,
            measures=measure if runs is None else None,
            data=data,
            expansions=dict(pairs_of(expansions or [])),
            queries=queries,
            depth=depth,
            maps=maps,
            megabytes=megabytes,
            title=title,
            device=device,
            verbose=True,
        )
    target = page.save(out or (Path("explore.html") if results is None else results / "explore.html"))
    typer.echo("".join(f"note: {note}\n" for note in page.notes), nl=False)
    typer.echo(f"page in {target} ({len(page.html) / 1e6:.1f} MB)")
    if open and not webbrowser.open(address := target.resolve().as_uri()):
        typer.echo(f"note: no browser could be started: open {address} in one")


def _named(run: str) -> str:
    """NAME=FILE; a file alone is named after itself."""
    return run if "=" in run and not Path(run).is_file() else f"{Path(run.removesuffix('.gz')).stem}={run}"


@contextmanager
def _opened(
    results: Path | None,
    runs: dict[str, str] | None,
    collection: str | None,
    data: Path | None,
    split: str,
    measures: list[str] | None,
) -> Iterator[ResultSet]:
    """The results in a folder, or of runs, which get one for as long as the page is made."""
    from ..evaluation import beir
    from ..evaluation.results import Results
    from ..reports.explore.runs import results_of_runs

    if runs is None:
        if collection is not None:
            raise ValueError("--collection is for --run: an experiment knows its collections; choose some with --on")
        assert results is not None
        yield Results.load(results)
        return
    if collection is None:
        raise ValueError("runs need the collection that they were made on: --collection NAME (and --data FOLDER)")
    named = beir.resolve(collection, data=data, split=split)
    if len(named) > 1:
        raise ValueError(f"{collection!r} stands for {len(named)} collections: name one of them")
    with tempfile.TemporaryDirectory() as folder:
        yield results_of_runs(runs, named[0], folder, measures=measures or beir.MEASURES)
