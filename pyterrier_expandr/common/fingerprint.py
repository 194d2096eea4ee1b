"""What a model is, told without loading it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

#: files up to this size are hashed whole; of larger ones, 64 evenly spaced blocks
WHOLE_FILE = 4 * 2**20
BLOCK = 64 * 2**10
BLOCKS = 64


def model_fingerprint(name_or_folder: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The identity of a model as JSON values, without loading it.

    A folder gives a hash over its files (`sha256`): small files whole, of large ones the size and 64 evenly spaced
    blocks, so that another training run is noticed and 16 GB need not be read. The folder's name and place do not
    count. A hub name gives the commit of the snapshot in the local cache, or before any download the asked revision.

    Example:
        >>> model_fingerprint("no/such-model")
        {'model': 'no/such-model', 'revision': None}
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.relative_to(folder).as_posix()} {file_fingerprint(file)}\n".encode())
        return {"sha256": digest.hexdigest()}
    name = str(name_or_folder)
    commit = _cached_commit(name, revision)
    return {"model": name, "revision": revision} if commit is None else {"model": name, "commit": commit}


def file_fingerprint(path: str | Path) -> str:
    """The hash of one file as `model_fingerprint` takes it: small ones whole, of large ones 64 blocks."""
    stat = Path(path).stat()
    return _file_hash(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    """A hash of one file; `size` and `mtime_ns` are there so that a changed file is read again."""
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE_FILE:
            digest.update(file.read())
        else:
            for number in range(BLOCKS):
                file.seek((size - BLOCK) * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model in the local cache, or None if it was not downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent.name if isinstance(file, str) else None
