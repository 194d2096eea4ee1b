"""Checks on the text columns of PyTerrier frames."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)


def is_missing(value: Any) -> bool:
    """Whether a cell holds None, NaN or pandas' NA."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def without_surrogates(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD: no tokenizer, database or file accepts them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mended(text: str) -> str:
    """`text` of a document with each lone surrogate and each NUL replaced by U+FFFD: not all files accept them.

    Example:
        >>> mended("a" + chr(0)) == "a" + chr(0xFFFD)
        True
    """
    return without_surrogates(text).replace("\0", "\ufffd")


def warn_mended(names: Iterable[str]) -> None:
    """Log, once for all of `names`, that these texts contained characters that were replaced."""
    if names := list(names):
        logger.warning(
            "%d document(s) contain a lone surrogate (half a Unicode character) or NUL, replaced by U+FFFD: %s",
            len(names),
            names[:5],
        )


def records_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Records as a frame, with texts mended as in documents: pandas cannot build a column from lone surrogates.

    Example:
        >>> records_frame([{"docno": "1", "text": "sky"}]).columns.tolist()
        ['docno', 'text']
    """
    rows, broken = [], []
    for record in records:
        row = {name: mended(value) if isinstance(value, str) else value for name, value in record.items()}
        if any(row[name] != value for name, value in record.items() if isinstance(value, str)):
            broken.append(ascii(record.get("docno", record.get("qid"))))
        rows.append(row)
    warn_mended(broken)
    return pd.DataFrame(rows)


def the_column(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column of that name. Raises ValueError if there are several."""
    values: Any = frame[name]
    if isinstance(values, pd.DataFrame):
        raise ValueError(f"there are {values.shape[1]} columns named {name}: keep only one")
    return values


def check_single(frame: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if a column that a transformer writes occurs more than once."""
    for column in columns:
        if column in frame:
            the_column(frame, column)


def check_ids(frame: pd.DataFrame, *columns: str) -> None:
    """Raise if a column of ids (`qid`, `docno`) cannot identify rows. Columns that are absent are not checked.

    Raises:
        ValueError: an id is missing (None, NaN) or contains half a Unicode character (a lone surrogate).
        TypeError: the ids are neither all strings nor all whole numbers.

    Example:
        >>> check_ids(pd.DataFrame({"qid": ["1", "2"]}), "qid", "docno")
    """
    for column in columns:
        if column not in frame:
            continue
        values = the_column(frame, column)
        if isinstance(values.dtype, pd.StringDtype) and not values.isna().any():
            continue  # all strings, and Arrow cannot hold surrogates
        _check_id_values(column, list(values))


def _check_id_values(column: str, values: list[Any]) -> None:
    if missing := sum(map(is_missing, values)):
        raise ValueError(f"{column} is missing (None or NaN) in {missing} of {len(values)} rows: fill or drop them")
    strings = sum(isinstance(value, str) for value in values)
    if strings == 0 and all(isinstance(value, Integral) and not isinstance(value, bool) for value in values):
        return
    if strings < len(values):
        types = sorted({type(value).__name__ for value in values})
        raise TypeError(f"{column} must be a string in every row, found {types}: convert them, e.g. with astype(str)")
    if broken := [value for value in values if without_surrogates(value) != value]:
        raise ValueError(
            f"{column} contains a lone surrogate (half a Unicode character) in {len(broken)} row(s), e.g. "
            f"{broken[0]!r}: remove or replace it"
        )


def check_numbers(frame: pd.DataFrame, *columns: str) -> None:
    """Raise if a column such as `score` or `rank` is not a number in every row.

    Raises:
        ValueError: a value is NaN. TypeError: the column contains something other than numbers.
    """
    for column in columns:
        values = the_column(frame, column)
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            raise TypeError(f"{column} must be a number in every row, the column has dtype {values.dtype}")
        if bad := int(values.isna().sum()):
            raise ValueError(f"{column} is NaN in {bad} of {len(values)} rows, so they cannot be ranked")


def query_texts(frame: pd.DataFrame) -> list[str]:
    """The `query` column as clean strings, in row order.

    Raises:
        ValueError: a query is missing (None, NaN), empty or only white space (the message names the qids), or a qid is
            missing.
        TypeError: a query is not a string, or the qids have different types.

    Example:
        >>> query_texts(pd.DataFrame({"qid": ["1"], "query": ["dense retrieval"]}))
        ['dense retrieval']
    """
    check_ids(frame, "qid")
    qids = frame["qid"] if "qid" in frame else frame.index
    missing, wrong, empty = [], [], []
    queries = the_column(frame, "query")
    for qid, query in zip(qids, queries, strict=True):
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
    return [without_surrogates(query) for query in queries]


def expansion_lists(frame: pd.DataFrame) -> list[list[str]]:
    """The `query_expansions` column as lists of non-blank strings; empty lists if the column or a cell is missing.

    Raises:
        TypeError: a cell is neither a list of strings nor missing; the message names the qid.
    """
    if "query_expansions" not in frame:
        return [[] for _ in range(len(frame))]
    lists = []
    for row, cell in enumerate(the_column(frame, "query_expansions")):
        if is_missing(cell):
            cell = []
        if not isinstance(cell, (list, tuple, np.ndarray)) or not all(isinstance(text, str) for text in cell):
            name = frame["qid"].iloc[row] if "qid" in frame else row
            raise TypeError(f"query_expansions of qid {name!r} must be a list of strings, got {cell!r:.80}")
        lists.append([without_surrogates(text) for text in cell if text.strip()])
    return lists


def document_text(title: str | None, text: str) -> str:
    """`title + " " + text`, or only the text if there is no title: a document as encoders read it.

    Example:
        >>> document_text("Scurvy", "Sailors lacked fruit.")
        'Scurvy Sailors lacked fruit.'
    """
    return mended(f"{title} {text}" if title else text)


def document_texts(frame: pd.DataFrame, text_field: str) -> list[str]:
    """`title + " " + text` for each row, or only the text if the title is missing or empty.

    Characters that files cannot store (lone surrogates, NUL) are replaced by U+FFFD; the number of affected documents
    is logged.

    Raises:
        ValueError: a text is missing (None or NaN). TypeError: a title or a text is not a string.
    """
    docnos = the_column(frame, "docno") if "docno" in frame else frame.index
    titles = the_column(frame, "title") if "title" in frame else [""] * len(frame)
    texts, broken = [], []
    for docno, title, text in zip(docnos, titles, the_column(frame, text_field), strict=True):
        if is_missing(text):
            raise ValueError(f"{text_field} of document {docno!r} is missing (None or NaN): give it an empty string")
        if is_missing(title):
            title = ""
        if not isinstance(title, str) or not isinstance(text, str):
            raise TypeError(
                f"title and {text_field} of document {docno!r} must be strings, got {title!r}, {text!r:.80}"
            )
        texts.append(document_text(title, text))
        if mended(title) != title or mended(text) != text:
            broken.append(ascii(docno))
    warn_mended(broken)
    return texts
