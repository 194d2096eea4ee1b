"""Builds a FAISS index from a stream: fill a spool that commits as it goes, train, add, rename into place."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import replace_folder
from ..common.frames import mended, warn_mended
from ..common.records.manifest import describe_files, write_record
from ..encoding.vectors import describe_source, same_vectors, source_of, stack_vectors
from .spool import CHUNK, FINISHED, SeenDocnos, Spool

logger = logging.getLogger(__name__)

#: version of the folder's layout; a higher number means that a newer release wrote the folder
FORMAT_VERSION = 1
#: the artefact's own metadata file, in addition to PyTerrier's pt_meta.json
METADATA, PT_METADATA = "expandr_faiss.json", "pt_meta.json"
VECTORS, DOCNOS = "index.faiss", "docnos.arrow"
ARTEFACT = {"type": "dense_index", "format": "expandr_faiss", "package_hint": "pyterrier_expandr"}

#: number of vectors that trained factories (IVF, PQ) learn from, drawn with a fixed seed ...
TRAIN_SAMPLE = 262_144
#: ... or this many per inverted list, if that is more: FAISS warns below 39
TRAIN_PER_LIST = 40


def build(target: Path, docs: Iterable[dict[str, Any]], *, factory: str, metric: str, resume: bool) -> None:
    """Index `docs` into the folder `target`; with `resume`, continue from what its spool has committed."""
    check_factory(factory, metric)
    spool = Spool(target)
    if resume and spool.exists():
        spool.rewind()
    else:
        spool.start()
    try:
        _fill(spool, docs, factory, metric)
        if spool.state()["count"] == 0:
            raise ValueError("there were no documents to index")
    except BaseException:
        if spool.state()["count"] == 0:  # there is nothing to resume
            spool.discard()
        raise
    replace_folder(_finish(spool, factory, metric), target)
    spool.discard()


def check_factory(factory: str, metric: str, dim: int | None = None) -> Any:
    """An empty FAISS index for `dim` dimensions; without `dim`, only check whether FAISS can parse the string.

    Raises:
        ValueError: FAISS does not know the factory, or it does not suit the dimensions or the metric.
    """
    import faiss

    code = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    try:
        return faiss.index_factory(dim or 64, factory, code)
    except RuntimeError as error:
        reason = last_sentence(error)
        if dim is None and "could not parse" not in reason:
            return None  # it may still suit the actual dimensions of the vectors
        fits = f" for {dim} dimensions and metric {metric!r}" if dim else ""
        raise ValueError(f"FAISS cannot make an index from the factory string {factory!r}{fits}: {reason}") from error


def last_sentence(error: Exception) -> str:
    """FAISS's error message without its source location."""
    return str(error).strip().splitlines()[-1].rsplit(": ", 1)[-1] if str(error).strip() else repr(error)


def _fill(spool: Spool, docs: Iterable[dict[str, Any]], factory: str, metric: str) -> None:
    """Commit all of `docs`, chunk by chunk; the stream may start with documents that are already committed."""
    seen = SeenDocnos(spool)
    stream = _without_committed(iter(docs), spool)
    while chunk := list(islice(stream, CHUNK)):
        docnos = [_docno(doc) for doc in chunk]
        warn_mended(ascii(doc["docno"]) for doc, docno in zip(chunk, docnos, strict=True) if doc["docno"] != docno)
        if (repeated := seen.add(docnos)) is not None:
            raise ValueError(
                f"docno {repeated!r} is repeated: every document needs its own id (with mode='resume' the "
                "corpus must come in the same order as before)"
            )
        if any("doc_vec" not in doc for doc in chunk):
            raise ValueError(
                f"documents need docno and doc_vec, but have {sorted(chunk[0])}: put an encoder before the index, as "
                "in (encoder.doc_encoder() >> index).index(corpus)"
            )
        matrix = stack_vectors([doc["doc_vec"] for doc in chunk], docnos, name="doc_vec")
        state, encoder = spool.state(), source_of(chunk[0]["doc_vec"])
        if state["dim"] not in (None, matrix.shape[1]) or not same_vectors(state["encoder"], encoder):
            raise ValueError(
                f"doc_vec of {docnos[0]!r} has {matrix.shape[1]} dimensions and comes from {describe_source(encoder)}, "
                f"but earlier ones have {state['dim']} and come from {describe_source(state['encoder'])}: all must "
                "come from the same encoder"
            )
        if state["dim"] is None:  # check before hours of encoding, not after
            check_factory(factory, metric, matrix.shape[1])
        spool.append(docnos, matrix, encoder)


def _without_committed(docs: Iterator[dict[str, Any]], spool: Spool) -> Iterator[dict[str, Any]]:
    """`docs` without a beginning that exactly repeats what is committed."""
    committed = spool.docnos()
    first = next(docs, None)
    if first is None:
        return docs
    docs = chain([first], docs)
    if len(committed) == 0 or not _is_docno(first.get("docno"), committed[0].as_py()):
        return docs
    return skip_committed(docs, committed)


def skip_committed(docs: Iterable[dict[str, Any]], committed: Any) -> Iterator[dict[str, Any]]:
    """The documents after the first `len(committed)`, which must be those in the Arrow array `committed`.

    Raises:
        ValueError: the first documents are others.
    """
    docs, number = iter(docs), 0
    for start in range(0, len(committed), CHUNK):
        for expected in committed[start : start + CHUNK].to_pylist():
            doc = next(docs, None)
            if doc is None or not _is_docno(doc.get("docno"), expected):
                found = "the end of the corpus" if doc is None else repr(doc.get("docno"))
                raise ValueError(
                    f"document {number} is {found}, but was {expected!r} in the interrupted build: resume with the "
                    "same corpus in the same order, or start over with mode='overwrite'"
                )
            number += 1
    yield from docs


def check_documents(docs: Iterable[dict[str, Any]], indexed: Any, place: str) -> None:
    """Raise FileExistsError unless `docs` are those in the Arrow array `indexed`, in its order; `place` is named."""
    for number, (doc, docno) in enumerate(zip_longest(docs, indexed)):
        if doc is None or docno is None or not _is_docno(doc.get("docno"), docno.as_py()):
            raise FileExistsError(
                f"{place!r} already contains an index of other documents (document {number} differs): choose another "
                "path, or replace it with mode='overwrite'"
            )


def _docno(doc: dict[str, Any]) -> str:
    docno = doc.get("docno")
    if not isinstance(docno, str) or not docno:
        raise ValueError(f"every document needs a docno that is a non-empty string, got {docno!r}")
    return mended(docno)


def _is_docno(docno: Any, expected: str) -> bool:
    """Whether a document is the one that was committed under the docno `expected`."""
    return docno == expected or (isinstance(docno, str) and mended(docno) == expected)


def _finish(spool: Spool, factory: str, metric: str) -> Path:
    """A complete index folder inside the spool, made from its vectors and docnos."""
    import faiss
    import pyarrow as pa

    finished, state = spool.folder / FINISHED, spool.state()
    shutil.rmtree(finished, ignore_errors=True)  # left by a kill; its files may be those of a saved system, as links
    finished.mkdir()
    _write_faiss(finished / VECTORS, spool.matrix(), factory, metric)
    table = pa.table({"docno": spool.docnos()})
    with pa.OSFile(str(finished / DOCNOS), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    versions = {name: version(name) for name in ("pyterrier_expandr", "pyterrier", "numpy", "pyarrow")}
    metadata = {
        "format_version": FORMAT_VERSION,
        "factory": factory,
        "metric": metric,
        "dim": state["dim"],
        "count": state["count"],
        "encoder": state["encoder"],
        "versions": versions | {"faiss": str(faiss.__version__)},
    }
    (finished / PT_METADATA).write_text(json.dumps(ARTEFACT) + "\n", encoding="utf-8")
    write_record(finished / METADATA, metadata, describe_files(finished, leave_out=[METADATA]))
    return finished


def _write_faiss(path: Path, matrix: np.ndarray, factory: str, metric: str) -> None:
    """The FAISS file for all vectors; a flat one is streamed, others are trained on a seeded sample and then filled."""
    import faiss

    index = check_factory(factory, metric, matrix.shape[1])
    flat = type(index) in (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2)
    if flat and _stream_flat(path, matrix, faiss.serialize_index(index).tobytes()):
        return
    if not index.is_trained:
        sample = _training_sample(index, matrix)
        try:
            index.train(sample)
        except RuntimeError as error:
            raise ValueError(
                f"{len(sample)} vectors are too few to train {factory!r} ({last_sentence(error)}); they are kept: "
                "choose a smaller one with factory=... and continue with mode='resume'"
            ) from error
    for start in range(0, len(matrix), CHUNK):
        index.add(np.ascontiguousarray(matrix[start : start + CHUNK]))
    faiss.write_index(index, str(path))


def _training_sample(index: Any, matrix: np.ndarray) -> np.ndarray:
    import faiss

    inverted = faiss.try_extract_index_ivf(index)
    size = max(TRAIN_SAMPLE, TRAIN_PER_LIST * inverted.nlist if inverted else 0)
    if len(matrix) <= size:
        return np.ascontiguousarray(matrix)
    return matrix[np.sort(np.random.default_rng(0).choice(len(matrix), size, replace=False))]


def _stream_flat(path: Path, matrix: np.ndarray, empty: bytes) -> bool:
    """Write FAISS's flat format without holding the vectors in memory; False if this FAISS uses another layout.

    The file consists of the empty index's bytes with two counts filled in, followed by the vectors: bytes 8 to 15 hold
    the number of vectors, the last 8 the number of floats that follow.
    """
    import faiss

    header = _with_counts(empty, len(matrix), matrix.size)
    with open(path, "wb") as file:
        file.write(header)
        for start in range(0, len(matrix), CHUNK):
            file.write(matrix[start : start + CHUNK].tobytes())
    try:
        written = faiss.read_index(str(path), mmap_flag(faiss))
        ends = [0, len(matrix) - 1]
        if written.ntotal == len(matrix) and all(np.array_equal(written.reconstruct(i), matrix[i]) for i in ends):
            return True
    except RuntimeError:
        pass
    logger.warning(
        "FAISS %s writes flat indexes in another layout; building the index in memory instead", faiss.__version__
    )
    return False


def _with_counts(empty: bytes, vectors: int, floats: int) -> bytes:
    return empty[:8] + vectors.to_bytes(8, "little") + empty[16:-8] + floats.to_bytes(8, "little")


def import_faiss() -> Any:
    """The module faiss, or an ImportError with the line to type: a dependency that may have been uninstalled."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"dense indexes need FAISS ({error}): pip install faiss-cpu") from error
    return faiss


def mmap_flag(faiss: Any) -> int:
    """The flag for mapping an index file instead of reading it: all types since FAISS 1.11, inverted lists before."""
    return int(getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP))
