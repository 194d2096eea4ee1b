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

from ..common.files import path_of
from ..common.frames import document_text, mended, warn_mended


def bm25(corpus: Iterable[dict[str, Any]], folder: str | Path, *, num_results: int = 1000) -> pt.Transformer:
    """A BM25 retriever `[qid, query]` -> R over a PISA index of `title + " " + text`, built in `folder` if missing.

    Repeated query terms count as often as they occur, as in other BM25 engines. The folder appears when it is complete.

    Raises:
        ImportError: pyterrier-pisa is not installed (it has wheels for Linux on x86-64 only). ValueError: the corpus is
            empty, or a docno has white space in it. FileExistsError: the folder holds other things. What reading the
            corpus raises.

    Example:
        >>> from pyterrier_expandr.collections import pocket
        >>> bm25(pocket().get_corpus_iter(), "pocket.pisa").search("sky")  # doctest: +SKIP
    """
    try:
        from pyterrier_pisa import PisaIndex
    except ImportError as error:
        raise ImportError(
            'BM25 needs pyterrier-pisa: pip install "pyterrier_expandr[bm25]" (wheels for Linux on x86-64 only)'
        ) from error
    folder = path_of(folder)
    index = PisaIndex(str(folder), text_field="text")
    if not index.built():
        _build(corpus, folder)
    with _quiet():
        return _retriever(index, num_results)


def _build(corpus: Iterable[dict[str, Any]], folder: Path) -> None:
    """Index the corpus beside `folder`, then rename."""
    from pyterrier_pisa import PisaIndex

    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} holds other files and no finished index: remove or choose another one")
    errors: list[Exception] = []
    documents = _documents(corpus, errors)
    first = next(documents, None)
    if first is None:
        raise errors[0] if errors else ValueError("the corpus is empty: there is nothing to index")
    part = folder.with_name(f".part.{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with _quiet():
            index = PisaIndex(str(part), text_field="text")
            index.index(chain([first], documents))
            if not errors:
                _retriever(index, 1).search("index")  # PISA compresses its index at the first search
        if errors:
            raise errors[0]
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _documents(corpus: Iterable[dict[str, Any]], errors: list[Exception]) -> Iterator[dict[str, str]]:
    """The corpus as PISA takes it. PISA reads in a thread of its own, where an error would only end the corpus."""
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
