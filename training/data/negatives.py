"""Hard negatives: documents that a retriever ranks highly but that are not judged relevant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import pandas as pd
import pyterrier as pt

from ...common.frames import document_texts
from .chunks import in_chunks
from .example import TrainingExample

#: number of queries searched together
CHUNK = 256


def mine_negatives(
    examples: Iterable[TrainingExample],
    retriever: pt.Transformer,
    *,
    depth: int = 100,
    skip: int = 0,
    n: int = 1,
    relevant: Mapping[str, Collection[str]] | None = None,
) -> Iterator[TrainingExample]:
    """The examples with up to `n` mined negatives added to their own (fewer if the ranking runs out).

    Negatives are the highest-ranked documents between ranks `skip` and `depth` that are not judged relevant to the
    query and whose text differs (ignoring white space) from its positives and from relevant documents in the ranking.

    Args:
        examples: a stream.
        retriever: `[qid, query]` -> `[qid, query, docno, text, rank]` (+ optional `title`), for instance
            `bm25(...) >> pt.text.get_text(dataset, ["title", "text"])`.
        depth: how many ranks are considered.
        skip: how many top ranks to skip, since those documents are likely to be relevant even if unjudged.
        n: negatives per query.
        relevant: query id -> ids of all documents judged relevant, in case the examples omit some of them.

    Raises:
        ValueError: `n` below 1, `skip` not below `depth`, or a ranking without texts.

    Example:
        >>> example = TrainingExample("1", "why is the sky blue", ("d1",), ("Air scatters.",))
        >>> ranking = pd.DataFrame({"qid": ["1"], "query": ["q"], "docno": ["d2"], "text": ["Iron."], "rank": [0]})
        >>> next(mine_negatives([example], pt.Transformer.from_df(ranking))).negatives
        ('Iron.',)
    """
    if n < 1 or not 0 <= skip < depth:
        raise ValueError(f"n must be 1 or more and 0 <= skip < depth, got n={n}, skip={skip}, depth={depth}")
    judged = relevant or {}
    for chunk in in_chunks(examples, CHUNK):
        queries = pd.DataFrame({"qid": [e.query_id for e in chunk], "query": [e.query for e in chunk]})
        ranking = retriever.transform(queries)
        if lacking := [name for name in ("qid", "docno", "rank", "text") if name not in ranking]:
            raise ValueError(
                f"the retriever returns {list(ranking.columns)}, but negatives also need {lacking}: add texts with "
                '>> pt.text.get_text(dataset, ["title", "text"])'
            )
        documents = [" ".join(text.split()) for text in document_texts(ranking, "text")]
        ranking = ranking.assign(document=documents).sort_values(["qid", "rank"])
        of_query = {str(qid): rows for qid, rows in ranking.groupby("qid")}
        for example in chunk:
            found = of_query.get(example.query_id, ranking.iloc[:0])
            barred = found["docno"].isin({*example.positive_ids, *judged.get(example.query_id, ())})
            same = {" ".join(text.split()) for text in (*example.positives, *example.negatives)}
            same.update(found.loc[barred, "document"])
            in_reach = found.loc[~barred & (found["rank"] >= skip) & (found["rank"] < depth), "document"]
            mined = [text for text in dict.fromkeys(in_reach) if text not in same][:n]
            yield replace(example, negatives=(*example.negatives, *mined))
