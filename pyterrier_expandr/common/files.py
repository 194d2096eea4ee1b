"""Files that are always either the old or the new version, even if a process is killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
