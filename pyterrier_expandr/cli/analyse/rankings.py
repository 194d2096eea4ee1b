"""`expandr analyse transfer|change|case`: how the passages affect rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import (
    Collection,
    Device,
    Results,
    Split,
    collections_of,
    open_collection,
    pairs_of,
    recorded,
    say,
    show,
    topics_of,
)
from .app import Expansions, Picture, analyse


@analyse.command(
    epilog="Example: expandr analyse transfer --expansions E=e.jsonl --collection pocket --index Contriever=c.faiss"
)
def transfer(
    expansions: Expansions,
    collection: Collection,
    index: Annotated[list[str], typer.Option(help="NAME=FOLDER of an index, which records its encoder; repeat it.")],
    split: Split = "test",
    measure: Annotated[str, typer.Option(help="Any measure of ir-measures.")] = "nDCG@10",
    device: Device = None,
) -> None:
    """Which retrievers each system's expansions help: a matrix, with the query alone in its first row."""
    import ir_measures

    from ...analysis import transfer as matrix
    from ...expansion.expander import RecordedExpander
    from ...retrieval.faiss_index import FaissIndex

    dataset = open_collection(collection, split)
    opened = {name: FaissIndex(folder) for name, folder in pairs_of(index)}
    retrievers = {name: each.query_encoder(device=device) >> each.retriever() for name, each in opened.items()}
    expanders = {"query alone": None} | {name: RecordedExpander(path) for name, path in pairs_of(expansions)}
    parsed = ir_measures.parse_measure(measure)
    table = matrix(expanders, retrievers, topics_of(dataset), dataset.get_qrels(), measure=parsed)
    show(table.rename_axis(columns=None).reset_index(), places=4)


@analyse.command(epilog="Example: expandr analyse change OUT --system ExpandR --baseline dense --out change.svg")
def change(
    results: Results,
    system: Annotated[str, typer.Option(help="The system with expansion.")],
    baseline: Annotated[str, typer.Option(help="The system without expansion.")],
    measure: Annotated[str, typer.Option(help="A measure of the experiment.")] = "nDCG@10",
    on: Annotated[list[str] | None, typer.Option(help="Collections of the experiment; all if not given.")] = None,
    texts: Annotated[
        str | None, typer.Option(help="Print queries with their texts, read from this collection.")
    ] = None,
    split: Split = "test",
    show_worst: Annotated[int, typer.Option(help="How many of the most hurt queries to print.", min=0)] = 10,
    out: Picture = None,
) -> None:
    """Which queries gain and lose from expansion, and which it hurts most."""
    from ...analysis import change_plot, per_query_change
    from ...evaluation.results import Results as ResultSet

    scores = ResultSet.load(results, collections=collections_of(on)).per_query
    topics = None if texts is None else topics_of(open_collection(texts, split))
    changes = per_query_change(scores, system, baseline, measure=measure, topics=topics)
    values = changes["change"]
    gain, loss = (values > 0).sum(), (values < 0).sum()
    say(f"{measure}, {system} minus {baseline}: {values.mean():+.4f} in the mean over {len(values)} queries")
    typer.echo(f"{gain} queries gain, {loss} lose, {len(values) - gain - loss} stay as they are")
    worst = changes[values < 0].iloc[::-1].head(show_worst)
    if len(worst):
        typer.echo("Hurt most:")
        show(worst, places=3)
    if out is not None:
        change_plot(changes, measure=measure, system=system, baseline=baseline, path=out)


@analyse.command(
    epilog="Example: expandr analyse case q01 OUT --collection pocket --expansions ExpandR=e.jsonl --out case.html"
)
def case(
    query: Annotated[str, typer.Argument(help="A qid, or a query's whole text.")],
    results: Results,
    collection: Collection,
    split: Split = "test",
    on: Annotated[str | None, typer.Option(help="The collection's name in the experiment, if it has several.")] = None,
    expansions: Expansions = [],  # noqa: B006  typer copies it
    measure: Annotated[str, typer.Option(help="Any measure of ir-measures.")] = "nDCG@10",
    min_words: Annotated[int, typer.Option(help="How many words in a row make a shared phrase.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Save the case here, as an HTML page.")] = None,
) -> None:
    """One query under each system of an experiment: scores, ranks, and phrases shared with the gold document."""
    import pyterrier as pt

    from ...analysis import case_study
    from ...evaluation.results import Results as ResultSet

    opened = ResultSet.load(results)
    name = on or opened.collections[0]
    if on is None and len(opened.collections) > 1:
        raise ValueError(f"the experiment has several collections, choose one with --on: {opened.collections}")
    dataset = open_collection(collection, split)
    files = dict(pairs_of(expansions))
    if unknown := sorted(set(files) - set(opened.systems)):
        raise ValueError(f"--expansions names {unknown}, but the experiment's systems are {opened.systems}")
    systems = {}
    cells = opened.cells[opened.cells["collection"] == name].set_index("system")["state"]
    for system in opened.systems:
        if cells.get(system) != "done":
            say(f"{system} has no results on {name}: left out", err=True)
            continue
        run = opened.run(system, name)
        if system in files:
            texts = recorded(files[system], topics_of(dataset))
            run = run.merge(texts[["qid", "query_expansions"]], on="qid", how="left")
        systems[system] = pt.Transformer.from_df(run)
    study = case_study(query, systems, dataset, measure=measure, min_words=min_words)
    say(f"{study.query}\ngold document: {study.gold[0]} {study.gold[1]}")
    for part in study.parts:
        rank = "not retrieved" if part.gold_rank is None else f"rank {part.gold_rank}"
        say(f"  {part.system}: {measure} {part.score:.4f}, gold document {rank}")
    if out is not None:
        study.save(out)
