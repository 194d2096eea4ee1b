"""Two rankings, one lexical and one dense, fused into one.

PyTerrier's own `+` adds raw scores and gives a missing document 0, whatever the scale of the list; `RRFusion` of
pyterrier-alpha matches rows by `query`, which a lexical expansion changes. Fusion is therefore implemented here, on
whole columns.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyterrier as pt

from .two_lists import COLUMNS, TwoLists, run_starts

HELP_URL = "https://pyterrier.readthedocs.io/en/latest/operators.html"

Method = Literal["sum", "rrf", "zscore"]
#: the constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)
RRF_K = 60


def hybrid(
    lexical: pt.Transformer,
    dense: pt.Transformer,
    method: Method = "sum",
    *,
    weight: float = 0.5,
    num_results: int = 1000,
) -> pt.Compose:
    """A pipeline `[qid, query]` -> R that searches with both retrievers and fuses their lists.

    Steps that both pipelines start with (e.g. the expander) are factored out and run once, before the two. The last
    step, `hybrid(...)[-1]`, is the `ListFusion`: its weight can be varied with `pt.GridScan` without searching again.

    Args:
        lexical: `[qid, query]` -> R; it should retrieve as deep as `dense`, e.g. 1000 documents.
        dense: `[qid, query]` -> R.
        method: "sum" of the min-max normalised scores, "rrf" (reciprocal ranks) or "zscore"; see `ListFusion`.
        weight: the weight of the lexical list, in [0, 1]; the dense list has the remainder.
        num_results: maximum number of documents per query in the final ranking.

    Example:
        >>> from pyterrier_expandr.expansion.lexical import LexicalExpander
        >>> one, two = pt.Transformer.identity(), LexicalExpander()
        >>> hybrid(one, two, weight=0.3)[-1]
        ListFusion('sum', weight=0.3, num_results=1000)
    """
    ours, theirs = _parts(lexical), _parts(dense)
    pairs = zip(ours[:-1], theirs[:-1], strict=False)  # each keeps at least its retriever
    shared = [part for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    both = TwoLists(pt.Compose(*ours[len(shared) :]), pt.Compose(*theirs[len(shared) :]))
    return pt.Compose(*shared, both, ListFusion(method, weight=weight, num_results=num_results))


def _parts(pipeline: pt.Transformer) -> list[pt.Transformer]:
    return list(pipeline) if isinstance(pipeline, pt.Compose) else [pipeline]


class ListFusion(pt.Transformer):
    """Fuses the two lists of `TwoLists` into one ranking.

    Columns: the output of `TwoLists` -> its query columns with `docno`, `score` (float64) and `rank` (from 0). The
    score is weight * f(lexical) + (1 - weight) * f(dense), where f depends on `method` and is computed for each query
    and list:

    - "sum": (score - min) / (max - min) over the list, so that its best document gets 1; a document missing from the
      list gets the minimum, 0. If all scores of a list are equal, each of its documents gets 1.
    - "zscore": (score - mean) / standard deviation over the list; a document missing from the list gets the list's
      minimum. If all scores of a list are equal, it carries no information and contributes 0.
    - "rrf": 1 / (60 + rank), with ranks from 0 as in pyterrier-alpha's `RRFusion` and equal scores in docno order; a
      document missing from the list gets 0.

    Scores may be negative, and lists may differ in length, be disjoint or be empty. Documents with equal scores are
    ordered by docno.

    Args:
        method: "sum", "rrf" or "zscore".
        weight: the weight of the lexical list, in [0, 1].
        num_results: maximum number of documents per query.

    Raises:
        ValueError: an unknown method, a weight outside [0, 1], `num_results` below 1.
    """

    def __init__(self, method: Method = "sum", *, weight: float = 0.5, num_results: int = 1000) -> None:
        if method not in NORMALISERS:
            raise ValueError(f"method must be one of {tuple(NORMALISERS)}, got {method!r}")
        if num_results < 1:
            raise ValueError(f"num_results must be 1 or more, got {num_results}")
        self.method, self.num_results = method, num_results
        self.weight = weight

    @property
    def weight(self) -> float:
        """The weight of the lexical list; assigning a value out of range raises immediately."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        self._weight = check_weight(value)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The output of `TwoLists` -> R."""
        pt.validate.result_frame(inp, extra_columns=COLUMNS, context=self)
        found = inp.drop(columns=COLUMNS)
        if inp.empty:
            return found.assign(score=pd.Series(dtype=np.float64), rank=pd.Series(dtype=np.int64))
        starts = run_starts(inp["qid"])  # the rows of a query are contiguous
        normalise = NORMALISERS[self.method]
        ours, theirs = (normalise(inp[column].to_numpy(np.float64), starts) for column in COLUMNS)
        fused = self.weight * ours + (1 - self.weight) * theirs
        rows, ranks = best_of_each(fused, starts, self.num_results)
        return found.take(rows).reset_index(drop=True).assign(score=fused[rows], rank=ranks)

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """This fusion with `k` results; both lists keep their depth."""
        if k >= self.num_results:
            return None
        return ListFusion(self.method, weight=self.weight, num_results=k)

    def _key(self) -> tuple[Any, ...]:
        return (self.method, self.weight, self.num_results)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ListFusion) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"ListFusion({self.method!r}, weight={self.weight}, num_results={self.num_results})"

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return {"label": "List Fusion", "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: this transformer contains no others."""
        return {}


def check_weight(value: float) -> float:
    """`value` as a float. Raises ValueError if it is not a number in [0, 1]."""
    if isinstance(value, (bool, str)) or not 0 <= value <= 1:
        raise ValueError(f"the weight of the lexical list must be between 0 and 1, got {value!r}")
    return float(value)


def minmax(scores: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n,) scores of lists that begin at `starts`, NaN for missing documents -> (n,) in [0, 1].

    Example:
        >>> minmax(np.array([-3.0, -1.0, np.nan, -2.0, 7.0]), np.array([0, 4]))
        array([0. , 1. , 0. , 0.5, 1. ])
    """
    low = _over_lists(scores, starts, np.fmin)
    span = _over_lists(scores, starts, np.fmax) - low
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(span > 0, (scores - low) / span, 1.0)
    return np.where(np.isnan(scores), 0.0, scaled)


def zscore(scores: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n,) scores of lists that begin at `starts`, NaN for missing documents -> (n,) with mean 0 and variance 1.

    Example:
        >>> zscore(np.array([3.0, 1.0, np.nan]), np.array([0]))
        array([ 1., -1., -1.])
    """
    filled = np.where(np.isnan(scores), _over_lists(scores, starts, np.fmin), scores)
    present = (~np.isnan(scores)).astype(np.float64)
    count = np.maximum(_over_lists(present, starts, np.add), 1)
    mean = _over_lists(np.nan_to_num(scores), starts, np.add) / count
    deviation = np.sqrt(_over_lists(present * (filled - mean) ** 2, starts, np.add) / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.where(deviation > 0, (filled - mean) / deviation, 0.0))


def reciprocal_ranks(scores: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n,) scores of lists that begin at `starts`, NaN for missing documents -> (n,) with 1 / (60 + rank) or 0.

    Example:
        >>> reciprocal_ranks(np.array([0.2, 0.9, np.nan]), np.array([0])) * 60
        array([0.98360656, 1.        , 0.        ])
    """
    rows, ranks = best_of_each(np.where(np.isnan(scores), -np.inf, scores), starts, len(scores))
    shares = np.empty(len(scores))
    shares[rows] = 1 / (RRF_K + ranks)
    return np.where(np.isnan(scores), 0.0, shares)


#: how the scores of a list are made comparable: (scores, starts of the queries) -> scores, both (n,)
NORMALISERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sum": minmax,
    "rrf": reciprocal_ranks,
    "zscore": zscore,
}


def _over_lists(values: np.ndarray, starts: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """`reduce` over each list, repeated at each of its positions: (n,) -> (n,)."""
    lengths = np.diff(np.append(starts, len(values)))
    return np.repeat(reduce.reduceat(values, starts), lengths)


def best_of_each(scores: np.ndarray, starts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the `k` best scores of each list, best first, ties in their original order, and their ranks."""
    lengths = np.diff(np.append(starts, len(scores)))
    within = np.arange(len(scores)) - np.repeat(starts, lengths)
    table = np.full((len(starts), lengths.max()), np.inf)  # (lists, places): sorted row by row, far faster than at once
    table[np.repeat(np.arange(len(starts)), lengths), within] = -scores
    order = np.argsort(table, axis=1)[:, : k + 1]
    best = np.take_along_axis(table, order, axis=1)
    tied = (best[:, 1:] == best[:, :-1]).any(axis=1)
    order[tied] = np.argsort(table[tied], axis=1, kind="stable")[:, : k + 1]  # slower, but keeps equal ones in order
    order = order[:, :k]
    kept = np.arange(order.shape[1]) < lengths[:, None]  # the padding of short lists is sorted last
    return (order + starts[:, None])[kept], np.broadcast_to(np.arange(order.shape[1]), order.shape)[kept]
