"""Where an interrupted training run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint that a transformers Trainer left in `folder`, or None.

    A run that was killed, or ran out of disk, while writing a checkpoint leaves it incomplete. The Trainer writes
    `trainer_state.json` last, so a checkpoint in which that file is readable is complete.

    Example:
        >>> last_checkpoint("no-such-folder") is None
        True
    """
    found = [path for path in Path(folder).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    found.sort(key=lambda path: int(path.name.split("-")[-1]), reverse=True)
    return next((path for path in found if _complete(path)), None)


def train_from_last(trainer: Trainer, checkpoints: Path) -> None:
    """Train, from the last complete checkpoint in a folder if there is one.

    Raises:
        OSError: a checkpoint could not be written; the message says from which one a rerun continues.
    """
    checkpoint = last_checkpoint(checkpoints)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime, default=None)
        whole = last_checkpoint(checkpoints)
        if newest is None or newest == whole:
            raise
        rest = f"from {whole.name}, which is complete" if whole else "from the beginning"
        raise OSError(
            f"{newest} could not be written ({error}): free disk space and run again, which continues {rest}"
        ) from error


def _complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
