"""BM25 from PISA, the lexical baseline that runs without Java."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyterrier as pt

from ..common.extras import needed_for
from ..common.files import path_of, replace_folder, restored
from ..common.fingerprint import file_fingerprint
from ..common.frames import document_text, mended, warn_mended
from ..common.locks import one_writer

#: the file in which PISA describes an index
METADATA = "pt_meta.json"


class LexicalIndex:
    """A PISA index of `title + " " + text`, and BM25 over it.

    Args:
        folder: the folder of the index, existing or to be built by `index`. It appears only once complete.

    Example:
        >>> from pyterrier_expandr.collections import pocket
        >>> LexicalIndex("pocket.pisa").index(pocket().get_corpus_iter()).retriever().search("sky")  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = path_of(folder)
        self._retrievers: dict[int, pt.Transformer] = {}

    @classmethod
    def beside(cls, index: Path) -> LexicalIndex:
        """The lexical index that belongs to the vector index in the folder `index`: FOLDER.pisa.

        Example:
            >>> LexicalIndex.beside(Path("sky.faiss"))
            LexicalIndex('sky.faiss.pisa')
        """
        return cls(index.with_name(f"{index.name}.pisa"))

    def built(self) -> bool:
        """Whether the index has been built completely."""
        return (self.folder / METADATA).is_file() or (not self.folder.exists() and restored(self.folder))

    def _check_built(self) -> None:
        if not self.built():
            raise FileNotFoundError(f"there is no lexical index at {str(self.folder)!r}: index documents first")

    def index(self, corpus: Iterable[dict[str, Any]], *, overwrite: bool = False) -> LexicalIndex:
        """Index `{"docno", "title", "text"}` records and return this index; an index already built is left unchanged.

        Args:
            corpus: the records.
            overwrite: replace an index already built, once the new one is complete.

        Raises:
            InUseError: another process is building it.
            ImportError: pyterrier-pisa is not installed (it has wheels for Linux on x86-64 only). ValueError: the
                corpus is empty, or a docno contains white space. FileExistsError: the folder contains something else.
                Any error raised while reading the corpus.
        """
        _pisa()
        with one_writer(self.folder):
            if overwrite or not self.built():
                _build(corpus, self.folder, overwrite=overwrite and self.built())
                self._retrievers = {}
        return self

    def retriever(self, num_results: int = 1000) -> pt.Transformer:
        """BM25, `[qid, query]` or `[qid, query_toks]` -> R; the same object for the same `num_results`.

        Repeated query terms count as often as they occur, as in other BM25 engines.

        Raises:
            FileNotFoundError: the index has not been built. ImportError: pyterrier-pisa is not installed.
        """
        self._check_built()
        if num_results not in self._retrievers:
            with _quiet():
                index = _pisa()(str(self.folder), text_field="text")
                self._retrievers[num_results] = _retriever(index, num_results)
        return self._retrievers[num_results]

    @property
    def docnos(self) -> list[str]:
        """All docnos in indexing order. Raises FileNotFoundError if the index has not been built."""
        self._check_built()
        return (self.folder / "fwd.documents").read_text(encoding="utf-8").splitlines()

    def describe(self) -> dict[str, Any]:
        """What the index contains, as JSON values: its engine, and a hash of each file with documents or postings."""
        self._check_built()
        files = sorted(path for path in self.folder.iterdir() if path.name.startswith(("fwd", "inv")))
        return {"engine": "pisa", "files": {path.name: file_fingerprint(path) for path in files}}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_retrievers": {}}

    def __eq__(self, other: object) -> bool:
        return self.folder.resolve() == other.folder.resolve() if isinstance(other, LexicalIndex) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.folder.resolve())

    def __repr__(self) -> str:
        return f"LexicalIndex({str(self.folder)!r})"


def bm25(corpus: Iterable[dict[str, Any]], folder: str | Path, *, num_results: int = 1000) -> pt.Transformer:
    """A BM25 retriever `[qid, query]` -> R over a `LexicalIndex` of the corpus, built in `folder` if it is missing.

    Example:
        >>> from pyterrier_expandr.collections import pocket
        >>> bm25(pocket().get_corpus_iter(), "pocket.pisa").search("sky")  # doctest: +SKIP
    """
    return LexicalIndex(folder).index(corpus).retriever(num_results)


def _pisa() -> Any:
    """The class of PISA indexes."""
    with needed_for("BM25 (on Linux on x86-64, for which PISA has wheels)", "bm25"):
        from pyterrier_pisa import PisaIndex
    return PisaIndex


def _build(corpus: Iterable[dict[str, Any]], folder: Path, *, overwrite: bool) -> None:
    """Index the corpus in a folder next to `folder`, then rename it."""
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{str(folder)!r} contains other files but no finished index: remove it, or choose another folder"
        )
    errors: list[Exception] = []
    documents = _documents(corpus, errors)
    first = next(documents, None)
    if first is None:
        raise errors[0] if errors else ValueError("the corpus is empty: there is nothing to index")
    part = folder.with_name(f".part.{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with _quiet():
            index = _pisa()(str(part), text_field="text")
            index.index(chain([first], documents))
            if not errors:
                _retriever(index, 1).search("index")  # PISA compresses its index on the first search
        if errors:
            raise errors[0]
        replace_folder(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _documents(corpus: Iterable[dict[str, Any]], errors: list[Exception]) -> Iterator[dict[str, str]]:
    """The corpus in PISA's format. PISA reads in its own thread, where an error would merely end the corpus."""
    try:
        for doc in corpus:
            docno, text = mended(doc["docno"]), document_text(doc.get("title"), doc["text"])
            if len(docno.split()) != 1:
                raise ValueError(f"a docno must be one word without white space, got {docno!r}")
            if docno != doc["docno"] or mended(doc["text"]) != doc["text"]:
                warn_mended([ascii(doc["docno"])])
            yield {"docno": docno, "text": text.strip()}
    except Exception as error:
        errors.append(error)


def _retriever(index: Any, num_results: int) -> pt.Transformer:
    retriever: pt.Transformer = index.bm25(num_results=num_results, query_weighted=True)
    return retriever


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PISA's C++ output off the terminal; Python's own output is flushed before and after."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
