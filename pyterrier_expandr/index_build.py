"""Building a FAISS index from a stream: a spool that commits as it goes, then training, adding and a rename."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .vectors import describe_source, same_vectors, source_of, stack_vectors

#: version of the folder's layout; a higher one was written by a newer release
FORMAT_VERSION = 1
METADATA = "index.json"

#: documents that one commit holds
CHUNK = 4096
#: vectors that trained factories (IVF, PQ) learn from at most, drawn with a fixed seed
TRAIN_SAMPLE = 262_144


class Spool:
    """The working folder beside an index under construction: raw vectors, docnos and how many of them are committed.

    A commit is complete once `state.json` counts it; whatever stands behind that in the two files is cut off when a build
    is resumed.
    """

    def __init__(self, target: Path) -> None:
        self.folder = target.with_name(target.name + ".building")
        self.vectors, self.docnos = self.folder / "vectors.f32", self.folder / "docnos.jsonl"
        self._state = self.folder / "state.json"

    def exists(self) -> bool:
        """Whether an interrupted build lies here."""
        return self._state.is_file()

    def start(self) -> None:
        """An empty spool in place of whatever was there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.vectors.touch()
        self.docnos.touch()
        self._write({"count": 0, "dim": None, "encoder": None})

    def state(self) -> dict[str, Any]:
        """`count`, `dim` and `encoder` of what is committed."""
        return json.loads(self._state.read_text(encoding="utf-8"))

    def committed_docnos(self) -> list[str]:
        """The committed docnos in order; none where there is no spool."""
        if not self.exists():
            return []
        with open(self.docnos, encoding="utf-8") as file:
            return [json.loads(line) for line in islice(file, self.state()["count"])]

    def rewind(self) -> None:
        """Cut off what a killed process wrote behind its last commit."""
        state = self.state()
        os.truncate(self.vectors, state["count"] * (state["dim"] or 0) * 4)
        with open(self.docnos, "rb+") as file:
            for _ in islice(file, state["count"]):
                pass
            file.seek(0, os.SEEK_CUR)
            file.truncate(file.tell())

    def append(self, docnos: list[str], matrix: np.ndarray, encoder: dict[str, Any] | None) -> None:
        """Commit a chunk: its data reach the disk before it is counted."""
        state = self.state()
        with open(self.vectors, "ab") as file:
            file.write(matrix.tobytes())
            file.flush()
            os.fsync(file.fileno())
        with open(self.docnos, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(docno) + "\n" for docno in docnos)
            file.flush()
            os.fsync(file.fileno())
        self._write({"count": state["count"] + len(docnos), "dim": matrix.shape[1], "encoder": state["encoder"] or encoder})

    def matrix(self) -> np.ndarray:
        """All committed vectors (n, d), memory-mapped."""
        state = self.state()
        return np.memmap(self.vectors, dtype=np.float32, mode="r", shape=(state["count"], state["dim"]))

    def _write(self, state: dict[str, Any]) -> None:
        part = self._state.with_suffix(".part")
        part.write_text(json.dumps(state), encoding="utf-8")
        os.replace(part, self._state)


def build(target: Path, docs: Iterable[dict[str, Any]], *, factory: str, metric: str, resume: bool) -> None:
    """Index `docs` into the folder `target`; with `resume`, go on from what its spool has committed."""
    spool = Spool(target)
    if resume and spool.exists():
        spool.rewind()
    else:
        spool.start()
    _fill(spool, docs, factory, metric)
    if spool.state()["count"] == 0:
        shutil.rmtree(spool.folder)
        raise ValueError("there were no documents to index")
    finished = _finish(spool, factory, metric)
    if target.exists():  # overwrite: the old index stays until the new one is whole
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
        os.replace(finished, target)
        shutil.rmtree(old)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(finished, target)
    shutil.rmtree(spool.folder)


def _fill(spool: Spool, docs: Iterable[dict[str, Any]], factory: str, metric: str) -> None:
    """Commit all of `docs`, chunk by chunk; documents that are committed already may come again at the start."""
    committed = spool.committed_docnos()
    # Hashes and not the strings: a third of the memory, and two docnos in 10 million collide once in 10^5 corpora.
    seen = {hash(docno) for docno in committed}
    stream = _without_committed(iter(docs), committed)
    checked = bool(committed)
    while chunk := list(islice(stream, CHUNK)):
        docnos = [_docno(doc, seen) for doc in chunk]
        if any("doc_vec" not in doc for doc in chunk):
            raise ValueError(
                f"documents need docno and doc_vec, found {sorted(chunk[0])}: put an encoder before the index, as in "
                "(encoder.doc_encoder() >> index).index(corpus)"
            )
        matrix = stack_vectors([doc["doc_vec"] for doc in chunk], docnos, name="doc_vec")
        state, encoder = spool.state(), source_of(chunk[0]["doc_vec"])
        if state["dim"] not in (None, matrix.shape[1]) or not same_vectors(state["encoder"], encoder):
            raise ValueError(
                f"doc_vec of {docnos[0]!r} has {matrix.shape[1]} dimensions and comes from {describe_source(encoder)}, those "
                f"before have {state['dim']} from {describe_source(state['encoder'])}: all must come from one encoder"
            )
        if not checked:  # before hours of encoding, not after
            _empty_index(factory, metric, matrix.shape[1])
            checked = True
        spool.append(docnos, matrix, encoder)


def _without_committed(docs: Iterator[dict[str, Any]], committed: list[str]) -> Iterator[dict[str, Any]]:
    """`docs` less a beginning that repeats exactly what is committed."""
    first = next(docs, None)
    if first is None:
        return
    if not committed or first.get("docno") != committed[0]:
        yield first
        yield from docs
        return
    for number, expected in enumerate(committed[1:], 1):
        doc = next(docs, None)
        if doc is None or doc.get("docno") != expected:
            found = "the end of the corpus" if doc is None else repr(doc.get("docno"))
            raise ValueError(
                f"document {number} is {found}, but the interrupted build has {expected!r} there: resume with the same "
                'corpus in the same order, or start anew with mode="overwrite"'
            )
    yield from docs


def _docno(doc: dict[str, Any], seen: set[int]) -> str:
    """The document's id, checked and noted in `seen`."""
    docno = doc.get("docno")
    if not isinstance(docno, str) or not docno:
        raise ValueError(f"every document needs a docno that is a non-empty string, got {docno!r}")
    try:
        docno.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"docno {docno!r} holds half a Unicode character (a lone surrogate): mend it") from error
    if hash(docno) in seen:
        raise ValueError(f"docno {docno!r} occurs twice: every document needs an id of its own")
    seen.add(hash(docno))
    return docno


def _empty_index(factory: str, metric: str, dim: int) -> Any:
    import faiss

    code = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    try:
        return faiss.index_factory(dim, factory, code)
    except RuntimeError as error:
        raise ValueError(f"factory {factory!r} cannot be made for {dim} dimensions and metric {metric!r}: {error}") from error


def _finish(spool: Spool, factory: str, metric: str) -> Path:
    """A complete index folder inside the spool, made from its vectors and docnos."""
    import pyarrow as pa

    finished = spool.folder / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    matrix, state = spool.matrix(), spool.state()
    _write_faiss(finished / "index.faiss", matrix, factory, metric)
    table = pa.table({"docno": pa.array(spool.committed_docnos(), pa.large_string())})
    with pa.OSFile(str(finished / "docnos.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    files = {name: (finished / name).stat().st_size for name in ("index.faiss", "docnos.arrow")}
    metadata = {
        "format_version": FORMAT_VERSION,
        "factory": factory,
        "metric": metric,
        "dim": state["dim"],
        "count": state["count"],
        "encoder": state["encoder"],
        "versions": {name: version(name) for name in ("pyterrier_expandr", "pyterrier", "numpy")} | {"faiss": _faiss_version()},
        "files": files,
    }
    artefact = {"type": "dense_index", "format": "expandr_faiss", "package_hint": "pyterrier_expandr"}
    (finished / "pt_meta.json").write_text(json.dumps(artefact) + "\n", encoding="utf-8")
    (finished / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    return finished


def _faiss_version() -> str:
    import faiss

    return str(faiss.__version__)


def _write_faiss(path: Path, matrix: np.ndarray, factory: str, metric: str) -> None:
    """The FAISS file for all vectors; a flat one is streamed, others are trained on a seeded sample and then filled."""
    import faiss

    index = _empty_index(factory, metric, matrix.shape[1])
    if type(index) in (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2):
        return _write_flat(path, matrix, faiss.serialize_index(index).tobytes())
    if not index.is_trained:
        rows = np.arange(len(matrix))
        if len(matrix) > TRAIN_SAMPLE:
            rows = np.sort(np.random.default_rng(0).choice(len(matrix), TRAIN_SAMPLE, replace=False))
        try:
            index.train(np.ascontiguousarray(matrix[rows]))
        except RuntimeError as error:
            raise ValueError(
                f"{len(rows)} vectors are too few to train {factory!r} ({str(error).splitlines()[-1].strip()}): resume with a "
                "smaller factory, FaissIndex(path, factory=...).indexer(mode='resume')"
            ) from error
    for start in range(0, len(matrix), CHUNK):
        index.add(np.ascontiguousarray(matrix[start : start + CHUNK]))
    faiss.write_index(index, str(path))
    return None


def _write_flat(path: Path, matrix: np.ndarray, empty: bytes) -> None:
    """FAISS's flat format without holding the vectors in memory: the empty index's bytes with two counts put in.

    Bytes 8 to 15 hold the number of vectors, the last 8 the number of floats that follow.
    """
    import faiss

    header = empty[:8] + struct.pack("<q", len(matrix)) + empty[16:-8] + struct.pack("<Q", matrix.size)
    with open(path, "wb") as file:
        file.write(header)
        for start in range(0, len(matrix), CHUNK):
            file.write(np.ascontiguousarray(matrix[start : start + CHUNK]).tobytes())
    written = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    last = len(matrix) - 1
    if written.ntotal != len(matrix) or not np.array_equal(written.reconstruct(last), matrix[last]):
        raise RuntimeError(f"this FAISS ({faiss.__version__}) writes flat indexes in another layout: report it to the project")
