"""Do expansions that were aligned with one retriever help others? (Table 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyterrier as pt


def transfer(
    expanders: Mapping[str, pt.Transformer | None],
    retrievers: Mapping[str, pt.Transformer],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    *,
    measure: Any = "ndcg_cut_10",
) -> pd.DataFrame:
    """A matrix of one measure: one row per expander, one column per retriever (Table 8).

    All combinations run in one `pt.Experiment`, which expands the queries once per expander.

    Args:
        expanders: name -> `[qid, query]` -> adds `query_expansions`; None stands for the query alone.
        retrievers: name -> a pipeline `[qid, query]` (+ `query_expansions`) -> results, such as
            `encoder.query_encoder() >> index.retriever()`.
        topics: `[qid, query]`.
        qrels: `[qid, docno, label]`.
        measure: as for `pt.Experiment`.

    Raises:
        ValueError: no expander or no retriever.

    Example:
        >>> transfer({"query": None, "ExpandR": expander}, {"Contriever": dense}, topics, qrels)  # doctest: +SKIP
    """
    if not expanders or not retrievers:
        raise ValueError("give at least one expander (None for the query alone) and one retriever")
    names = [(expander, retriever) for expander in expanders for retriever in retrievers]
    systems = [
        retrievers[retriever] if (first := expanders[expander]) is None else first >> retrievers[retriever]
        for expander, retriever in names
    ]
    labels = [f"{expander} | {retriever}" for expander, retriever in names]
    scores = pt.Experiment(systems, topics, qrels, [measure], names=labels, plan="tree", verbose=False)
    column = next(name for name in scores.columns if name != "name")
    table = pd.DataFrame(names, columns=["expander", "retriever"]).assign(score=scores[column].to_numpy())
    return table.pivot(index="expander", columns="retriever", values="score").loc[list(expanders), list(retrievers)]
