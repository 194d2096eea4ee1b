"""Shared by several commands: the app, common options, and opening collections by their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..collections.opening import open_collection as open_collection
from ..collections.opening import topics_of as topics_of
from ..common.files import path_of, with_home
from ..common.printable import printable
from .errors import as_flags

if TYPE_CHECKING:
    import pandas as pd
    import pyterrier as pt

    from ..common.ray_cluster import Cluster
    from ..expansion.backends.base import Backend

#: options and arguments that are text, in which `~` is an ordinary character
PLAIN_TEXT = {"queries", "query", "prompt", "title"}


class HomeCommand(TyperCommand):
    """A command whose paths may begin with `~`, even if the shell keeps it (`--index=~/i`, `NAME=~/e.jsonl`).

    Its errors name its own flags, where the package's Python side names arguments.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command with `~` read as the home folder."""
        for name, value in ctx.params.items():
            if name not in PLAIN_TEXT:
                ctx.params[name] = _at_home(value)
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError) as error:
            if len(error.args) == 1 and isinstance(error.args[0], str):  # a sentence, rather than an error number
                error.args = (as_flags(error.args[0], ctx.params),)
            raise


def _at_home(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_at_home(item) for item in value)
    if isinstance(value, Path):
        return path_of(value)
    return with_home(value) if isinstance(value, str) else value


class Commands(typer.Typer):
    """A group of such commands."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """A decorator that registers a command."""
        return super().command(name, **{"cls": HomeCommand, **options})


app = Commands(
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
    "Backend and instruct model: NAME_OR_FOLDER (or hf:NAME_OR_FOLDER), vllm:NAME_OR_FOLDER, or openai:MODEL@URL; "
    "?OPTION=VALUE&OPTION=VALUE may follow."
)
Device = Annotated[str | None, typer.Option(help="cuda, cpu ...; default: the GPU if there is one.")]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Spread the work: HOST:PORT of a Ray cluster, auto for this machine's, local for this machine alone."
    ),
]
RayGPUs = Annotated[float, typer.Option(help="GPUs of a worker, with --ray; 0.5 lets two share one.", min=0)]
Results = Annotated[Path, typer.Argument(help="Folder of an experiment (expandr experiment).")]


def collections_of(names: list[str] | None) -> list[str] | None:
    """Names as used in an experiment: "CQADupStack" stands for its sub-forums; None means all."""
    from ..evaluation.averages import FORUMS

    if names is None:
        return None
    return [each for name in names for each in (FORUMS if name == "CQADupStack" else [name])]


def pairs_of(options: list[str]) -> list[tuple[str, str]]:
    """(NAME, VALUE) of options like NAME=VALUE.

    Raises:
        ValueError: an option does not have this form, or a name is repeated.

    Example:
        >>> pairs_of(["vanilla=a=b.jsonl"])
        [('vanilla', 'a=b.jsonl')]
    """
    pairs = [(name, value) for name, _, value in (option.partition("=") for option in options)]
    if wrong := [option for option, pair in zip(options, pairs, strict=True) if not all(pair)]:
        raise ValueError(f"expected NAME=VALUE, got {wrong[0]!r}")
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"each name may be given only once, got {[name for name, _ in pairs]}")
    return pairs


def recorded(path: str | Path, topics: pd.DataFrame | None = None) -> pd.DataFrame:
    """`[qid, query, query_expansions]` from a file, cleaned as in a pipeline, for all its queries or for `topics`.

    Queries without recorded expansions get an empty list.
    """
    import pandas as pd

    from ..expansion.expander import RecordedExpander
    from ..expansion.recorded import read_expansions

    if topics is None:
        by_qid, by_query = read_expansions(path)
        records = [*by_qid.values(), *(record for record in by_query.values() if record.qid is None)]
        # A line may lack one or the other; either is enough to look it up.
        rows = [(record.qid or record.query, record.query or record.qid) for record in records]
        topics = pd.DataFrame(rows, columns=["qid", "query"])
    return RecordedExpander(path, on_missing="query-only").transform(topics)


def live_expander(llm: str, device: str | None, **options: Any) -> pt.Transformer:
    """An `LLMExpander` with progress bars, whose backend is opened by its name on the command line."""
    from ..expansion.backends.opening import open_backend
    from ..expansion.expander import LLMExpander

    return LLMExpander(open_backend(llm, device=device), verbose=True, **options)


def say(text: object, **options: Any) -> None:
    """Print text that may come from data: what would control the terminal is shown instead of obeyed."""
    typer.echo(printable(str(text)), **options)


def show(frame: pd.DataFrame, places: int) -> None:
    """Print a frame as a table."""
    say(frame.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.{places}f}"))


def cluster_of(ray: str, gpus: float) -> Cluster:
    """The cluster that `--ray` and `--ray-gpus` name."""
    from ..common.ray_cluster import Cluster

    return Cluster(None if ray == "local" else ray, num_gpus=gpus)


def spread_backend(backend: Backend, ray: str | None, gpus: float) -> Backend:
    """`backend` itself, or with `--ray` one whose copies write on the cluster."""
    if ray is None:
        return backend
    from ..expansion.backends.ray_backend import RayBackend

    return RayBackend(backend, cluster=cluster_of(ray, gpus))
