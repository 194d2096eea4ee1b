"""The identity of a model, determined without loading it."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from .files import file_sha256

#: files up to this size are hashed completely; for larger ones, 64 evenly spaced blocks
WHOLE_FILE = 4 * 2**20
BLOCK = 64 * 2**10
BLOCKS = 64

#: seconds to wait for the hub to return a commit
HUB_TIMEOUT = 3.0

#: the file that names the original in a folder converted from GGUF
GGUF_RECORD = "expandr_gguf.json"

#: how llama.cpp names the shards of a model; a single one is the whole model
_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", re.IGNORECASE)


def model_fingerprint(name_or_folder: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The identity of a model as JSON values, without loading it.

    For a folder, this is a hash over its files (`sha256`): small files completely, large ones by their size and 64
    evenly spaced blocks, so that another training run is detected without reading 16 GB. The folder's name and location
    do not matter. For a hub name, it is the commit: that of the snapshot in the local cache, or before any download the
    one that the hub reports (its config.json is fetched), so that nothing changes once the files arrive. If the hub
    cannot be reached, it is the revision. `pinned_revision` opens the model at that commit.

    For a GGUF model, and for the folder it was converted into, it is the hash over the GGUF file (`gguf_sha256`), which
    is the same on every machine.

    Example:
        >>> model_fingerprint("no/such-model")
        {'model': 'no/such-model', 'revision': None}
    """
    folder = Path(name_or_folder)
    if (folder / GGUF_RECORD).is_file():
        return {"gguf_sha256": json.loads((folder / GGUF_RECORD).read_text(encoding="utf-8"))["gguf_sha256"]}
    if (file := gguf_file(folder)) is not None:
        return {"gguf_sha256": gguf_sha256(file)}
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.relative_to(folder).as_posix()} {file_fingerprint(file)}\n".encode())
        return {"sha256": digest.hexdigest()}
    name = str(name_or_folder)
    commit = _commit(name, revision)
    return {"model": name, "revision": revision} if commit is None else {"model": name, "commit": commit}


def stable_repr(thing: Any) -> str:
    """The `repr` of an object without its memory address.

    Example:
        >>> stable_repr(object())
        '<object object>'
    """
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def digest(values: Any) -> str:
    """A SHA-256 over JSON values.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def gguf_file(name_or_folder: str | Path) -> Path | None:
    """The GGUF file that a name refers to: itself, or the only one in a folder without config.json; otherwise None.

    Raises:
        ValueError: the folder contains several GGUF files (the message lists them), or the shards of one.
    """
    path = Path(name_or_folder)
    if is_gguf(path) and path.is_file():
        return path.absolute()
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(filter(is_gguf, path.glob("*")))
    if found and all(_SHARD.search(file.name) for file in found):
        raise ValueError(
            f"{found[0].name!r} in {str(path)!r} is one of several shards: join them first, with llama.cpp's "
            "`gguf-split --merge`"
        )
    if len(found) > 1:
        raise ValueError(f"{str(path)!r} has several GGUF files, name one of them: {[file.name for file in found]}")
    return found[0].absolute() if found else None


def is_gguf(path: Path) -> bool:
    """Whether a path is named like a GGUF file, in small letters or capitals.

    Example:
        >>> is_gguf(Path("Model.GGUF"))
        True
    """
    return path.suffix.lower() == ".gguf"


def gguf_sha256(file: Path) -> str:
    """The SHA-256 over a whole file, remembered as long as its size and modification time do not change."""
    stat = file.stat()
    return _sha256(str(file), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def pinned_revision(name_or_folder: str | Path, revision: str | None = None) -> str | None:
    """The revision at which to open a model so that it is the one that `model_fingerprint` names.

    A branch such as "main" may move on the hub between the two calls, or be newer there than in the local cache.

    Example:
        >>> pinned_revision(".") is None
        True
    """
    if Path(name_or_folder).exists():
        return revision
    return _commit(str(name_or_folder), revision) or revision


def file_fingerprint(path: str | Path) -> str:
    """The hash of one file as in `model_fingerprint`: small files completely, large ones by 64 blocks."""
    stat = Path(path).stat()
    return _file_hash(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    """A hash of one file; `size` and `mtime_ns` are arguments so that a changed file is read again."""
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE_FILE:
            digest.update(file.read())
        else:
            for number in range(BLOCKS):
                file.seek((size - BLOCK) * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model, or None if neither the local cache nor the hub knows it."""
    return _cached_commit(name, revision) or _hub_commit(name, revision)


def _cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model in the local cache, or None if it was not downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent.name if isinstance(file, str) else None


@lru_cache(maxsize=256)
def _hub_commit(name: str, revision: str | None) -> str | None:
    """The commit that the hub reports, queried once; the fetched config.json keeps it for other processes."""
    from huggingface_hub import hf_hub_download, model_info
    from huggingface_hub.errors import HfHubHTTPError

    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:  # one query first, of the kind that is not repeated: a download would try again for half a minute
        model_info(name, revision=revision, timeout=HUB_TIMEOUT)
    except Exception:  # e.g. from whichever HTTP library this release of huggingface_hub uses
        return None
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (HfHubHTTPError, OSError, ValueError):  # no such model, no network, or not a valid hub name
        return None
