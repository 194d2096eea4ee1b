"""Documents retrieved in a first stage, as text that a prompt shows to the LLM."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt

from ..common.frames import document_texts

#: separator between two documents of a context
SEPARATOR = "\n\n"


def with_context(ranking: pd.DataFrame, documents: int) -> pd.DataFrame:
    """One row per query of a ranking, with `query_context`: the texts of its top documents, best first.

    Columns: `[qid, query, docno, text, rank]` (+ `title`) -> its query columns with `query_context` (str). Queries keep
    the order in which they first occur.

    Raises:
        ValueError: a text is missing. TypeError: a title or a text is not a string.

    Example:
        >>> ranking = {"qid": "1", "query": "sky", "docno": ["b", "a"], "text": ["B", "A"], "rank": [1, 0]}
        >>> with_context(pd.DataFrame(ranking), 2)[["qid", "query_context"]].values.tolist()
        [['1', 'A\\n\\nB']]
    """
    columns = [name for name in ranking.columns if name in pt.model.query_columns(ranking)]
    queries = ranking[columns].drop_duplicates("qid").reset_index(drop=True)
    best = ranking[ranking["rank"] < documents].sort_values("rank", kind="stable")
    texts = best.assign(text=document_texts(best, "text")).groupby("qid")["text"].agg(SEPARATOR.join)
    return queries.assign(query_context=queries["qid"].map(texts).fillna("").astype(str))
