"""Records: what an artefact's folder contains, written last, so that damage is noticed.

A record is a JSON file. `files` in it has the size and SHA-256 of every other file, `seal` a hash over its own values.
Records of earlier releases may have neither; then nothing can be compared, and they are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import file_sha256, write_json
from ..fingerprint import digest

FILES, SEAL = "files", "seal"
#: how the value of a seal begins
SEALED = "sha256 of the rest: "

#: files that may change after the record: cards are for editing, and opening a cache may write to it
CHANGEABLE = ("README.md", ".sqlite", ".sqlite-wal", ".sqlite-shm")

#: the records of trained models, whose folders are opened like any other model
MODEL_RECORDS = ("retriever.json", "smalllm.json", "merge.json", "expander.json", "student.json", "openvino.json")
MODEL_MEND = "copy or train it again, or remove that record if the change was meant"

#: a larger JSON file is not a record
LARGEST = 64 * 2**20

Files = Mapping[str, Mapping[str, Any]]


def describe_file(path: Path) -> dict[str, Any]:
    """The size and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def describe_files(folder: Path, *, leave_out: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of all files below `folder` by their relative names, without hidden and changeable ones.

    Files that a record in a sub-folder lists are not read again: its values are taken over.
    """
    known: dict[str, dict[str, Any]] = {}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))]
    for path in paths:
        if path.parent != folder and (record := record_at(path)) is not None:
            below = path.parent.relative_to(folder)
            known |= {(below / name).as_posix(): dict(value) for name, value in record.get(FILES, {}).items()}
    names = [path.relative_to(folder).as_posix() for path in paths if not path.name.endswith(CHANGEABLE)]
    return {name: known.get(name) or describe_file(folder / name) for name in names if name not in set(leave_out)}


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a hash over them, which `read_record` compares.

    Example:
        >>> sorted(sealed({"a": 1}))
        ['a', 'seal']
    """
    values = json.loads(json.dumps({name: value for name, value in content.items() if name != SEAL}))
    return {**values, SEAL: SEALED + digest(values)}


def _is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether a record was written with a seal, even if the name of that field is what was damaged."""
    return SEAL in record or any(isinstance(value, str) and value.startswith(SEALED) for value in record.values())


def write_record(path: Path, content: Mapping[str, Any], files: Files | None = None) -> dict[str, Any]:
    """Write a record and return it; to be called last, when all other files are in place.

    Args:
        path: the record; it appears only once complete.
        content: JSON values.
        files: what `describe_files` returns; None describes everything in the record's folder.
    """
    listed = describe_files(path.parent, leave_out=[path.name]) if files is None else files
    record = sealed({**content, FILES: listed})
    write_json(path, record)
    return record


def read_record(path: Path, mend: str, *, newest: int | None = None) -> dict[str, Any]:
    """The JSON object in a record.

    Args:
        path: the record.
        mend: what to do if it is damaged; the end of the message.
        newest: a record whose `format_version` is higher comes from a newer release and is returned unchecked.

    Raises:
        ValueError: not JSON, not an object, or changed since it was written. FileNotFoundError: there is no such file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError(f"it holds a {type(record).__name__}, not an object")
        if newest is not None and record.get("format_version", 0) > newest:
            return record
        if _is_sealed(record) and sealed(record)[SEAL] != record.get(SEAL):
            raise ValueError("its values have changed since it was written")
        if not isinstance(record.get(FILES, {}), dict):
            raise TypeError(f"{FILES} in it is no object")
        for name, value in _listed(record).items():
            if not isinstance(value.get("bytes"), int) or not isinstance(value.get("sha256"), str):
                raise ValueError(f"it does not say what {name!r} contained")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): {mend}") from error
    return record


def _listed(record: Mapping[str, Any]) -> Files:
    files = record.get(FILES)
    return files if isinstance(files, Mapping) else {}


def check_files(folder: Path, files: Files, mend: str, *, content: bool = False) -> None:
    """Compare the files in `folder` with what was written: their sizes, and with `content` every byte.

    Raises:
        ValueError: a file is missing or differs, or its name points outside the folder; the message ends in `mend`.
    """
    for name, written in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or not name:
            raise ValueError(f"the record of {str(folder)!r} lists {name!r}, which is not inside that folder: refused")
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            raise ValueError(f"{str(folder)!r} is damaged: {name} is missing; {mend}")
        if found != written["bytes"]:
            raise ValueError(
                f"{str(folder)!r} is damaged: {name} has {found} bytes instead of {written['bytes']}; {mend}"
            )
        if content and describe_file(path)["sha256"] != written["sha256"]:
            raise ValueError(f"{str(path)!r} has changed since it was written: {mend}")


def check_inside(folder: Path) -> None:
    """Raise ValueError if a symbolic link in `folder` leads out of it, so that opening it would read other files."""
    home = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise ValueError(
                f"{str(path)!r} is a symbolic link to {str(path.resolve())!r}, outside its folder, and is refused: "
                "put a copy of the file there"
            )


def check_model_folder(folder: Path) -> None:
    """Compare the sizes of a model's files with its record, if training in this package left one there.

    Raises:
        ValueError: a file is missing or has another size, or the record is damaged.
    """
    for path in (folder / name for name in MODEL_RECORDS):
        if path.is_file():
            check_files(folder, _listed(read_record(path, MODEL_MEND)), f"{MODEL_MEND} ({path.name})")


def check_beside(file: Path, record: str, mend: str) -> None:
    """Compare the size of a file with the record next to it, if there is one that lists the file.

    Raises:
        ValueError: the size differs, or the record is damaged; the message ends in `mend`.
    """
    path = file.parent / record
    if path.is_file() and file.name in (files := _listed(read_record(path, mend))):
        check_files(file.parent, {file.name: files[file.name]}, mend)


def record_at(path: Path) -> dict[str, Any] | None:
    """The record in a file, unchecked, or None if the file is something else or cannot be read."""
    if path.suffix != ".json" or path.stat().st_size > LARGEST:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    files = content.get(FILES)
    described = isinstance(files, dict) and all(isinstance(v, dict) and "sha256" in v for v in files.values())
    return content if _is_sealed(content) or (described and files) else None
