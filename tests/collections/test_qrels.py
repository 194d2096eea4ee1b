import logging

import ir_datasets
import pandas as pd
import pytest

from pyterrier_expandr.collections.qrels import read_qrels
from pyterrier_expandr.evaluation.beir_collections import Collection
from pyterrier_expandr.training.data.judged import examples_of_collection


def read(tmp_path, text):
    (tmp_path / "test.tsv").write_text(text, encoding="utf-8")
    return read_qrels(tmp_path / "test.tsv").values.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq 1\td1\t2\nq 1\td2\t-1\n",
        "q 1\td1\t2\r\n\r\nq 1\td2\t-1\r\n",
    ],
)
def test_beirs_format(tmp_path, text):
    assert read(tmp_path, text) == [["q 1", "d1", 2], ["q 1", "d2", -1]]


@pytest.mark.parametrize("text", ["q1 0 d1 2\nq1 Q0 d2 0\n", "q1\t0\td1\t2\nq1\t0\td2\t0\n"])
def test_trecs_format(tmp_path, text):
    assert read(tmp_path, text) == [["q1", "d1", 2], ["q1", "d2", 0]]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("q1,d1,2", "3 columns between commas"),
        ("q1 d1 2", "3 columns between white space"),
        ("q1\td1\t2\tx\t5", "5 columns between tabs"),
        ("q1", "one column"),
        ("q1\td1\t2.0", "3 columns between tabs"),
        *(
            (f"q1\td1\t{grade}", "a whole number")
            for grade in ("\uff11", "1_0", "+1", " 1", "\u0663", "\u00b2", "--1", "1 ")
        ),
        *((f"q1 0 d1 {grade}", "a whole number") for grade in ("\uff11", "1_0", "x")),
    ],
)
def test_other_formats_are_named(tmp_path, line, found):
    for head in ("", "query-id\tcorpus-id\tscore\n"):
        with pytest.raises(ValueError, match=rf"test.tsv:{1 + bool(head)} must be .*{found}"):
            read(tmp_path, f"{head}{line}\n")
    with pytest.raises(ValueError, match="test.tsv:2 must be .*3 columns between commas"):
        read(tmp_path, "query-id,corpus-id,score\nq1,d1,2\n")


def test_equal_lines_count_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="pyterrier_expandr"):
        assert read(tmp_path, "q\td\t1\nq\te\t0\nq\td\t1\nq\td\t1\n") == [["q", "d", 1], ["q", "e", 0]]
    assert "2 judgments are repeated" in caplog.text


def test_lines_that_disagree_are_both_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"test.tsv:1 judges document 'd' for query 'q' with grade 1, .*test.tsv:3 with 0"
    ):
        read(tmp_path, "q\td\t1\nq\te\t0\nq\td\t0\n")


class Judged:
    """A dataset of another package, whose judgments are as given."""

    def __init__(self, rows):
        self.rows = rows

    def get_qrels(self):
        return pd.DataFrame(self.rows, columns=["qid", "docno", "label"]).assign(iteration="0")


def test_an_experiment_refuses_them_too(caplog):
    with caplog.at_level(logging.WARNING, logger="pyterrier_expandr"):
        collection = Collection("twice", Judged([("q", "d", 1), ("q", "d", 1), ("q", "e", 0)]))
        assert collection.qrels.values.tolist() == [["q", "d", 1], ["q", "e", 0]]
    assert "twice: 1 judgments" in caplog.text
    with pytest.raises(
        ValueError, match=r"row 1 of the qrels of odd judges .* with grade 1, but row 2 of the qrels of odd with 2"
    ):
        _ = Collection("odd", Judged([("q", "d", 1), ("q", "d", 2)])).qrels


def test_training_refuses_them_too(monkeypatch, tmp_path):
    """ir-datasets with a judgment that is repeated, and with one that contradicts it; and a folder."""
    dataset = ir_datasets.load("expandr-pocket/test")
    rows = list(dataset.qrels_iter())
    plain = list(examples_of_collection("irds:expandr-pocket/test"))

    def judge(*more):
        opened = ir_datasets.Dataset(dataset.docs_handler(), dataset.queries_handler(), Qrels([*rows, *more]))
        monkeypatch.setattr(ir_datasets, "load", lambda name: opened)
        return list(examples_of_collection("irds:expandr-pocket/test"))

    assert judge(rows[0]) == plain
    with pytest.raises(ValueError, match=rf"judgment 1 of irds:expandr-pocket/test .*judgment {len(rows) + 1} of"):
        judge(rows[0]._replace(relevance=rows[0].relevance + 1))


class Qrels(ir_datasets.formats.BaseQrels):
    def __init__(self, rows):
        self.rows = rows

    def qrels_iter(self):
        return iter(self.rows)
