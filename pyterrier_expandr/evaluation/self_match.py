"""Drops from a ranking the document that is the query itself."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyterrier as pt

from ..common.frames import check_ids, check_numbers

HELP_URL = "https://github.com/beir-cellar/beir"


class SelfMatchFilter(pt.Transformer):
    """Drops documents whose docno equals the qid, and cuts the rest (METHOD 1.5).

    In ArguAna and Quora, queries are documents of the corpus and would retrieve themselves. Columns: R -> R, with ranks
    without gaps. The preceding part must retrieve one document more than `num_results`, or a rank is lost.

    Args:
        num_results: maximum number of documents kept per query.

    Raises:
        ValueError: `num_results` below 1.

    Example:
        >>> found = pd.DataFrame({"qid": "a", "docno": ["a", "b", "c"], "score": [3.0, 2.0, 1.0], "rank": [0, 1, 2]})
        >>> SelfMatchFilter(num_results=2)(found)[["docno", "rank"]].values.tolist()
        [['b', 0], ['c', 1]]
    """

    def __init__(self, num_results: int = 1000) -> None:
        if num_results < 1:
            raise ValueError(f"num_results must be 1 or more, got {num_results}")
        self.num_results = num_results

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """R -> R.

        Raises:
            ValueError: a qid, docno or rank is missing. TypeError: ids are of several types, or ranks are not numbers.
        """
        pt.validate.result_frame(inp, extra_columns=["rank"], context=self)
        if inp.empty:
            return inp
        check_ids(inp, "qid", "docno")
        check_numbers(inp, "rank")
        kept = inp[inp["docno"] != inp["qid"]]
        ranks = kept.groupby("qid")["rank"].rank(method="first").astype("int64") - 1
        return kept.assign(rank=ranks)[ranks < self.num_results]

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """This filter with `k` results."""
        return SelfMatchFilter(k) if k < self.num_results else None

    def __eq__(self, other: object) -> bool:
        return self.num_results == other.num_results if isinstance(other, SelfMatchFilter) else NotImplemented

    def __hash__(self) -> int:
        return hash(("SelfMatchFilter", self.num_results))

    def __repr__(self) -> str:
        return f"SelfMatchFilter(num_results={self.num_results})"

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws."""
        return {"label": "Self-Match Filter", "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """None."""
        return {}
