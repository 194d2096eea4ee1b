"""Builds a FAISS index from a stream: fill a spool that commits as it goes, train, add, rename into place."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt

from ..common.files import replace_folder
from ..common.frames import mended, warn_mended
from ..common.records.checked import check_once
from ..common.records.manifest import check_files, check_inside, describe_files, read_record, write_record
from ..encoding.vectors import describe_source, same_vectors, source_of, stack_vectors
from .factories import build_memory, check_factory, is_flat, last_sentence, least_to_train, mmap_flag, sample_size
from .spool import CHUNK, FINISHED, SeenDocnos, Spool

logger = logging.getLogger(__name__)

#: version of the folder's layout; a higher number means that a newer release wrote the folder
FORMAT_VERSION = 1
#: the artefact's own metadata file, in addition to PyTerrier's pt_meta.json
METADATA, PT_METADATA = "expandr_faiss.json", "pt_meta.json"
VECTORS, DOCNOS = "index.faiss", "docnos.arrow"
#: what to do about a damaged index
MEND = "index again, or download it again"


def _number(value: object) -> bool:
    return type(value) is int and value > 0


#: what every record of an index has, and what it must be
KEYS: dict[str, Callable[[object], bool]] = {
    "factory": lambda value: isinstance(value, str),
    "metric": lambda value: isinstance(value, str),
    "dim": _number,
    "count": _number,
    "encoder": lambda value: value is None or isinstance(value, dict),
    "files": lambda value: isinstance(value, dict),
}
ARTEFACT = {"type": "dense_index", "format": "expandr_faiss", "package_hint": "pyterrier_expandr"}


def build(
    target: Path, docs: Iterable[dict[str, Any]], *, factory: str, metric: str, resume: bool, verbose: bool = False
) -> None:
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
    replace_folder(_finish(spool, factory, metric, verbose), target)
    spool.discard()


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


def _finish(spool: Spool, factory: str, metric: str, verbose: bool) -> Path:
    """A complete index folder inside the spool, made from its vectors and docnos."""
    import faiss
    import pyarrow as pa

    finished, state = spool.folder / FINISHED, spool.state()
    shutil.rmtree(finished, ignore_errors=True)  # left by a kill; its files may be those of a saved system, as links
    finished.mkdir()
    trained_on = _write_faiss(finished / VECTORS, spool, factory, metric, verbose)
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
        "trained_on": trained_on,
        "versions": versions | {"faiss": str(faiss.__version__)},
    }
    (finished / PT_METADATA).write_text(json.dumps(ARTEFACT) + "\n", encoding="utf-8")
    write_record(finished / METADATA, metadata, describe_files(finished, leave_out=[METADATA]))
    return finished


def _write_faiss(path: Path, spool: Spool, factory: str, metric: str, verbose: bool) -> int:
    """Write the FAISS file for all vectors, and return the number of vectors that it was trained on.

    A flat one is streamed; others are trained on a seeded sample and then filled.
    """
    import faiss

    count, dim = spool.state()["count"], spool.state()["dim"]
    index = check_factory(factory, metric, dim)
    least, sampled, memory = least_to_train(index), min(sample_size(index), count), build_memory(index, count, dim)
    if least > count:
        raise ValueError(
            f"{count} vectors are too few to train {factory!r}, which needs at least {least}; they are kept: "
            "choose a smaller one with factory=... and continue with mode='resume'"
        )
    logger.info("%s of %d vectors: %d MB of memory, trained on %d", factory, count, memory // 2**20 + 1, sampled)
    if verbose:
        trained = f", trained on {sampled:,} vectors" if sampled else ""
        pt.tqdm.write(f"{factory}: {memory // 2**20 + 1:,} MB of memory{trained}", file=sys.stderr)
    if is_flat(index) and _stream_flat(path, spool, faiss.serialize_index(index).tobytes()):
        return 0
    if least:
        try:
            index.train(_training_sample(sampled, spool))
        except RuntimeError as error:
            raise ValueError(
                f"{sampled} vectors are too few to train {factory!r} ({last_sentence(error)}); they are kept: "
                "choose a smaller one with factory=... and continue with mode='resume'"
            ) from error
    with pt.tqdm(total=count, desc=f"Adding to {factory}", unit="doc", disable=not verbose) as bar:
        for chunk in spool.chunks():
            index.add(chunk)
            bar.update(len(chunk))
    faiss.write_index(index, str(path))
    return sampled


def _training_sample(size: int, spool: Spool) -> np.ndarray:
    """`size` of the vectors (size, d), drawn with a fixed seed; the file is read once and never held."""
    count = spool.state()["count"]
    chosen = np.sort(np.random.default_rng(0).choice(count, size, replace=False))
    ends = np.searchsorted(chosen, np.arange(0, count + CHUNK, CHUNK))
    found = [
        chunk[chosen[ends[number] : ends[number + 1]] - number * CHUNK] for number, chunk in enumerate(spool.chunks())
    ]
    return np.concatenate(found)


def _stream_flat(path: Path, spool: Spool, empty: bytes) -> bool:
    """Write FAISS's flat format without holding the vectors in memory; False if this FAISS uses another layout.

    The file consists of the empty index's bytes with two counts filled in, followed by the vectors: bytes 8 to 15 hold
    the number of vectors, the last 8 the number of floats that follow.
    """
    import faiss

    matrix = spool.matrix()
    with open(path, "wb") as file:
        file.write(_with_counts(empty, len(matrix), matrix.size))
        for chunk in spool.chunks():
            file.write(chunk.tobytes())
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


def read_metadata(folder: Path) -> dict[str, Any]:
    """What is recorded with an index. Raises ValueError if it or a file is damaged, or of a newer release."""
    record = folder / METADATA
    metadata = read_record(record, MEND, newest=FORMAT_VERSION)
    try:
        newer = metadata["format_version"] > FORMAT_VERSION
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(record)!r} is damaged ({error!r}): {MEND}") from error
    if newer:
        raise ValueError(
            f"the index in {str(folder)!r} has format {metadata['format_version']}, but this release reads only up to "
            f"{FORMAT_VERSION}: upgrade pyterrier_expandr"
        )
    for name, sound in KEYS.items():
        if name not in metadata:
            raise ValueError(f"{str(record)!r} is damaged (it lacks {name}): {MEND}")
        if not sound(metadata[name]):
            raise ValueError(f"{str(record)!r} is damaged ({name} cannot be {metadata[name]!r:.60}): {MEND}")
    if not {VECTORS, DOCNOS} <= set(metadata["files"]):
        raise ValueError(f"{str(record)!r} is damaged (it lacks a file): {MEND}")
    check_inside(folder)
    check_files(folder, metadata["files"], MEND)
    if Path(pt.io.pyterrier_home()) / "artifacts" in folder.resolve().parents:  # downloaded: read it all, once
        check_once(record, metadata, MEND)
    return metadata
