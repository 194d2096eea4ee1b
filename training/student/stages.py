"""The stage of a recipe that distills its expansions into a query encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..identity import encoder_identity
from ..stage import Stage
from .config import StudentConfig

#: returns the configuration for a teacher, queries, recorded passages and an output folder
Configure = Callable[[str | Path, str | Path, str | Path, str | Path], StudentConfig]


def student_stage(
    configure: Configure, inputs: tuple[Stage, Stage, Stage], *, device: str | None = None, verbose: bool = False
) -> Stage:
    """model/: the student of a trained retriever.

    Args:
        configure: returns the configuration.
        inputs: the examples, the expansions of their queries, and the retriever, which is the teacher.
        device: used if the configuration names none.
        verbose: show a progress bar.
    """

    def run(folder: Path, examples: Path, expansions: Path, teacher: Path) -> dict[str, Any]:
        from ...encoding.students import STUDENT_RECORD
        from .train import train_student

        places = (teacher / "model", examples / "retriever.jsonl", expansions / "expansions.jsonl", folder / "model")
        config = configure(*places)
        made = train_student(replace(config, device=config.device or device), verbose=verbose)
        return dict(json.loads((made / STUDENT_RECORD).read_text(encoding="utf-8"))["data"])

    config = configure("t", "q", "e", "o")
    base = {} if config.base is None else {"base": encoder_identity(config.base)}
    return Stage("student", config.settings | base, inputs, run)
