"""The queries that a student learns from, with their recorded passages, checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ...collections.opening import is_collection, open_collection, topics_of
from ...expansion.expander import RecordedExpander
from ..data.examples import TrainingExample, examples_from_jsonl, open_examples
from .config import StudentConfig

logger = logging.getLogger(__name__)


def read_topics(config: StudentConfig) -> pd.DataFrame:
    """`[qid, query]` of the log's distinct queries, for an expander that is to write passages for them.

    Raises:
        ValueError: the log has no query, or has test queries (they are named).
    """
    log = _queries(config)
    return pd.DataFrame({"qid": [e.query_id for e in log], "query": [e.query for e in log]})


def read_log(config: StudentConfig) -> list[TrainingExample]:
    """The distinct queries of the log that have passages, with these, and with relevant documents where there are any.

    Raises:
        ValueError: the log has no query, some are test queries (they are named), passages belong to other queries, or
            no query has one.
    """
    return _with_passages(_queries(config), config.expansions)


def _queries(config: StudentConfig) -> list[TrainingExample]:
    found: dict[str, TrainingExample] = {}
    for example in _examples(config.queries, config.split):
        if example.query.strip():
            found.setdefault(_normalized(example.query), example)
    if not found:
        raise ValueError(f"the query log {config.queries!r} is empty: a student learns from at least one query")
    if not config.allow_test_queries:
        _refuse_test_queries(found.values(), config)
    return list(found.values())


def _examples(source: str, split: str) -> Iterator[TrainingExample]:
    if is_collection(source) or not Path(source).exists():
        return open_examples(source, split)
    return examples_from_jsonl(source, unjudged=True)


def _refuse_test_queries(log: Iterable[TrainingExample], config: StudentConfig) -> None:
    """Raise ValueError if the log has a query of a test split, by its id or by its text."""
    own = _own_test_split(config.queries)
    for name in (*own, *(name for name in config.test if name not in own)):
        topics = topics_of(open_collection(name))
        ids, texts = set(topics["qid"]), set(map(_normalized, topics["query"]))
        named = [e.query_id for e in log if e.query_id in ids or _normalized(e.query) in texts]
        if named:
            raise ValueError(
                f"{len(named)} queries of {config.queries!r} are test queries of {name!r} by id or text, e.g. "
                f"{named[:5]}, and scores on these would mean nothing: take them out, or set allow_test_queries for a "
                "cross-validation"
            )


def _own_test_split(source: str) -> tuple[str, ...]:
    """The collection that the log comes from, if its test queries are known by that name."""
    return (source,) if source == "pocket" or (Path(source) / "qrels" / "test.tsv").is_file() else ()


def _with_passages(log: list[TrainingExample], files: Iterable[str]) -> list[TrainingExample]:
    """The queries that have a passage, with the passages of all files."""
    topics = pd.DataFrame({"qid": [e.query_id for e in log], "query": [e.query for e in log]})
    passages: list[list[str]] = [list(example.expansions) for example in log]
    for file in files:
        try:
            recorded = RecordedExpander(file, on_missing="query-only").transform(topics)["query_expansions"]
        except ValueError as error:
            raise ValueError(f"the expansions in {file!r} do not fit the query log: {error}") from error
        if not any(recorded):
            raise ValueError(
                f"the expansions in {file!r} belong to other queries: none of the {len(log)} queries of the log has "
                f"one there, for example {log[0].query_id!r}, {log[0].query!r}"
            )
        passages = [[*before, *texts] for before, texts in zip(passages, recorded, strict=True)]
    if without := [e.query_id for e, texts in zip(log, passages, strict=True) if not texts]:
        logger.warning("%d of %d queries have no passage and are left out: %s", len(without), len(log), without[:5])
    pairs = zip(log, passages, strict=True)
    return [replace(example, expansions=tuple(texts)) for example, texts in pairs if texts]


def _normalized(query: str) -> str:
    return " ".join(query.lower().split())
