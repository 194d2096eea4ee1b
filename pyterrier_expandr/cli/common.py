"""What several commands need: the app, common options, and how a name on the command line becomes a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from ..collections.opening import open_collection as open_collection
from ..collections.opening import topics_of as topics_of

app = typer.Typer(
    name="expandr",
    help="LLM-expanded dense retrieval with PyTerrier.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Collection = Annotated[str, typer.Option(help="pocket, irds:NAME, or a folder in BEIR format.")]
Split = Annotated[str, typer.Option(help="Which queries of the collection.")]
LLM_HELP = (
    "Engine and instruct model: hf:NAME_OR_FOLDER or that bare, vllm:NAME_OR_FOLDER, or openai:MODEL@URL; "
    "?OPTION=VALUE&OPTION=VALUE may follow."
)
Device = Annotated[str | None, typer.Option(help="cuda, cpu ...; the GPU where there is one if not given.")]
