"""`expandr experiment`: systems on collections following the BEIR protocol, cell by cell."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..systems.names import GRAMMAR, SystemOpener
from .common import Device, Split, app, pairs_of, say

if TYPE_CHECKING:
    from ..evaluation.results import Results as ResultSet

KEPT = "What is finished is kept: the same command computes the rest."


@app.command(
    help=f"Evaluate systems on collections, and print the tables.\n\n\b\n{GRAMMAR}",
    epilog="Example: expandr experiment --system BM25=bm25 --system dense=contriever "
    "--system ExpandR=contriever+Qwen/Qwen2.5-7B-Instruct --collection SciFact --baseline dense --out OUT",
)
def experiment(
    system: Annotated[list[str], typer.Option(help="NAME=SYSTEM, once for each; see below.")],
    collection: Annotated[
        list[str],
        typer.Option(
            help="SciFact, CQADupStack, BEIR14, All ..., pocket, irds:NAME, a folder in BEIR format; repeat it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results: new, or of an earlier run, which is added to.")],
    measure: Annotated[list[str] | None, typer.Option(help="Of ir-measures; repeat it. nDCG@10 R@100.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The system that the others are tested against.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of BEIR folders; what it lacks comes from ir-datasets.")
    ] = None,
    split: Split = "test",
    num_results: Annotated[int, typer.Option(help="Documents for each query that are evaluated.", min=1)] = 1000,
    indexes: Annotated[Path | None, typer.Option(help="Folder of the indexes; OUT/.indexes if not given.")] = None,
    pooling: Annotated[str | None, typer.Option(help="Of all encoders; for checkpoints that do not say.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens that all encoders read of a text.")] = None,
    truncate_dim: Annotated[int | None, typer.Option(help="Numbers that all encoders keep of an embedding.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts per model call.", min=1)] = None,
    prompt: Annotated[str, typer.Option(help="Of LLMs: q2d, q2q, q2e, q2c, or a template with {query}.")] = "q2d",
    n: Annotated[int, typer.Option(help="Expansions that an LLM writes for each query.")] = 1,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 42,
    cache: Annotated[Path | None, typer.Option(help="Cache of generations; OUT.sqlite if not given.")] = None,
    device: Device = None,
) -> None:
    """Evaluate systems on collections, and print the tables."""
    from ..evaluation import beir
    from ..evaluation.cells import parse_measures
    from ..evaluation.result_store import make_folder

    named = dict(pairs_of(system))
    if baseline is not None and baseline not in named:
        raise ValueError(f"there is no system {baseline!r}: choose the baseline from {list(named)}")
    chosen = beir.resolve(collection, data=data, split=split, num_results=num_results)
    measures = list(map(str, parse_measures(measure or beir.MEASURES)))
    indexes = indexes or out / ".indexes"
    make_folder(out if out.exists() else out.parent)  # the experiment creates OUT; the cache is next to it
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
    open_system = SystemOpener(
        indexes,
        generations=cache or Path(f"{out}.sqlite"),
        device=device,
        encoder={
            "pooling": pooling,
            "max_length": max_length,
            "truncate_dim": truncate_dim,
            "batch_size": batch_size,
        },
        llm={"prompt": prompt, "n": n, **sampling},
    )
    systems = {name: open_system(spec, collections=len(chosen)) for name, spec in named.items()}
    settings = {"measures": measures, "num_results": num_results, "split": split, "indexes": indexes}
    _show(_run(systems, chosen, out, settings), out, baseline, measures)


def _run(systems: dict[str, Any], collections: list[Any], out: Path, settings: dict[str, Any]) -> ResultSet:
    from ..evaluation import beir

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ cells failed")  # reported below, and at the end
        return beir.experiment(systems, collections, out, **settings)


def _show(results: ResultSet, out: Path, baseline: str | None, measures: list[str]) -> None:
    from ..reports.page import report

    if (results.cells["state"] == "done").any():
        say(report(results, "md", baseline=baseline, measures=measures))
    for name, where, error in results.failures.itertuples(index=False, name=None):
        say(f"expandr: failed: {name} on {where}: {error}", err=True)
    typer.echo(f"results in {out}")
    if not results.failures.empty:
        typer.echo(KEPT, err=True)
        raise typer.Exit(1)
