"""The working folder of an index under construction: its content is committed chunk by chunk and survives a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

#: number of documents per commit
CHUNK = 1024

#: the folder in it where the index is put together
FINISHED = "finished"


class Spool:
    """Raw vectors and docnos, stored next to the index they will become, and the number of them that are committed.

    A commit is complete once it is counted in `state.json`; anything after that in the data files is cut off by
    `rewind`. Docnos are stored as Arrow stores strings (one run of UTF-8, one array of offsets), so that any number of
    them can be read without creating Python objects.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".building")
        self.vectors = self.folder / "vectors.f32"
        self._texts, self._offsets = self.folder / "docnos.utf8", self.folder / "docnos.i64"
        self._state = self.folder / "state.json"
        self._part = self._state.with_suffix(".part")

    def exists(self) -> bool:
        """Whether the folder contains an interrupted build."""
        return self._state.is_file() and self.vectors.is_file()

    def start(self) -> None:
        """Start an empty spool, replacing any earlier build.

        Raises:
            FileExistsError: the folder's name is taken by something other than a build; it is not touched.
        """
        if self.folder.is_dir() and not self._ours():
            raise FileExistsError(f"{str(self.folder)!r} is needed to build {str(self.target)!r}: move it away")
        self.discard()
        self.folder.mkdir(parents=True)
        self.vectors.touch()
        self._texts.touch()
        self._offsets.write_bytes(np.zeros(1, np.int64).tobytes())
        self._write({"count": 0, "dim": None, "encoder": None})

    def discard(self) -> None:
        """Remove the folder, its state first, so that a kill half-way leaves nothing that looks like a build."""
        if self.folder.is_dir() and self._ours():
            self._state.unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def tidy(self) -> None:
        """Remove what is left of a build that is finished, and was killed while it removed this folder."""
        if not self.exists():
            self.discard()

    def _ours(self) -> bool:
        """Whether the folder contains nothing but parts of a build, of which a kill may have left any."""
        files = (self.vectors, self._texts, self._offsets, self._state, self._part)
        names = {path.name for path in self.folder.iterdir()}
        return names <= {FINISHED, "replaced", *(path.name for path in files)}  # "replaced": of earlier releases

    def state(self) -> dict[str, Any]:
        """The `count`, `dim` and `encoder` of the committed data."""
        return json.loads(self._state.read_text(encoding="utf-8"))

    def docnos(self) -> pa.Array:
        """The committed docnos in order, memory-mapped; empty if there is no spool."""
        import pyarrow as pa

        count = self.state()["count"] if self.exists() else 0
        if count == 0:
            return pa.array([], pa.large_string())
        offsets = np.memmap(self._offsets, np.int64, "r", shape=(count + 1,))
        texts = np.memmap(self._texts, np.uint8, "r", shape=(int(offsets[-1]),))
        return pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(texts))

    def matrix(self) -> np.ndarray:
        """The committed vectors (n, d), memory-mapped."""
        state = self.state()
        return np.memmap(self.vectors, np.float32, "r", shape=(state["count"], state["dim"]))

    def chunks(self) -> Iterator[np.ndarray]:
        """The committed vectors in order, up to 1,024 of them (n, d) at a time; read, so that none stays in memory."""
        state = self.state()
        with open(self.vectors, "rb") as file:
            for start in range(0, state["count"], CHUNK):
                rows = min(CHUNK, state["count"] - start)
                yield np.frombuffer(file.read(rows * state["dim"] * 4), np.float32).reshape(rows, -1)

    def rewind(self) -> None:
        """Cut off anything that a killed process wrote after its last commit."""
        state = self.state()
        os.truncate(self.vectors, state["count"] * (state["dim"] or 0) * 4)
        os.truncate(self._offsets, (state["count"] + 1) * 8)
        os.truncate(self._texts, self._end())

    def append(self, docnos: list[str], matrix: np.ndarray, encoder: dict[str, Any] | None) -> None:
        """Commit a chunk: its data are on disk before it is counted."""
        state, texts = self.state(), [docno.encode() for docno in docnos]
        ends = self._end() + np.cumsum([len(text) for text in texts], dtype=np.int64)
        for path, data in (
            (self.vectors, matrix.tobytes()),
            (self._texts, b"".join(texts)),
            (self._offsets, ends.tobytes()),
        ):
            with open(path, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        count = state["count"] + len(docnos)
        self._write({"count": count, "dim": matrix.shape[1], "encoder": state["encoder"] or encoder})

    def _end(self) -> int:
        """The number of committed bytes of UTF-8."""
        with open(self._offsets, "rb") as file:
            file.seek(self.state()["count"] * 8)
            return int(np.frombuffer(file.read(8), np.int64)[0])

    def _write(self, state: dict[str, Any]) -> None:
        with open(self._part, "w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._part, self._state)


class SeenDocnos:
    """The docnos seen so far, at 8 bytes each: sorted runs of hashes; the spool distinguishes repeats from collisions.

    Runs are merged like the digits of a binary counter, so n documents cost O(n log n) and at most a few dozen runs.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._runs: list[np.ndarray] = []
        committed = spool.docnos()
        for start in range(0, len(committed), CHUNK):
            self._add(_hashes(committed[start : start + CHUNK].to_pylist()))

    def add(self, docnos: list[str]) -> str | None:
        """Record `docnos`; return the first one that was seen before (or twice in the list), else None."""
        here: set[str] = set()
        for docno in docnos:
            if docno in here:
                return docno
            here.add(docno)
        hashes = _hashes(docnos)
        suspects = np.zeros(len(docnos), bool)
        for run in self._runs:
            suspects |= run[np.minimum(np.searchsorted(run, hashes), len(run) - 1)] == hashes
        for i in np.flatnonzero(suspects):
            if self._committed(docnos[i]):
                return docnos[i]
        self._add(hashes)
        return None

    def _committed(self, docno: str) -> bool:
        import pyarrow.compute as pc

        return bool(pc.index(self._spool.docnos(), docno).as_py() >= 0)

    def _add(self, hashes: np.ndarray) -> None:
        self._runs.append(np.sort(hashes))
        while len(self._runs) > 1 and len(self._runs[-2]) <= len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")


def _hashes(docnos: list[str]) -> np.ndarray:
    return np.fromiter(map(hash, docnos), np.int64, len(docnos))
