"""Checks on the text columns of PyTerrier frames."""

from __future__ import annotations

from typing import Any

import pandas as pd


def is_missing(value: Any) -> bool:
    """Whether a cell holds None, NaN or pandas' NA."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def without_surrogates(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD: no tokenizer, database or file accepts them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def query_texts(frame: pd.DataFrame) -> list[str]:
    """The `query` column as clean strings, in row order.

    Raises:
        ValueError: a query is missing (None, NaN), empty or only white space; the message names the qids.
        TypeError: a query is no string.

    Example:
        >>> query_texts(pd.DataFrame({"qid": ["1"], "query": ["dense retrieval"]}))
        ['dense retrieval']
    """
    qids = frame["qid"] if "qid" in frame else frame.index
    missing, wrong, empty = [], [], []
    for qid, query in zip(qids, frame["query"], strict=True):
        if isinstance(query, str):
            if not query.strip():
                empty.append(str(qid))
        elif is_missing(query):
            missing.append(str(qid))
        else:
            wrong.append(f"{qid} ({type(query).__name__})")
    if wrong:
        raise TypeError(f"query must be a string; these qids have another type: {wrong[:5]}")
    if missing:
        raise ValueError(
            f"query is missing (None or NaN) for {len(missing)} qid(s), e.g. {missing[:5]}: fill or drop them"
        )
    if empty:
        raise ValueError(f"query is empty for {len(empty)} qid(s), e.g. {empty[:5]}: fill or drop these rows")
    return [without_surrogates(query) for query in frame["query"]]


def expansion_lists(frame: pd.DataFrame) -> list[list[str]]:
    """The `query_expansions` column as lists of non-blank strings; empty lists where the column or a cell is missing.

    Raises:
        TypeError: a cell is neither a list of strings nor missing; the message names the qid.
    """
    if "query_expansions" not in frame:
        return [[] for _ in range(len(frame))]
    lists = []
    for row, cell in enumerate(frame["query_expansions"]):
        if is_missing(cell):
            cell = []
        if isinstance(cell, str) or not all(isinstance(text, str) for text in cell):
            name = frame["qid"].iloc[row] if "qid" in frame else row
            raise TypeError(f"query_expansions of qid {name!r} must be a list of strings, got {cell!r:.80}")
        lists.append([without_surrogates(text) for text in cell if text.strip()])
    return lists


def document_text(title: str | None, text: str) -> str:
    """`title + " " + text`, or the text alone where there is no title: a document as encoders read it.

    Example:
        >>> document_text("Scurvy", "Sailors lacked fruit.")
        'Scurvy Sailors lacked fruit.'
    """
    return without_surrogates(f"{title} {text}" if title else text)


def document_texts(frame: pd.DataFrame, text_field: str) -> list[str]:
    """`title + " " + text` of each row, or the text alone where the title is missing or empty.

    Raises:
        ValueError: a text is missing (None or NaN). TypeError: a title or a text is no string.
    """
    docnos = frame["docno"] if "docno" in frame else frame.index
    titles = frame["title"] if "title" in frame else [""] * len(frame)
    texts = []
    for docno, title, text in zip(docnos, titles, frame[text_field], strict=True):
        if is_missing(text):
            raise ValueError(f"{text_field} of document {docno!r} is missing (None or NaN): give it an empty string")
        if is_missing(title):
            title = ""
        if not isinstance(title, str) or not isinstance(text, str):
            raise TypeError(
                f"title and {text_field} of document {docno!r} must be strings, got {title!r}, {text!r:.80}"
            )
        texts.append(document_text(title, text))
    return texts
