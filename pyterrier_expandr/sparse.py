"""BM25 from PISA, the lexical baseline that runs without Java."""

from __future__ import annotations

from collections.abc import Iterable
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
    if not index.built():
        index.index(
            {"docno": doc["docno"], "text": f"{doc.get('title') or ''} {doc['text']}".strip()} for doc in corpus
        )
    return index.bm25(num_results=num_results, query_weighted=True)
