"""`expandr train student`: from a query log with passages to an encoder that needs no LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Device
from .app import show_record, train
from .retriever import fusion_of

PROFILE_S = "default: the profile's."


@train.command(
    epilog="Example: expandr train student --teacher contriever --queries log.jsonl --expansions log.passages.jsonl "
    "--out student"
)
def student(
    teacher: Annotated[str, typer.Option(help="A name of `expandr models`, hub name, folder, or a saved system.")],
    queries: Annotated[str, typer.Option(help="pocket, irds:NAME, a BEIR folder, or JSONL with query (and query_id).")],
    expansions: Annotated[list[str], typer.Option(help="JSONL file that `expandr expand` wrote; repeat it.")],
    out: Annotated[Path, typer.Option(help="Folder to make; OUT.work beside it holds an unfinished run.")],
    base: Annotated[
        str | None, typer.Option(help="A smaller encoder of the same dimension; default: the teacher's own.")
    ] = None,
    index: Annotated[str | None, typer.Option(help="The index that it will search, checked before training.")] = None,
    split: Annotated[str, typer.Option(help="Which judgments of pocket or a BEIR folder.")] = "train",
    test: Annotated[
        list[str] | None, typer.Option(help="A collection whose test queries may not be in the log; repeat it.")
    ] = None,
    allow_test_queries: Annotated[
        bool, typer.Option("--allow-test-queries", help="Train on test queries, for a cross-validation.")
    ] = False,
    fusion: Annotated[
        str | None, typer.Option(help="average, uniform or the query's weight; default: teacher's.")
    ] = None,
    targets: Annotated[str, typer.Option(help="mean (one for a query) or each (one for a passage).")] = "mean",
    profile: Annotated[str, typer.Option(help="expandr or softqe.")] = "expandr",
    distance: Annotated[str | None, typer.Option(help=f"cosine or mse; {PROFILE_S}")] = None,
    distance_weight: Annotated[float | None, typer.Option(help=f"Weight of the distance; {PROFILE_S}")] = None,
    contrastive_weight: Annotated[
        float | None, typer.Option(help=f"Weight of the contrastive loss of judged queries; {PROFILE_S}")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help=f"Divides similarities; {PROFILE_S}")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Targets per step; {PROFILE_S}")] = None,
    learning_rate: Annotated[float | None, typer.Option(help=PROFILE_S)] = None,
    epochs: Annotated[float | None, typer.Option(help=PROFILE_S)] = None,
    checkpoints: Annotated[int, typer.Option(help="Checkpoints in a run.")] = 5,
    seed: int = 42,
    device: Device = None,
) -> None:
    """Distill an LLM's passages into the query encoder; a rerun resumes where it was interrupted."""
    given = dict(locals())  # each option is a field of the configuration
    from ...encoding.students import STUDENT_RECORD
    from ...training.student.config import StudentConfig
    from ...training.student.train import train_student

    given |= {"out": str(out), "fusion": None if fusion is None else fusion_of(fusion), "test": tuple(test or ())}
    folder = train_student(StudentConfig(**given), verbose=True)
    show_record(folder / STUDENT_RECORD, ("data", "closeness"))
