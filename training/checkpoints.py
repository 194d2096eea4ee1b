"""Where an interrupted training run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer

STATE = "trainer_state.json"


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
        train_from(trainer, checkpoint)
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
        _state(checkpoint)
    except (OSError, ValueError):
        return False
    return True


def train_from(trainer: Any, checkpoint: Path | None) -> None:
    """Train from a checkpoint, or from the beginning; training that had ended at the checkpoint is not continued.

    The Trainer itself would make one more step after a last checkpoint in the middle of an epoch, and would go on after
    one at which it had stopped early.
    """
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled  # only the Trainer can load these
    if checkpoint is None or sharded or not _ended(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    trainer.state = type(trainer.state).load_from_json(str(checkpoint / STATE))
    trainer._load_from_checkpoint(str(checkpoint))
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        trainer._load_best_model()


def _ended(checkpoint: Path) -> bool:
    state = _state(checkpoint)
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= state["max_steps"] or bool(control.get("should_training_stop"))


def _state(checkpoint: Path) -> Any:
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
