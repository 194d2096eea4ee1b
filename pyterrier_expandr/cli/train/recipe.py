"""`expandr train run` and `expandr train status`: the whole loop from one YAML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..common import Device
from .app import train

RecipeFile = Annotated[Path, typer.Argument(help="YAML file; recipes/ has some.")]
Seed = Annotated[int | None, typer.Option(help="Overrides the recipe's seed, for another run of it.")]
Runs = Annotated[Path | None, typer.Option(help="Folder of the stages; default: runs/NAME beside the recipe.")]


@train.command(epilog="Example: expandr train run recipes/pocket.yaml --dry-run")
def run(
    recipe: RecipeFile,
    folder: Runs = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every field, and print the plan with texts, tokens and memory.")
    ] = False,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Run the unfinished stages of a recipe, and print the final table."""
    import pandas as pd

    from ...training.recipe.checks import check_machine
    from ...training.recipe.plan import plan
    from ...training.recipe.recipe import read_recipe
    from ...training.recipe.stages import RecipeStages
    from ...training.stage import build

    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # trainers use any GPU they see
    read = read_recipe(recipe, seed=seed)
    if dry_run:
        table = plan(read)
        texts, read_tokens, written = (table[name].sum() for name in _COUNTS)
        typer.echo(table.to_string(index=False, float_format="{:.1f}".format, formatters=dict.fromkeys(_COUNTS, _many)))
        typer.echo(
            f"in all {texts:,} texts, {read_tokens:,} tokens read and {written:,} written at most; "
            f"{table['memory_gib'].max():.1f} GiB of weights or index in the largest stage, and what training or an "
            "backend's cache needs beside them"
        )
        return
    check_machine(read)
    root = folder or _root(recipe)
    last = RecipeStages(read, device=device, verbose=True).experiment()
    build([last], root, say=typer.echo)
    typer.echo(pd.read_csv(last.folder(root) / "table.csv", index_col=0).to_string(float_format="{:.4f}".format))


@train.command(epilog="Example: expandr train status recipes/pocket.yaml")
def status(recipe: RecipeFile, folder: Runs = None, seed: Seed = None) -> None:
    """Show a recipe's stages: what is finished, how long it took, what it produced, and how large it is."""
    from ...training.recipe.recipe import read_recipe
    from ...training.recipe.stages import RecipeStages
    from ...training.stage import status as states

    stages = RecipeStages(read_recipe(recipe, seed=seed))
    table = states([stages.experiment()], folder or _root(recipe)).rename(columns={"bytes": "size"})
    table.insert(1, "for", table["fingerprint"].map(stages.users()))
    typer.echo(table.to_string(index=False, float_format="{:.1f}".format, na_rep="-", formatters={"size": _size}))


_COUNTS = ("texts", "tokens_read", "tokens_written")
_many = "{:,}".format


def _size(count: float) -> str:
    """A human-readable number of bytes: 512 B, 3.2 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _root(recipe: Path) -> Path:
    return recipe.parent / "runs" / recipe.stem
