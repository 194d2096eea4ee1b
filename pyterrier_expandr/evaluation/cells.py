"""One cell of an experiment: search, check the ranking, evaluate it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt
from ir_measures import Measure

from .beir_collections import Collection
from .self_match import SelfMatchFilter


def parse_measures(measures: Iterable[str | Measure]) -> list[Measure]:
    """Measures of ir-measures from their names ("nDCG@10") or trec_eval's ("ndcg_cut_10"), without duplicates.

    Raises:
        ValueError: an unknown name, or none at all.

    Example:
        >>> parse_measures(["nDCG@10", "recall_100", "ndcg_cut_10"])
        [nDCG@10, R@100]
    """
    found: list[Measure] = []
    for measure in [measures] if isinstance(measures, (str, Measure)) else measures:
        found += [measure] if isinstance(measure, Measure) else _parsed(measure)
    if not found:
        raise ValueError("name at least one measure, such as nDCG@10")
    return list(dict.fromkeys(found))


def _parsed(name: str) -> list[Measure]:
    try:
        return [ir_measures.parse_measure(name)]
    except (NameError, ValueError, SyntaxError):
        pass
    try:
        return list(ir_measures.parse_trec_measure(name))
    except ValueError as error:
        raise ValueError(
            f"unknown measure {name!r}: use a measure of ir-measures, such as nDCG@10, R@100 or RR@10"
        ) from error


def search(pipeline: pt.Transformer, collection: Collection) -> pd.DataFrame:
    """The ranking `[qid, docno, rank, score]` of the judged queries, with self-matches dropped and cut by the protocol.

    The column `query_expansions` is kept if the pipeline adds it, so that the passages can be looked at later.

    Raises:
        ValueError: no result at all, NaN scores, a document twice for one query, or an id with white space in it.
        TypeError: the pipeline does not return a ranking.
    """
    if not isinstance(pipeline, pt.Transformer):
        raise TypeError(f"a system must return a PyTerrier transformer, got {type(pipeline).__name__}")
    found = pipeline.transform(collection.topics)
    if missing := [name for name in ("qid", "docno", "score") if name not in found]:
        raise TypeError(
            f"the pipeline does not return a ranking: the columns {missing} are missing from {list(found.columns)}"
        )
    if found.empty:
        raise ValueError(f"the pipeline found nothing for any of {len(collection.topics)} queries of {collection.name}")
    found = found.assign(qid=found["qid"].astype(str), docno=found["docno"].astype(str))
    check_run(found)
    if "rank" not in found:
        found = pt.model.add_ranks(found)
    if collection.self_matches:
        found = SelfMatchFilter(collection.evaluated_results).transform(found)
    found = found[found["rank"] < collection.evaluated_results]
    order = found["qid"].map({qid: number for number, qid in enumerate(collection.topics["qid"])})
    ordered = found.assign(order=order).sort_values(["order", "rank"], ignore_index=True)
    return ordered[["qid", "docno", "rank", "score", *ordered.columns.intersection(["query_expansions"])]]


def check_run(run: pd.DataFrame) -> None:
    """Raise ValueError if `[qid, docno, score]` cannot be evaluated: NaN, repeated documents, invalid ids."""
    if (bad := run["score"].isna()).any():
        raise ValueError(
            f"{int(bad.sum())} scores are NaN, for qids {_some(run.loc[bad, 'qid'])}: they cannot be ranked"
        )
    if (bad := run.duplicated(["qid", "docno"])).any():
        pairs = run.loc[bad, ["qid", "docno"]].head(3).values.tolist()
        raise ValueError(f"{int(bad.sum())} documents are repeated for the same query, e.g. (qid, docno) {pairs}")
    for column in ("qid", "docno"):
        if (bad := run[column].str.contains(r"\s|^$")).any():
            raise ValueError(
                f"{column} must not contain white space, which a TREC run cannot hold: {_some(run.loc[bad, column])}"
            )


def _some(values: pd.Series) -> list[str]:
    return list(values.drop_duplicates().head(5))


def evaluate(
    run: pd.DataFrame, qrels: pd.DataFrame, measures: Sequence[Measure]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """`[qid, measure, value]` and the mean of each measure, by ir-measures.

    The mean is over the queries that have judgments, as in BEIR: a query without results or without a relevant document
    scores 0; results of queries without judgments are ignored.

    Example:
        >>> run = pd.DataFrame({"qid": ["1"], "docno": ["a"], "score": [1.0]})
        >>> qrels = pd.DataFrame({"qid": ["1", "2"], "docno": ["a", "b"], "label": 1})
        >>> evaluate(run, qrels, parse_measures(["nDCG@10"]))[1]
        {'nDCG@10': 0.5}
    """
    columns = ["qid", "docno", "score"]
    metrics = ir_measures.iter_calc(measures, pt.model.to_ir_measures(qrels), pt.model.to_ir_measures(run[columns]))
    means: dict[Measure, Any] = {measure: measure.aggregator() for measure in measures}
    rows = []
    for metric in metrics:
        means[metric.measure].add(metric.value)
        rows.append((metric.query_id, str(metric.measure), float(metric.value)))
    per_query = pd.DataFrame(rows, columns=["qid", "measure", "value"])
    return per_query, {str(measure): float(mean.result()) for measure, mean in means.items()}
