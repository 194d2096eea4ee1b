"""A chain of long steps, each in a folder named by a hash of its settings and inputs.

A finished stage is never run again; an interrupted one is called again on its own folder and resumes there. A changed
setting changes the fingerprints of its stage and of all that depend on it, so that exactly those run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.locks import one_writer, without_stale_lock
from ..common.records.manifest import FILES, check_files, read_record, write_record

logger = logging.getLogger(__name__)

#: `run(folder, *folders of the inputs) -> counts`: fills `folder`, or resumes filling it, and counts what is in it
Run = Callable[..., dict[str, Any]]

RECORD = "stage.json"
#: what to do about a damaged stage
MEND = "remove that folder, and this stage runs again"


@dataclass(frozen=True)
class Stage:
    """One step: its name, what determines its result, the stages it builds on, and the function that runs it.

    `settings` are JSON values and hold everything besides `inputs` that determines the result, for instance the
    fingerprint of a model that is read from elsewhere.

    Example:
        >>> one, other = (Stage("first", {"n": n}, (), lambda folder: {}) for n in (1, 2))
        >>> run = lambda folder, first: {}
        >>> Stage("second", {}, (one,), run).fingerprint == Stage("second", {}, (other,), run).fingerprint
        False
    """

    name: str
    settings: dict[str, Any]
    inputs: tuple[Stage, ...]
    run: Run

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of a hash over the name, the settings and the inputs' fingerprints."""
        content = [self.name, self.settings, [stage.fingerprint for stage in self.inputs]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """The folder where its result is, or will be."""
        return root / f"{self.name}-{self.fingerprint}"

    def record(self, root: Path) -> dict[str, Any] | None:
        """The record written when the stage finished, or None before that. Raises ValueError if a file is damaged."""
        path = self.folder(root) / RECORD
        if not path.is_file():
            return None
        record = read_record(path, MEND)
        check_files(path.parent, record.get(FILES, {}), MEND)
        return record


def texts_beside(folder: Path) -> Path:
    """The cache in which all stages of a recipe keep their LLMs' texts: a changed stage writes only what none wrote.

    Example:
        >>> texts_beside(Path("runs/candidates-0123456789ab")).as_posix()
        'runs/generations.sqlite'
    """
    return folder.parent / "generations.sqlite"


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """`stages` and everything they build on, each once, inputs first; equal fingerprints mean the same stage."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.fingerprint not in found:
            for before in stage.inputs:
                visit(before)
            found[stage.fingerprint] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def build(stages: Iterable[Stage], root: Path, say: Callable[[str], None] = logger.info) -> None:
    """Run those of `stages` and their inputs that are unfinished, in order, each in its folder below `root`.

    Raises:
        InUseError: another process is running a stage (its folder, process and host are named).
    """
    todo = in_order(stages)
    for place, stage in enumerate(todo, 1):
        heading = f"[{place}/{len(todo)}] {stage.name} {stage.fingerprint}"
        if stage.record(root) is not None:
            without_stale_lock(stage.folder(root))
            say(f"{heading}: finished before")
            continue
        with one_writer(stage.folder(root)):
            if stage.record(root) is None:  # another process may just have finished it
                say(f"{heading}: {'goes on' if stage.folder(root).exists() else 'starts'}")
            say(f"{heading}: {_run(stage, root)}")


def _run(stage: Stage, root: Path) -> str:
    """Run one stage unless it is finished, and return what it counts."""
    if stage.record(root) is not None:
        return "finished before"
    folder = stage.folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    counts = stage.run(folder, *(before.folder(root) for before in stage.inputs))
    _write_record(stage, folder, counts, time.monotonic() - start)
    return _listed(counts)


def status(stages: Iterable[Stage], root: Path) -> pd.DataFrame:
    """`[stage, fingerprint, state, seconds, bytes, counts]` of `stages` and everything they build on, in order.

    `state` is "finished", "interrupted" or "missing"; `seconds` is the duration of the last run, NaN until it
    finishes; `bytes` is the current size of the folder.
    """
    return pd.DataFrame(_rows(stages, root), columns=["stage", "fingerprint", "state", "seconds", "bytes", "counts"])


def _rows(stages: Iterable[Stage], root: Path) -> Iterator[tuple[str, str, str, float, int, str]]:
    for stage in in_order(stages):
        record, folder = stage.record(root), stage.folder(root)
        state = "finished" if record is not None else "interrupted" if folder.exists() else "missing"
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        seconds = record["seconds"] if record else float("nan")
        yield stage.name, stage.fingerprint, state, seconds, size, _listed(record["counts"]) if record else ""


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items()) or "done"


def _write_record(stage: Stage, folder: Path, counts: dict[str, Any], seconds: float) -> None:
    record = {
        "stage": stage.name,
        "settings": stage.settings,
        "inputs": [f"{before.name}-{before.fingerprint}" for before in stage.inputs],
        "counts": counts,
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in ("pyterrier_expandr", "torch", "transformers")},
    }
    write_record(folder / RECORD, record)
