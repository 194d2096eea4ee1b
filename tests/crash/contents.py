"""What is in a folder, so that two runs can be compared: every name, and every byte except times."""

import hashlib
import json
import re
import sqlite3

#: fields and columns that say when, or how long, and not what; a seal is a hash over fields like these
TIMES = {"seconds", "seal", "created", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


def contents(folder):
    """Relative path -> what identifies the file's content; folders end in a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.endswith(("-wal", "-shm")):  # SQLite's own, whose content belongs to the file itself
            continue
        if path.is_dir():
            found[f"{name}/"] = ""
        elif path.suffix == ".json":
            found[name] = json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True)
        elif path.suffix == ".sqlite":
            found[name] = _rows(path)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _timeless(value):
    if isinstance(value, dict):
        # The sizes and hashes of JSON files depend on such fields in them.
        kept = {name: item for name, item in value.items() if name not in TIMES and not name.endswith(".json")}
        return {name: _timeless(item) for name, item in kept.items()}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _rows(path):
    """The generations of a cache, in no particular order."""
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT key, sample, text, truncated FROM generation JOIN request ON request.id = request"
    ).fetchall()
    connection.close()
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()


def differences(expected, found):
    """What differs, in words; empty if nothing does."""
    names = sorted(expected.keys() | found.keys())
    return [_difference(name, expected, found) for name in names if expected.get(name) != found.get(name)]


def _difference(name, expected, found):
    if name not in found:
        return f"{name} is missing"
    if name not in expected:
        return f"{name} is left over"
    pairs = zip(re.split(r"(?<=,)", expected[name]), re.split(r"(?<=,)", found[name]), strict=False)
    return f"{name} differs: {next(((one, other) for one, other in pairs if one != other), 'in length')}"
