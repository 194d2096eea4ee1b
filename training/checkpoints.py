"""Where an interrupted training run resumes."""

from __future__ import annotations

import json
from pathlib import Path


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


def _complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
