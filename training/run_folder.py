"""The output folder of a training run: complete or absent, and never mixed with another run's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ..common.files import write_json
from ..common.locks import one_writer
from ..common.records.manifest import FILES, check_files, read_record

#: what to do about a damaged run
MEND = "remove that folder and run again, or copy it again"


def one_run(out: Path) -> AbstractContextManager[None]:
    """Hold the lock on `out` for the duration of a run; of a distributed run, its first process does.

    Raises:
        InUseError: another run is writing `out` (its process and host are named).
    """
    return one_writer(out) if is_first_process() else nullcontext()


def is_finished(out: Path, record: str, settings: dict[str, Any]) -> bool:
    """Whether `out` was made by a run with these settings; `record` names the file in it that records them.

    Raises:
        ValueError: `out` is something else, is damaged, or was made with other settings (they are named).
    """
    if not out.exists():
        return False
    if not (out / record).is_file():
        raise ValueError(f"{out} exists but is not a finished run (it has no {record}): choose another folder")
    content = read_record(out / record, MEND)
    _compare(content.get("settings", {}), settings, out)
    check_files(out, content.get(FILES, {}), MEND)
    if is_first_process():
        shutil.rmtree(_work(out), ignore_errors=True)  # its removal was interrupted
    return True


def claim(out: Path, settings: dict[str, Any]) -> Path:
    """The working folder next to `out`, created if missing; an interrupted run resumes in it.

    Raises:
        ValueError: it belongs to a run with other settings (they are named).
    """
    work = _work(out)
    record = work / "settings.json"
    if record.is_file():
        _compare(json.loads(record.read_text(encoding="utf-8")), settings, work)
    elif is_first_process():
        if work.exists():  # its removal or creation was interrupted: nothing tells which run it belongs to
            shutil.rmtree(work)
        work.mkdir(parents=True)
        write_json(record, settings)
    return work


def publish(finished: Path, out: Path) -> None:
    """Move `finished`, a folder inside the working folder, into place and remove the rest of that folder."""
    finished.rename(out)
    shutil.rmtree(finished.parent)


def is_first_process() -> bool:
    """Whether this is the process that writes the output of a run started by `accelerate launch` or `torchrun`."""
    return int(os.environ.get("RANK", "0")) == 0


def _work(out: Path) -> Path:
    return out.with_name(out.name + ".work")


def _compare(found: dict[str, Any], settings: dict[str, Any], where: Path) -> None:
    if differ := list(_differences(found, json.loads(json.dumps(settings)))):
        raise ValueError(
            f"{where} was made with different settings ({'; '.join(differ)}): choose another folder, or remove this one"
        )


def _differences(found: dict[str, Any], settings: dict[str, Any], of: str = "") -> Iterator[str]:
    for name in sorted(found.keys() | settings.keys()):
        there, here = found.get(name), settings.get(name)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{of}{name.removesuffix('_fingerprint')} ")
        elif name.endswith("sha256"):  # showing two hashes would tell a reader nothing more
            yield f"different {(of + name.removesuffix('sha256')).strip(' _')} ({of}{name})"
        else:
            yield f"{of}{name}: {there!r} there, {here!r} here"
