"""`expandr train retriever`: from queries with positives to an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..common import Device
from .app import show_record, train


@train.command(
    epilog="Example: expandr train retriever --data pocket --expansions pocket.jsonl --base facebook/contriever "
    "--out retriever"
)
def retriever(
    data: Annotated[str, typer.Option(help="pocket, irds:NAME, a BEIR folder, or JSONL (a file or a folder).")],
    base: Annotated[str, typer.Option(help="Hub name, folder or short name of the encoder.")],
    out: Annotated[Path, typer.Option(help="Folder to make; OUT.work beside it holds an unfinished run.")],
    stage: Annotated[str, typer.Option(help="raw, ft (queries alone) or expandr (fused queries).")] = "expandr",
    split: Annotated[str, typer.Option(help="Which judgments of pocket or a BEIR folder.")] = "train",
    min_relevance: Annotated[int, typer.Option(help="The grade from which on a document is a positive.")] = 1,
    expansions: Annotated[Path | None, typer.Option(help="JSONL file that `expandr expand` wrote.")] = None,
    dev_data: Annotated[str | None, typer.Option(help="Held-out queries; default: a part of DATA.")] = None,
    dev_split: Annotated[str, typer.Option(help="Which judgments of DEV_DATA.")] = "dev",
    dev_fraction: Annotated[float, typer.Option(help="Part of the queries that is held out.")] = 0.1,
    dev_queries: Annotated[int, typer.Option(help="Held-out queries that are evaluated, at most.")] = 1000,
    profile: Annotated[str, typer.Option(help="paper, reference-contriever or reference-anchordr.")] = "paper",
    pooling: Annotated[
        str | None, typer.Option(help="mean, cls ...; default: the profile's or the encoder's own.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Divides similarities; default: the profile's.")] = None,
    fusion: Annotated[str, typer.Option(help="average, uniform, or the query's weight.")] = "average",
    batch_size: Annotated[int | None, typer.Option(help="Queries per step, over all devices; default: 1024.")] = None,
    negatives: Annotated[int, typer.Option(help="Hard negatives per query.")] = 1,
    learning_rate: float = 1e-5,
    epochs: float = 3.0,
    max_length: Annotated[int, typer.Option(help="Maximum tokens read from each text.")] = 512,
    query_prompt: Annotated[str | None, typer.Option(help="Put before each query; default: the encoder's own.")] = None,
    doc_prompt: Annotated[str | None, typer.Option(help="Put before documents and expansions.")] = None,
    evaluations: Annotated[int, typer.Option(help="Evaluations and checkpoints in a run.")] = 10,
    patience: Annotated[int | None, typer.Option(help="Stop after this many evaluations without improvement.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    mini_batch_size: Annotated[int, typer.Option(help="Texts that a device embeds at a time.", min=1)] = 32,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Saves memory.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write logs to OUT/runs.")] = False,
    seed: int = 42,
    device: Device = None,
) -> None:
    """Train an encoder contrastively; a rerun resumes where it was interrupted."""
    given = dict(locals())  # each option is a field of the configuration
    from ...training.retriever.train import RECORD, RetrieverTrainingConfig, train_retriever

    given |= {
        "out": str(out),
        "fusion": fusion_of(fusion),
        "expansions": None if expansions is None else str(expansions),
    }
    config = RetrieverTrainingConfig(**given)
    folder = train_retriever(config, verbose=True)
    show_record(folder / RECORD, ("data", "steps", "kept_step", "before", "after"))


def fusion_of(text: str) -> Any:
    """A fusion as it is written on the command line: a name, or the query's weight."""
    try:
        return float(text)
    except ValueError:
        return text
