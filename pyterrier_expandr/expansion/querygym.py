"""Recorded expansions as runs of QueryGym (schema 1): a JSON summary beside a TSV of reformulated queries.

The facts about the format are from github.com/ls3-lab/QueryGym, `reproducibility/schema.json` and `lib/emit.py`: the
folder DATASET/METHOD/MODEL/RETRIEVER holds HASH.json and HASH.queries.tsv; HASH covers method, model and their
settings; a reformulated query is the query, repeated, with the generated text behind it, on one line.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.files import path_of, replacing, write_json
from ..common.frames import without_surrogates

SCHEMA_VERSION = 1

#: how often QueryGym's methods repeat a query unless `repeat_query_weight` says otherwise
REPEATS = 5

#: fields that describe how a run was made and not what it is, so that they do not count in its id
_VOLATILE = ("run_id", "submitted_at", "environment")


def read_querygym(run: str | Path, topics: pd.DataFrame, *, copies: int | None = None) -> list[dict[str, Any]]:
    """The records of a QueryGym run, `{"query_id", "query", "passages"}`, as `RecordedExpander` takes them.

    A query to which nothing was added gets no passage. Several generated texts are one passage, since the format does
    not keep them apart.

    Args:
        run: the run's JSON, or its TSV of queries.
        topics: `[qid, query]`, the original queries, which are taken off the reformulated ones.
        copies: how often the original query precedes the text. None finds the number: the smallest one that holds for
            the whole file, since a text may itself begin with its query.

    Raises:
        ValueError: the run has another schema version or no file of queries; a line does not have two fields; a qid is
            not among the topics; a reformulated query does not begin with its topic.
        FileNotFoundError: a file is missing.

    Example:
        >>> expander = RecordedExpander(read_querygym("03ac266c.json", topics))  # doctest: +SKIP
    """
    known = dict(zip(topics["qid"].astype(str), topics["query"], strict=True))
    lines = list(_lines(_queries_file(path_of(run))))
    if strange := [qid for qid, _ in lines if qid not in known]:
        raise ValueError(f"{str(run)!r} has qids that are not among the topics: {strange[:5]}")
    split = [(qid, *_split(text, known[qid], copies)) for qid, text in lines]
    found = min((count for _, count, rest in split if rest), default=1) if copies is None else copies
    if found == 0 and copies is None:
        wrong = [qid for qid, count, _ in split if not count]
        raise ValueError(
            f"the queries {wrong[:5]} of {str(run)!r} do not begin with their topics: give the topics of this run, or "
            "copies=0 if its method leaves the original query out"
        )
    return [
        {"query_id": qid, "query": known[qid], "passages": [passage] if passage else []}
        for qid, count, rest in split
        for passage in [" ".join([_one_line(known[qid])] * (count - found) + [rest]).strip()]
    ]


def write_querygym(
    folder: str | Path,
    frame: pd.DataFrame,
    *,
    dataset_id: str,
    model: str,
    metrics: Mapping[str, float],
    retrieval: Mapping[str, Any],
    topics: str,
    index: str,
    llm_config: Mapping[str, Any],
    method_id: str = "query2doc",
    method_params: Mapping[str, Any] | None = None,
    repeats: int = REPEATS,
) -> Path:
    """Write `[qid, query, query_expansions]` as a QueryGym run below `folder` and return the path of its JSON.

    Args:
        folder: the folder of runs; the run goes to DATASET/METHOD/MODEL/RETRIEVER in it.
        frame: queries with their passages, as an expander returns them.
        dataset_id: QueryGym's name of the collection, such as "beir-v1.0.0-scifact".
        model: the LLM.
        metrics: scores of the run, such as `{"ndcg_cut_10": 0.71}`; QueryGym requires at least one.
        retrieval: `{"retriever_id": "bm25", "paradigm": "lexical", "params": {"k1": 0.9, "b": 0.4}}`, for instance.
        topics, index: QueryGym's names of the queries and of the index.
        llm_config: sampling, at least `temperature` and `max_tokens`.
        method_id: QueryGym's name of the method.
        method_params: settings of the method, such as `{"mode": "zs"}`.
        repeats: how often the query is repeated before its passages.

    Raises:
        ValueError: `metrics` is empty, or a required key is missing from `retrieval` or `llm_config`.
    """
    _check({"retrieval": retrieval, "llm_config": llm_config}, metrics)
    params = dict(method_params or {}) | ({} if repeats == REPEATS else {"repeat_query_weight": repeats})
    name = params_hash(method_id, model, params, llm_config)
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "params_hash": name,
        "submitted_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "querygym_version": "unknown",
        "environment": {
            "python_version": platform.python_version(),
            "platform": platform.platform(),
            "git_commit": None,
        },
        "pipeline": {
            "dataset_id": dataset_id,
            "method_id": method_id,
            "model": model,
            "steps_completed": ["reformulate", "retrieve", "evaluate"],
            "total_time_seconds": 0.0,
        },
        "config": {
            "method_params": params,
            "llm_config": dict(llm_config),
            "dataset_config": {"topics": topics, "index": index, "num_queries": len(frame)},
            "retrieval": dict(retrieval),
        },
        "metrics": {measure: float(value) for measure, value in metrics.items()},
        "timing": {},
        "artifacts": {"reformulated_queries": f"{name}.queries.tsv"},
    }
    target = path_of(folder) / dataset_id / method_id / model / retrieval["retriever_id"] / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(target.with_name(f"{name}.queries.tsv")) as part,
        open(part, "w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file, delimiter="\t").writerows(_rows(frame, repeats))
    write_json(target, summary | {"run_id": run_id(summary)})
    return target


def params_hash(method_id: str, model: str, method_params: Mapping[str, Any], llm_config: Mapping[str, Any]) -> str:
    """The eight characters by which QueryGym names a configuration.

    Example:
        >>> sampling = {"temperature": 1.0, "max_tokens": 128, "top_p": 1.0}
        >>> params_hash("query2e", "gpt-4.1-mini", {"mode": "zs"}, sampling)
        'ddb15ccf'
    """
    names = ("method_id", "model", "method_params", "llm_config")
    return _digest(dict(zip(names, (method_id, model, dict(method_params), dict(llm_config)), strict=True)))[:8]


def run_id(summary: Mapping[str, Any]) -> str:
    """The sixteen characters by which QueryGym names a run: a hash of everything but when and where it was made."""
    return _digest({name: value for name, value in summary.items() if name not in _VOLATILE})[:16]


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(given: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, float]) -> None:
    needed = {"retrieval": ("retriever_id", "paradigm", "params"), "llm_config": ("temperature", "max_tokens")}
    for name, keys in needed.items():
        if missing := [key for key in keys if key not in given[name]]:
            raise ValueError(f"{name} lacks {missing}, which QueryGym's schema requires")
    if not metrics:
        raise ValueError('metrics must have at least one score, such as {"ndcg_cut_10": 0.71}')


def _rows(frame: pd.DataFrame, repeats: int) -> Iterator[tuple[str, str]]:
    for qid, query, passages in zip(frame["qid"], frame["query"], frame["query_expansions"], strict=True):
        yield str(qid), _one_line(" ".join([query] * (repeats if passages else 1) + list(passages)))


def _queries_file(run: Path) -> Path:
    if run.suffix != ".json":
        return run
    summary = json.loads(run.read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or summary.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{str(run)!r} is not a QueryGym run of schema {SCHEMA_VERSION}")
    name = summary.get("artifacts", {}).get("reformulated_queries")
    if not name:
        raise ValueError(f"{str(run)!r} comes without its queries: fetch the .queries.tsv of the same configuration")
    return run.with_name(name)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t"), 1):
            if len(row) != 2:
                raise ValueError(f"{path}:{number} must be a qid and a query with a tab between, not {len(row)} fields")
            yield row[0].strip(), _one_line(row[1])


def _split(text: str, query: str, most: int | None) -> tuple[int, str]:
    """How often `query` precedes the rest of `text`, at most `most` times, and the rest."""
    query, count = _one_line(query), 0
    # QueryGym strips quotes at the ends of the whole line, so the first copy may lack one.
    first = query.lstrip("\"'")
    while most is None or count < most:
        start = first if count == 0 and not text.startswith(query) else query
        if text != start and not text.startswith(start + " "):
            break
        text, count = text[len(start) :].strip(), count + 1
    return count, text


def _one_line(text: str) -> str:
    return " ".join(without_surrogates(text).split())
