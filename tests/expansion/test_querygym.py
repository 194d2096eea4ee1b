"""Runs of QueryGym: hashes are those of published runs, and passages come back whole."""

import csv
import json

import pandas as pd
import pytest

from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.expansion import read_querygym, write_querygym
from pyterrier_expandr.expansion.querygym import params_hash, run_id

SETTINGS = {
    "dataset_id": "beir-v1.0.0-scifact",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "metrics": {"ndcg_cut_10": 0.7},
    "retrieval": {"retriever_id": "bm25", "paradigm": "lexical", "params": {"k1": 0.9, "b": 0.4}},
    "topics": "beir-v1.0.0-scifact-test",
    "index": "beir-v1.0.0-scifact.flat",
    "llm_config": {"temperature": 1.0, "max_tokens": 128},
}
TOPICS = pd.DataFrame({"qid": ["1", "2", "3"], "query": ['"blue"  sky', "red\tsun", "why not"]})


def test_a_configuration_has_the_name_that_querygym_gives_it():
    """The names of two runs in its repository."""
    sampling = {"temperature": 1.0, "max_tokens": 128}
    genqr = {"num_examples": 4, "train_split": "train"}
    assert params_hash("genqr", "Qwen/Qwen2.5-72B-Instruct", genqr, sampling) == "0e3196ec"
    few_shot = {
        "mode": "fs",
        "num_examples": 4,
        "dataset_type": "msmarco",
        "collection_path": "msmarco/collection.tsv",
        "train_queries_path": "msmarco/queries.train.tsv",
        "train_qrels_path": "msmarco/qrels.train.tsv",
        "train_split": "train",
    }
    assert params_hash("query2doc", "openai/gpt-4.1-nano", few_shot, sampling) == "03ac266c"


def test_what_is_written_is_what_is_read(tmp_path):
    texts = [["Air scatters\nlight.", "Blue most."], [], ["why not indeed"]]
    run = write_querygym(tmp_path, TOPICS.assign(query_expansions=texts), **SETTINGS)
    assert run.parent == tmp_path / "beir-v1.0.0-scifact" / "query2doc" / "Qwen" / "Qwen2.5-7B-Instruct" / "bm25"
    summary = json.loads(run.read_text())
    assert summary["params_hash"] == run.stem and summary["run_id"] == run_id(summary)
    assert summary["config"]["dataset_config"]["num_queries"] == 3
    with open(run.with_suffix(".queries.tsv"), newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert lines[1] == ["2", "red sun"], "nothing was added to this query"
    assert lines[2] == ["3", "why not " * 5 + "why not indeed"]
    passages = [record["passages"] for record in read_querygym(run, TOPICS)]
    assert passages == [["Air scatters light. Blue most."], [], ["why not indeed"]]
    found = RecordedExpander(read_querygym(run, TOPICS))(TOPICS)["query_expansions"].tolist()
    assert found == passages


@pytest.mark.parametrize("repeats", [1, 5, 8])
def test_real_passages_come_back_whatever_precedes_them(expandr_data, tmp_path, repeats):
    """Among them are passages that begin with their query."""
    file = next((expandr_data / "expansions" / "scifact").glob("*gpt-4.1-nano*.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    frame = pd.DataFrame({"qid": [row["query_id"] for row in rows], "query": [row["query"] for row in rows]})
    wanted = [" ".join(row["passage"].split()) for row in rows]
    assert any(text.startswith(query) for text, query in zip(wanted, frame["query"], strict=True))
    run = write_querygym(
        tmp_path, frame.assign(query_expansions=[[text] for text in wanted]), **SETTINGS, repeats=repeats
    )
    assert [record["passages"][0] for record in read_querygym(run, frame)] == wanted


def test_quotes_that_querygym_strips(tmp_path):
    """It strips quotes at the ends of a line, and with them the first of a query that begins with one."""
    file = tmp_path / "0.queries.tsv"
    file.write_text('1\tblue" sky "blue" sky Air scatters.\n')
    assert read_querygym(file, TOPICS)[0]["passages"] == ["Air scatters."]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("9\twhy not why not because\n", "qids that are not among the topics: \\['9'\\]"),
        ("3\tanother question altogether\n", "do not begin with their topics: give the topics of this run"),
        ("3 why not\n", r":1 must be a qid and a query with a tab between, not 1 fields"),
    ],
)
def test_queries_that_do_not_fit(tmp_path, content, said):
    file = tmp_path / "0.queries.tsv"
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_querygym(file, TOPICS)
    if "altogether" in content:
        assert read_querygym(file, TOPICS, copies=0)[0]["passages"] == ["another question altogether"]


def test_runs_that_are_none(tmp_path):
    run = tmp_path / "0.json"
    run.write_text('{"schema_version": 2}')
    with pytest.raises(ValueError, match="is not a QueryGym run of schema 1"):
        read_querygym(run, TOPICS)
    run.write_text('{"schema_version": 1, "artifacts": {}}')
    with pytest.raises(ValueError, match="comes without its queries"):
        read_querygym(run, TOPICS)
    frame = TOPICS.assign(query_expansions=[[], [], []])
    with pytest.raises(ValueError, match="metrics must have at least one score"):
        write_querygym(tmp_path, frame, **{**SETTINGS, "metrics": {}})
    with pytest.raises(ValueError, match=r"llm_config lacks \['max_tokens'\]"):
        write_querygym(tmp_path, frame, **{**SETTINGS, "llm_config": {"temperature": 1.0}})
