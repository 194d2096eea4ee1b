"""Inputs of the analyses: expansions by system, and the best-judged document of each query."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..collections.opening import topics_of
from ..common.frames import expansion_lists

LOG = logging.getLogger(__name__)


def expansion_texts(expansions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per expansion: `[system, qid, sample, text]`; blank texts are left out.

    Args:
        expansions: system -> `[qid, query_expansions]`, as returned by an expander's `transform`.

    Raises:
        ValueError: no system, a frame without these columns, or no expansion at all.

    Example:
        >>> frame = pd.DataFrame({"qid": ["1"], "query_expansions": [["one text", "another"]]})
        >>> expansion_texts({"vanilla": frame}).values.tolist()
        [['vanilla', '1', 0, 'one text'], ['vanilla', '1', 1, 'another']]
    """
    rows = []
    for system, frame in expansions.items():
        if missing := sorted({"qid", "query_expansions"} - set(frame.columns)):
            raise ValueError(f"the expansions of {system!r} lack the columns {missing}: pass what an expander returns")
        for qid, texts in zip(frame["qid"], expansion_lists(frame), strict=True):
            rows += [(system, str(qid), sample, text) for sample, text in enumerate(texts)]
    if not rows:
        raise ValueError(f"no query has an expansion in {list(expansions)}")
    return pd.DataFrame(rows, columns=["system", "qid", "sample", "text"])


def gold_documents(dataset: Any, n: int | None = None, seed: int = 42) -> pd.DataFrame:
    """Each query with the document judged best for it: `[qid, query, docno, title, text, label]`.

    If several are best, the first in the order of the qrels is taken. Queries without a relevant document are left out.

    Args:
        dataset: a PyTerrier dataset with topics, qrels and a corpus of `docno`, `text` and optionally `title`;
            the corpus is read once, as a stream.
        n: number of queries to sample; None takes all.
        seed: for that sample.

    Raises:
        ValueError: no query has a relevant document, or the corpus lacks a document that was judged best.

    Example:
        >>> from pyterrier_expandr.collections import pocket
        >>> gold_documents(pocket(), n=2)[["qid", "docno", "label"]].values.tolist()
        [['q07', 'bio01', 2], ['q54', 'food14', 2]]
    """
    qrels = dataset.get_qrels()
    best = qrels[qrels["label"] > 0].sort_values("label", ascending=False, kind="stable").drop_duplicates("qid")
    pairs = topics_of(dataset).merge(best[["qid", "docno", "label"]], on="qid")
    if pairs.empty:
        raise ValueError(f"no query of {dataset} has a relevant document")
    if n is not None and n < len(pairs):
        chosen = np.random.default_rng(seed).choice(len(pairs), size=n, replace=False)
        pairs = pairs.iloc[np.sort(chosen)].reset_index(drop=True)
    wanted = set(pairs["docno"])
    found = {doc["docno"]: doc for doc in dataset.get_corpus_iter(verbose=False) if doc["docno"] in wanted}
    if absent := sorted(wanted - set(found)):
        raise ValueError(f"the corpus of {dataset} lacks documents that its qrels judge relevant: {absent[:5]}")
    return pairs.assign(
        title=[found[docno].get("title") or "" for docno in pairs["docno"]],
        text=[found[docno]["text"] for docno in pairs["docno"]],
    )[["qid", "query", "docno", "title", "text", "label"]]


def with_reference(texts: pd.DataFrame, references: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of `texts` whose query has a reference, with `references`, a list of str; how many lack one is logged.

    Raises:
        ValueError: `references` lacks qid or text, or no query has a reference.
    """
    if missing := sorted({"qid", "text"} - set(references.columns)):
        raise ValueError(f"the references {name!r} lack the columns {missing}: give [qid, text], one row per reference")
    lists = references.assign(qid=references["qid"].astype(str)).groupby("qid")["text"].agg(list)
    joined = texts[texts["qid"].isin(lists.index)]
    if joined.empty:
        raise ValueError(f"no expanded query has a reference in {name!r}: do both use the same collection's qids?")
    if left_out := texts["qid"].nunique() - joined["qid"].nunique():
        LOG.warning("%d queries have no reference in %r and are left out", left_out, name)
    return joined.assign(references=joined["qid"].map(lists))
