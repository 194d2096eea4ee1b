"""What a student says about itself: an encoder whose queries were trained to be searched before its teacher's index."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..common.fingerprint import pinned_revision
from .models.anchordr_checkpoint import find_file

#: the file in a student's folder that records how it was made; `teacher` in it says whose documents it searches
STUDENT_RECORD = "student.json"


def teacher_of(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """What made the documents of a student, or None for an encoder that is not a student. Loads no model.

    The parts are those that `vectors.same_vectors` compares, the teacher's name as `model`, and `documents`, which
    determines the document vectors as `ExpandREncoder.describe_documents` says.

    Args:
        name: a folder or hub name.
        revision: the model's revision on the hub.

    Example:
        >>> teacher_of(".") is None
        True
    """
    folder = Path(name).expanduser()
    path = folder / STUDENT_RECORD if folder.is_dir() else _hub_record(name, revision)
    return json.loads(path.read_text(encoding="utf-8"))["teacher"] if path is not None and path.is_file() else None


@lru_cache(maxsize=256)
def _hub_record(name: str, revision: str | None) -> Path | None:
    """The record of a hub model; None as well where neither the cache nor the hub knows the model."""
    commit = pinned_revision(name, revision)
    if commit is None:
        return None
    try:
        return find_file(name, STUDENT_RECORD, commit)
    except ValueError:
        return None
