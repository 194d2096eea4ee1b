"""Vectors that carry the encoder that made them, and checks on a column of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


class SourcedArray(np.ndarray):
    """A NumPy array whose rows keep the encoder's specification (`source`), through a DataFrame and back.

    This lets an index record which encoder filled it, without a second column in every frame or a repeated argument.
    """

    source: dict[str, Any] | None = None

    def __array_finalize__(self, obj: Any) -> None:
        self.source = getattr(obj, "source", None)


def with_source(vectors: np.ndarray, source: dict[str, Any]) -> SourcedArray:
    """`vectors` as a view in which every row carries `source`; no data are copied."""
    view = vectors.view(SourcedArray)
    view.source = source
    return view


def source_of(vector: Any) -> dict[str, Any] | None:
    """The encoder specification that a vector carries, or None for vectors from elsewhere."""
    return getattr(vector, "source", None)


def stack_vectors(column: pd.Series | Sequence[Any], ids: Sequence[Any], *, name: str) -> np.ndarray:
    """A C-contiguous float32 matrix (n, dim) from a column of vectors.

    Args:
        column: n vectors, each one-dimensional.
        ids: n ids, named as strings in errors.
        name: the column's name, for errors.

    Raises:
        ValueError: a vector is missing, not one-dimensional, of another size than the first, or has NaN or infinity.

    Example:
        >>> stack_vectors([[1, 2], [3, 4]], ["a", "b"], name="doc_vec").shape
        (2, 2)
    """
    rows: list[np.ndarray] = []
    for vector, row_id in zip(column, ids, strict=True):
        try:
            row = np.asarray(vector)
        except ValueError:  # lists of unequal length
            row = np.empty(0)
        if row.ndim != 1 or row.dtype.kind not in "fiu" or not len(row):
            raise ValueError(
                f"{name} of {str(row_id)!r} must be a one-dimensional array of numbers, got {vector!r:.80}"
            )
        if rows and len(row) != len(rows[0]):
            raise ValueError(
                f"{name} of {str(row_id)!r} has {len(row)} dimensions, but {str(ids[0])!r} has {len(rows[0])}: "
                "all vectors must come from the same encoder"
            )
        rows.append(row)
    matrix = np.array(rows, np.float32) if rows else np.empty((0, 0), np.float32)
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        bad = [str(ids[i]) for i in np.flatnonzero(~finite)[:5]]
        raise ValueError(f"{name} has NaN or infinite values in {int((~finite).sum())} row(s), e.g. {bad}")
    return matrix


#: what determines a document's vector, in the specification of an encoder
DOCUMENT_SIDE = ("fingerprint", "pooling", "normalize", "truncate_dim", "doc_prompt")


def document_source(source: dict[str, Any]) -> dict[str, Any]:
    """The specification of the encoder that makes the document vectors: for a student that is its teacher's.

    Example:
        >>> document_source({"model": "student", "teacher": {"model": "contriever"}})
        {'model': 'contriever'}
    """
    return source.get("teacher") or source


def describe_source(source: dict[str, Any] | None) -> str:
    """The encoder's name for a message, or "an encoder that is not recorded".

    Example:
        >>> describe_source({"model": "contriever", "quantized": {"of": 1}})
        "'contriever' in int8"
    """
    if not source:
        return "an encoder that is not recorded"
    taught = f" (a student of {describe_source(source['teacher'])})" if source.get("teacher") else ""
    return f"{source['model']!r}{' in int8' if source.get('quantized') else ''}{taught}"


def same_vectors(left: dict[str, Any] | None, right: dict[str, Any] | None) -> bool:
    """Whether two sources make comparable vectors: a student's are its teacher's. True if one of them is not known."""
    if left is None or right is None:
        return True
    left, right = document_source(left), document_source(right)
    return all(left.get(part) == right.get(part) for part in DOCUMENT_SIDE)


def quantized_difference(left: dict[str, Any] | None, right: dict[str, Any] | None) -> dict[str, Any] | None:
    """The cosines measured between a model and itself in int8, if these are the two; otherwise None.

    Example:
        >>> small = {"fingerprint": 2, "quantized": {"of": 1, "cosine": {"mean": 0.99, "min": 0.98, "texts": 50}}}
        >>> quantized_difference({"fingerprint": 1}, small)["mean"]
        0.99
    """
    if left is None or right is None:
        return None
    pair = [document_source(left), document_source(right)]
    for one, other in (pair, pair[::-1]):
        made = one.get("quantized")
        rest = [part for part in DOCUMENT_SIDE if part != "fingerprint"]
        if made and made["of"] == other["fingerprint"] and all(one.get(part) == other.get(part) for part in rest):
            cosine: dict[str, Any] = made["cosine"]
            return cosine
    return None
