"""One query searched by two retrievers, side by side: the input of a hybrid, kept so that no search is repeated."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt

HELP_URL = "https://pyterrier.readthedocs.io/en/latest/operators.html"

#: maximum number of result rows to remember, about 40 bytes each
MEMO_ROWS = 10_000_000

LISTS = ("lexical", "dense")
COLUMNS = [f"score_{name}" for name in LISTS]

#: maximum queries x documents for joining lists in a table, 4 bytes per cell
TABLE_CELLS = 2**26


class _Place(NamedTuple):
    """The location of a query's results: rows `start` to `stop` of a search."""

    search: int
    start: int
    stop: int


class TwoLists(pt.Transformer):
    """Searches with two retrievers and puts their results side by side.

    Columns: `[qid, query]` -> the input's columns with `docno`, `score_lexical` and `score_dense` (float64, NaN if the
    document is not in that list). The rows of a query are contiguous, in docno order. A query for which neither
    retriever finds anything has no rows.

    Results are remembered by query: an identical row is not searched again, so that trying several weights is free.

    Args:
        lexical: a pipeline `[qid, query]` -> R.
        dense: the same.

    Raises:
        ValueError: a qid occurs twice in the frame; a score is NaN or infinite, or a list contains a document twice
            (the message names list, qid and docno).

    Example:
        >>> one = pt.Transformer.from_df(pd.DataFrame({"qid": ["1"], "docno": ["a"], "score": [2.0]}))
        >>> two = pt.Transformer.from_df(pd.DataFrame({"qid": ["1"], "docno": ["b"], "score": [0.5]}))
        >>> TwoLists(one, two).search("sky")[["docno", *COLUMNS]].values.tolist()
        [['a', 2.0, nan], ['b', nan, 0.5]]
    """

    def __init__(self, lexical: pt.Transformer, dense: pt.Transformer) -> None:
        self.lexical, self.dense = lexical, dense
        self._searches: dict[int, pd.DataFrame] = {}
        self._places: dict[Hashable, _Place] = {}
        self._numbers = count()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` -> both lists, see the class."""
        pt.validate.query_frame(inp, ["query"], context=self)
        if inp.empty:
            self.lexical.transform(inp), self.dense.transform(inp)  # they raise if something is missing
            missing = pd.Series(dtype=np.float64)
            return inp.reset_index(drop=True).assign(docno=pd.Series(dtype=str), **dict.fromkeys(COLUMNS, missing))
        if inp["qid"].duplicated().any():
            raise ValueError(f"qid {inp.loc[inp['qid'].duplicated(), 'qid'].iloc[0]!r} is repeated")
        # Python strings are shared by the rows of a ranking; Arrow strings would be copied into each of them.
        texts = [name for name in inp.columns if name != "qid" and pd.api.types.is_string_dtype(inp[name])]
        inp = inp.astype(dict.fromkeys(texts, object))
        keys = [tuple(map(_frozen, row)) for row in inp.itertuples(index=False, name=None)]
        fresh = [number for number, key in enumerate(keys) if key not in self._places]
        if fresh:
            self._search(inp.iloc[fresh], [keys[number] for number in fresh])
        rows, found = self._remembered([self._places[key] for key in keys])
        self._trim()
        return pd.concat([inp.iloc[rows].reset_index(drop=True), found.reset_index(drop=True)], axis=1)

    def _search(self, inp: pd.DataFrame, keys: list[Hashable]) -> None:
        """Search for queries, and remember the results by their keys."""
        rows, found = side_by_side(list(inp["qid"]), self.lexical.transform(inp), self.dense.transform(inp))
        number = next(self._numbers)
        self._searches[number] = found
        ends = np.searchsorted(rows, np.arange(len(inp) + 1))
        for place, key in enumerate(keys):
            self._places[key] = _Place(number, int(ends[place]), int(ends[place + 1]))

    def _remembered(self, places: list[_Place]) -> tuple[np.ndarray, pd.DataFrame]:
        """The results of queries, in the order of the queries, and the query number of each row."""
        owners, parts = [], []
        for number in dict.fromkeys(place.search for place in places):
            mine = [(i, place) for i, place in enumerate(places) if place.search == number]
            owners.append(np.repeat([i for i, _ in mine], [place.stop - place.start for _, place in mine]))
            wanted = np.concatenate([np.arange(place.start, place.stop) for _, place in mine])
            found = self._searches[number]
            whole = len(wanted) == len(found) and bool((np.diff(wanted) == 1).all())
            parts.append(found if whole else found.take(wanted))
        if len(parts) == 1:
            return owners[0], parts[0]
        order = np.argsort(np.concatenate(owners), kind="stable")
        return np.concatenate(owners)[order], pd.concat(parts, ignore_index=True).take(order)

    def _trim(self) -> None:
        """Forget the oldest searches if too many rows are remembered."""
        while sum(map(len, self._searches.values())) > MEMO_ROWS:
            oldest = next(iter(self._searches))
            del self._searches[oldest]
            self._places = {key: place for key, place in self._places.items() if place.search != oldest}

    def __getstate__(self) -> dict[str, Any]:
        return {"lexical": self.lexical, "dense": self.dense}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TwoLists):
            return NotImplemented
        return (self.lexical, self.dense) == (other.lexical, other.dense)

    def __hash__(self) -> int:
        return hash((self.lexical, self.dense))

    def __repr__(self) -> str:
        return f"TwoLists({self.lexical!r}, {self.dense!r})"

    schematic: ClassVar = {"label": "Two Lists", "inner_pipelines_mode": "linked", "help_url": HELP_URL}


def side_by_side(qids: list[Any], lexical: pd.DataFrame, dense: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Two rankings of the queries `qids` as one frame, see `TwoLists`, and the query number of each row.

    Raises:
        ValueError: a score is NaN or infinite, a document occurs twice, or a ranking contains other queries.
    """
    lists = dict(zip(LISTS, (lexical, dense), strict=True))
    place = pd.Index(qids)
    rows = np.concatenate([_rows(name, place, found) for name, found in lists.items()])
    codes, docnos = pd.factorize(pd.concat([found["docno"] for found in lists.values()]), sort=True)
    keys, where = _union(rows * len(docnos) + codes, len(qids) * len(docnos))
    scores = np.full((len(lists), len(keys)), np.nan)
    for mine, own, (name, found) in zip(np.split(where, [len(lexical)]), scores, lists.items(), strict=True):
        own[mine] = found["score"].to_numpy()
        if np.isfinite(own).sum() < len(found):
            twice = found[["qid", "docno"]][found.duplicated(["qid", "docno"])].iloc[0].tolist()
            raise ValueError(f"the {name} list repeats a document: qid {twice[0]!r}, docno {twice[1]!r}")
    side = pd.DataFrame(scores.T, columns=COLUMNS)
    side.insert(0, "docno", docnos.take(keys % max(len(docnos), 1)))
    return keys // max(len(docnos), 1), side


def _union(keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys (each below `size`) in ascending order, and the position of each key among them."""
    if size > TABLE_CELLS:
        return np.unique(keys, return_inverse=True)
    place = np.zeros(size, np.int32)  # marking is faster than sorting
    place[keys] = 1
    distinct = np.flatnonzero(place)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[keys]


def _rows(name: str, place: pd.Index, found: pd.DataFrame) -> np.ndarray:
    """The query number of each row of a ranking, after checking the ranking."""
    pt.validate.result_frame(found, extra_columns=["score"])
    wrong = ~np.isfinite(found["score"].to_numpy(np.float64))
    if wrong.any():
        row = found[wrong].iloc[0]
        raise ValueError(
            f"the {name} list has the score {row['score']} for qid {row['qid']!r}, docno {row['docno']!r}: only finite "
            "scores can be fused"
        )
    starts = run_starts(found["qid"])  # the rows of a query are together: only few qids need to be looked up
    heads = place.get_indexer(pd.Index(found["qid"].iloc[starts]))
    if (heads < 0).any():
        unknown = found["qid"].iloc[starts[np.argmin(heads)]]
        raise ValueError(f"the {name} list has qid {unknown!r}, which was not asked for")
    return np.repeat(heads, np.diff(np.append(starts, len(found))))


def run_starts(column: pd.Series) -> np.ndarray:
    """The positions at which a column's value differs from the previous one, including the first."""
    return np.flatnonzero((column != column.shift()).fillna(True).to_numpy(bool))


def _frozen(value: Any) -> Hashable:
    """A cell in a form that can be a dictionary key."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return value if isinstance(value, Hashable) else repr(value)
