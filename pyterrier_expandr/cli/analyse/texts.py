"""`expandr analyse lengths|bleu|entailment`: the passages themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Collection, Device, Split, open_collection, pairs_of, recorded, show, topics_of
from .app import Expansions, Picture, analyse


@analyse.command(epilog="Example: expandr analyse lengths --expansions vanilla=vanilla.jsonl --out lengths.svg")
def lengths(
    expansions: Expansions,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens of this model (hub name or folder); words if not given.")
    ] = None,
    out: Picture = None,
) -> None:
    """How long the expansions are."""
    from ...analysis import expansion_lengths, lengths_plot

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
    """How much wording the expansions share with the gold documents and the answers."""
    from ...analysis import bleu_against, bleu_plot, gold_documents

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
    """How well the gold documents support what the expansions say (0 to 100)."""
    from ...analysis import entailment as judge
    from ...analysis import gold_documents

    dataset = open_collection(collection, split)
    topics = topics_of(dataset)
    given = {name: recorded(path, topics) for name, path in pairs_of(expansions)}
    show(judge(given, gold_documents(dataset), model, device=device, verbose=True), places=2)
