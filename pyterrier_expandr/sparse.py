"""BM25 from PISA, the lexical baseline that runs without Java."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyterrier as pt


def bm25(corpus: Iterable[dict[str, Any]], folder: str | Path, *, num_results: int = 1000) -> pt.Transformer:
    """A BM25 retriever `[qid, query]` -> R over a PISA index of `title + " " + text`, built in `folder` if missing.

    Repeated query terms count as often as they occur, as in other BM25 engines.

    Raises:
        ImportError: pyterrier-pisa is not installed (it has wheels for Linux on x86-64 only).

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
    index = PisaIndex(str(folder), text_field="text")
    with _quiet():
        if not index.built():
            index.index(
                {"docno": doc["docno"], "text": f"{doc.get('title') or ''} {doc['text']}".strip()} for doc in corpus
            )
        retriever = index.bm25(num_results=num_results, query_weighted=True)
        retriever.search("index")  # PISA compresses its index at the first search
    return retriever


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what PISA's C++ code prints off the terminal; Python's own output is flushed before and after."""
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
