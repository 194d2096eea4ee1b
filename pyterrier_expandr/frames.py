"""Checks on the text columns of PyTerrier frames."""

from __future__ import annotations

import pandas as pd


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
        elif query is None or pd.api.types.is_scalar(query) and pd.isna(query):
            missing.append(str(qid))
        else:
            wrong.append(f"{qid} ({type(query).__name__})")
    if wrong:
        raise TypeError(f"query must be a string; these qids have another type: {wrong[:5]}")
    if missing:
        raise ValueError(f"query is missing (None or NaN) for {len(missing)} qid(s), e.g. {missing[:5]}: fill or drop them")
    if empty:
        raise ValueError(f"query is empty for {len(empty)} qid(s), e.g. {empty[:5]}: fill or drop these rows")
    return [without_surrogates(query) for query in frame["query"]]
