"""Files and folders that are always either the old or the new version, even if a process is killed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .locks import one_writer


def path_of(path: str | Path) -> Path:
    """The path that a user means: a leading `~` stands for the home folder.

    Example:
        >>> path_of("~/pocket.faiss").is_absolute(), path_of("pocket.faiss").is_absolute()
        (True, False)
    """
    return Path(os.path.expanduser(path))


def cache_folder() -> Path:
    """The folder for files that can be recreated: `$EXPANDR_CACHE`, or the system's cache folder for the user."""
    from platformdirs import user_cache_path

    return path_of(os.environ.get("EXPANDR_CACHE") or user_cache_path("pyterrier_expandr"))


def with_home(text: str) -> str:
    """A name in which `~` may stand for the home folder: at the beginning, and after `=`, `+` and `:`.

    Example:
        >>> with_home("no~/thing"), with_home("dense=~/model+~/e.jsonl").count("~")
        ('no~/thing', 0)
    """
    return re.sub(r"(^|[=+:])(~)(?=/|$)", lambda match: match[1] + os.path.expanduser("~"), text)


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that appears only once complete."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def part_of(path: Path) -> Path:
    """The name of a file that is not complete yet."""
    return path.with_name(f".part.{path.name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path next to `path` to write to; it replaces `path` if the block succeeds, and is removed otherwise."""
    part = part_of(path)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, and remove what was there; at every moment one of them is there.

    Where the file system can exchange two names, that is one step. Elsewhere the old folder is first moved aside, and
    `restored` brings it back if the process is killed before the new one is in place. The caller holds the lock.
    """
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)  # an earlier replacement was killed in its last moments
    if not target.exists():
        os.replace(new, target)
    elif exchange(new, target):
        shutil.rmtree(new)
    else:
        os.replace(target, aside)
        os.replace(new, target)
        shutil.rmtree(aside)


def restored(target: Path) -> bool:
    """Whether `target`, which was missing, is there again after an interrupted `replace_folder`."""
    if not _aside(target).is_dir():
        return False
    with suppress(OSError), one_writer(target, wait=10):  # a process that is still replacing it is about to be done
        if not target.exists():
            os.replace(_aside(target), target)
    return target.exists()


def _aside(target: Path) -> Path:
    return target.with_name(f".old.{target.name}")


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system or the file system cannot (as NFS cannot)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # only Linux has it
        return False
    here, both = -100, 2  # AT_FDCWD: names are relative to the working folder; RENAME_EXCHANGE
    return int(rename(here, os.fsencode(one), here, os.fsencode(other), both)) == 0
