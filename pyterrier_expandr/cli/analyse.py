"""`expandr analyse ...`: what expansions look like, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Collection, Device, Split, app, open_collection, topics_of

if TYPE_CHECKING:
    import pandas as pd

analyse = typer.Typer(
    help="Explain a result: numbers to the terminal, a picture to --out.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(analyse, name="analyse")

Results = Annotated[Path, typer.Argument(help="Folder of an experiment (expandr experiment).")]
Expansions = Annotated[
    list[str], typer.Option(help="NAME=FILE, a JSONL file of `expandr expand`; once for each system.")
]


def _checked(path: Path | None) -> Path | None:
    """A picture's name is checked before the work, not after it."""
    from ..analysis.figures import check_picture

    check_picture(path)
    return path


Picture = Annotated[Path | None, typer.Option(help="Save the picture here: .svg, .png or .pdf.", callback=_checked)]


@analyse.command(epilog="Example: expandr analyse lengths --expansions vanilla=vanilla.jsonl --out lengths.svg")
def lengths(
    expansions: Expansions,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens of this model (hub name or folder); words if not given.")
    ] = None,
    out: Picture = None,
) -> None:
    """How long the expansions are."""
    from ..analysis import expansion_lengths, lengths_plot

    measured = expansion_lengths({name: recorded(path) for name, path in pairs_of(expansions)}, tokenizer)
    typer.echo(f"length in {measured['unit'].iloc[0]}")
    summary = measured.groupby("system", sort=False)["length"].describe()[["count", "mean", "std", "min", "50%", "max"]]
    show(summary.rename(columns={"count": "texts", "50%": "median"}).reset_index(), places=1)
    if out is not None:
        lengths_plot(measured, path=out)


@analyse.command(epilog="Example: expandr analyse bleu --expansions vanilla=v.jsonl --collection pocket --out bleu.svg")
def bleu(
    expansions: Expansions,
    collection: Collection,
    split: Split = "test",
    answers: Annotated[Path | None, typer.Option(help="JSONL file of answers, in the format of expansions.")] = None,
    out: Picture = None,
) -> None:
    """How much of the gold documents' wording, and of the answers', the expansions share."""
    from ..analysis import bleu_against, bleu_plot, gold_documents

    dataset = open_collection(collection, split)
    topics = topics_of(dataset)
    references = {"gold documents": gold_documents(dataset)}
    if answers is not None:
        lists = recorded(answers, topics).rename(columns={"query_expansions": "text"})
        references = {"answers": lists.explode("text").dropna(subset="text"), **references}
    given = {name: recorded(path, topics) for name, path in pairs_of(expansions)}
    scores = bleu_against(given, references)
    show(scores.drop(columns="signature"), places=2)
    typer.echo(f"sacreBLEU {scores['signature'].iloc[0]}")
    if out is not None:
        bleu_plot(scores, path=out)


@analyse.command(epilog="Example: expandr analyse entailment --expansions v=v.jsonl --collection pocket --model NAME")
def entailment(
    expansions: Expansions,
    collection: Collection,
    model: Annotated[str, typer.Option(help="Hub name or folder of a cross-encoder for natural language inference.")],
    split: Split = "test",
    device: Device = None,
) -> None:
    """How far the gold documents support what the expansions say (0 to 100)."""
    from ..analysis import entailment as judge
    from ..analysis import gold_documents

    dataset = open_collection(collection, split)
    topics = topics_of(dataset)
    given = {name: recorded(path, topics) for name, path in pairs_of(expansions)}
    show(judge(given, gold_documents(dataset), model, device=device, verbose=True), places=2)


@analyse.command(
    epilog="Example: expandr analyse alignment --expansions E=e.jsonl --collection pocket --encoder NAME --out a.svg"
)
def alignment(
    expansions: Expansions,
    collection: Collection,
    encoder: Annotated[str, typer.Option(help="An encoder: a name of `expandr models`, hub name or folder.")],
    split: Split = "test",
    pairs: Annotated[int, typer.Option(help="Query-document pairs, taken at random.", min=2)] = 10,
    seed: Annotated[int, typer.Option(help="Of that choice, and of t-SNE.")] = 42,
    device: Device = None,
    out: Picture = None,
) -> None:
    """How near queries are to their documents, alone and with each system's expansions."""
    from ..analysis import alignment_distances, alignment_plot, gold_documents, pair_vectors
    from ..encoding.registry import load_encoder
    from ..expansion.expander import RecordedExpander

    chosen = gold_documents(open_collection(collection, split), n=pairs, seed=seed)
    model = load_encoder(encoder, fuse=True, device=device)
    queries, documents = model.query_encoder(), model.doc_encoder()
    settings = {"query alone": pair_vectors(chosen, queries, documents)}
    for name, path in pairs_of(expansions):
        settings[name] = pair_vectors(chosen, RecordedExpander(path) >> queries, documents)
    show(alignment_distances(settings), places=3)
    if out is not None:
        alignment_plot(settings, seed=seed, path=out)


@analyse.command(
    epilog="Example: expandr analyse transfer --expansions E=e.jsonl --collection pocket --index Contriever=c.faiss"
)
def transfer(
    expansions: Expansions,
    collection: Collection,
    index: Annotated[list[str], typer.Option(help="NAME=FOLDER of an index, which knows its encoder; once for each.")],
    split: Split = "test",
    measure: Annotated[str, typer.Option(help="Any measure of ir-measures.")] = "nDCG@10",
    device: Device = None,
) -> None:
    """Which retrievers each system's expansions help: a matrix, with the query alone in its first row."""
    import ir_measures

    from ..analysis import transfer as matrix
    from ..expansion.expander import RecordedExpander
    from ..retrieval.faiss_index import FaissIndex

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
    baseline: Annotated[str, typer.Option(help="The system without.")],
    measure: Annotated[str, typer.Option(help="A measure of the experiment.")] = "nDCG@10",
    on: Annotated[list[str] | None, typer.Option(help="Collections of the experiment; all if not given.")] = None,
    texts: Annotated[str | None, typer.Option(help="Print queries with their texts, from this collection.")] = None,
    split: Split = "test",
    show_worst: Annotated[int, typer.Option(help="How many of the queries hurt most are printed.", min=0)] = 10,
    out: Picture = None,
) -> None:
    """Which queries gain and lose by expansion, and the ones that it hurts most."""
    from ..analysis import change_plot, per_query_change
    from ..evaluation.results import Results as ResultSet

    scores = ResultSet.load(results, collections=collections_of(on)).per_query
    topics = None if texts is None else topics_of(open_collection(texts, split))
    changes = per_query_change(scores, system, baseline, measure=measure, topics=topics)
    values = changes["change"]
    gain, loss = (values > 0).sum(), (values < 0).sum()
    typer.echo(f"{measure}, {system} minus {baseline}: {values.mean():+.4f} in the mean over {len(values)} queries")
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

    from ..analysis import case_study
    from ..evaluation.results import Results as ResultSet

    opened = ResultSet.load(results)
    name = on or opened.collections[0]
    if on is None and len(opened.collections) > 1:
        raise ValueError(f"the experiment has several collections, choose one with --on: {opened.collections}")
    dataset = open_collection(collection, split)
    files = dict(pairs_of(expansions))
    if unknown := sorted(set(files) - set(opened.systems)):
        raise ValueError(f"there are expansions of {unknown}, but the experiment's systems are {opened.systems}")
    systems = {}
    cells = opened.cells[opened.cells["collection"] == name].set_index("system")["state"]
    for system in opened.systems:
        if cells.get(system) != "done":
            typer.echo(f"{system} has no results on {name}: left out", err=True)
            continue
        run = opened.run(system, name)
        if system in files:
            texts = recorded(files[system], topics_of(dataset))
            run = run.merge(texts[["qid", "query_expansions"]], on="qid", how="left")
        systems[system] = pt.Transformer.from_df(run)
    study = case_study(query, systems, dataset, measure=measure, min_words=min_words)
    typer.echo(f"{study.query}\ngold document: {study.gold[0]} {study.gold[1]}")
    for part in study.parts:
        rank = "not retrieved" if part.gold_rank is None else f"rank {part.gold_rank}"
        typer.echo(f"  {part.system}: {measure} {part.score:.4f}, gold document {rank}")
    if out is not None:
        study.save(out)


def collections_of(names: list[str] | None) -> list[str] | None:
    """Names as an experiment has them: "CQADupStack" stands for its sub-forums; None for all."""
    from ..evaluation.averages import FORUMS

    if names is None:
        return None
    return [each for name in names for each in (FORUMS if name == "CQADupStack" else [name])]


def pairs_of(options: list[str]) -> list[tuple[str, str]]:
    """(NAME, VALUE) of options like NAME=VALUE.

    Raises:
        ValueError: an option is not of this form, or a name stands there twice.

    Example:
        >>> pairs_of(["vanilla=a=b.jsonl"])
        [('vanilla', 'a=b.jsonl')]
    """
    pairs = [(name, value) for name, _, value in (option.partition("=") for option in options)]
    if wrong := [option for option, pair in zip(options, pairs, strict=True) if not all(pair)]:
        raise ValueError(f"write NAME=VALUE, not {wrong[0]!r}")
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"each name may stand there once, got {[name for name, _ in pairs]}")
    return pairs


def recorded(path: str | Path, topics: pd.DataFrame | None = None) -> pd.DataFrame:
    """`[qid, query, query_expansions]` of a file, cleaned as in a pipeline; of all its queries, or of `topics`.

    Queries without recorded expansions get an empty list.
    """
    import pandas as pd

    from ..expansion.expander import RecordedExpander
    from ..expansion.recorded import read_expansions

    if topics is None:
        by_qid, by_query = read_expansions(path)
        records = [*by_qid.values(), *(record for record in by_query.values() if record.qid is None)]
        # A line may lack the one or the other; either finds it again.
        rows = [(record.qid or record.query, record.query or record.qid) for record in records]
        topics = pd.DataFrame(rows, columns=["qid", "query"])
    return RecordedExpander(path, on_missing="query-only").transform(topics)


def show(frame: pd.DataFrame, places: int) -> None:
    """Print a frame as a table."""
    typer.echo(frame.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.{places}f}"))
