"""What every transformer of this package promises, as one check."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyterrier as pt


def assert_same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Equal frames, arrays within cells compared by closeness."""
    assert list(left.columns) == list(right.columns)
    assert len(left) == len(right)
    for column in left.columns:
        for a, b in zip(left[column], right[column], strict=True):
            if isinstance(a, (np.ndarray, float)):
                np.testing.assert_allclose(a, b, atol=1e-6)
            else:
                assert a == b, (column, a, b)


def check_contract(make: Callable[[], pt.Transformer], frame: pd.DataFrame, *, row_wise: bool = True) -> pd.DataFrame:
    """Check DESIGN's promises on a transformer and give its output on `frame`.

    `make` builds a new, equal transformer at each call. `row_wise` transformers add columns to each row; others
    (retrievers) give any number of rows for a row.
    """
    transformer = make()
    assert transformer == make() and hash(transformer) == hash(make()), "equal settings must give equal transformers"
    assert transformer != pt.Transformer.identity()
    assert "object at 0x" not in repr(transformer)
    before = frame.copy()
    full = transformer.transform(frame)
    pd.testing.assert_frame_equal(frame, before)

    empty = transformer.transform(frame.iloc[:0])
    assert len(empty) == 0 and list(empty.columns) == list(full.columns), "empty in, empty out, same columns"
    for column in full.columns:
        if pd.api.types.is_numeric_dtype(full[column]):
            assert empty[column].dtype == full[column].dtype, column

    extra = transformer.transform(frame.assign(query_note="kept"))
    if "query" in frame:
        assert set(extra["query_note"]) <= {"kept"} and "query_note" in extra
    shuffled = frame.set_index(pd.Index([f"row{i}" for i in range(len(frame))]))
    moved = transformer.transform(shuffled)
    assert_same(moved.reset_index(drop=True), full.reset_index(drop=True))
    if row_wise:
        assert list(moved.index) == list(shuffled.index)
        reversed_rows = transformer.transform(frame.iloc[::-1])
        assert_same(reversed_rows.iloc[::-1], full)
        doubled = transformer.transform(pd.concat([frame, frame], ignore_index=True))
        assert_same(doubled.iloc[len(frame) :].reset_index(drop=True), full.reset_index(drop=True))
    return full
