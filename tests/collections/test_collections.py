import json
import re
import subprocess
import sys

import ir_datasets
import pyterrier as pt
import pytest

from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.collections import beir_folder, pocket

STOP = set(
    "a an and are as at be by do does for from how in is it of on or that the their to what when which who why with you".split()
)


def words(text):
    return set(re.findall(r"[a-z]+", text.lower())) - STOP


def test_counts():
    corpus = list(pocket().get_corpus_iter())
    assert len(corpus) == 242 == len({d["docno"] for d in corpus}) == len({d["text"] for d in corpus})
    assert len({re.sub(r"\d", "", d["docno"]) for d in corpus}) == 12
    train, test = pocket("train"), pocket("test")
    assert (len(train.get_topics()), len(test.get_topics())) == (31, 37)
    assert not set(train.get_topics()["qid"]) & set(test.get_topics()["qid"])
    for split in (train, test):
        qrels = split.get_qrels()
        assert set(qrels["docno"]) <= {d["docno"] for d in corpus} and set(qrels["label"]) == {1, 2}
        assert (qrels.groupby("qid")["label"].max() == 2).all()
        assert not qrels.duplicated(["qid", "docno"]).any()


def test_queries_use_other_words_than_their_passages():
    text = {d["docno"]: f"{d['title']} {d['text']}" for d in pocket().get_corpus_iter()}
    shares = []
    for split in ("train", "test"):
        topics = pocket(split).get_topics().set_index("qid")["query"]
        best = pocket(split).get_qrels().query("label == 2")
        for qid, docno in zip(best["qid"], best["docno"], strict=True):
            shares.append(len(words(topics[qid]) & words(text[docno])) / len(words(topics[qid])))
    assert sum(shares) / len(shares) < 0.2


def test_every_query_has_an_expansion_of_its_own_words():
    for split in ("train", "test"):
        topics = pocket(split).get_topics()
        expanded = RecordedExpander(pocket().expansions_path)(topics)
        assert (expanded["query_expansions"].map(len) == 1).all()
    passages = {d["text"] for d in pocket().get_corpus_iter()}
    raw = [json.loads(line)["passages"][0] for line in pocket().expansions_path.read_text().splitlines()]
    assert not any(sentence in passage for sentence in raw for passage in passages)


def test_ir_datasets_gives_the_same():
    for split in ("train", "test"):
        mine, theirs = pocket(split), pt.get_dataset(f"irds:expandr-pocket/{split}")
        assert theirs.get_topics()[["qid", "query"]].equals(mine.get_topics())
        qrels = theirs.get_qrels()[["qid", "docno", "label"]]
        assert qrels.values.tolist() == mine.get_qrels().values.tolist()
    corpus = list(pt.get_dataset("irds:expandr-pocket").get_corpus_iter(verbose=False))
    assert [(d["docno"], d["title"], d["text"]) for d in corpus] == [
        tuple(d.values()) for d in pocket().get_corpus_iter()
    ]
    store = ir_datasets.load("expandr-pocket/test").docs_store()
    assert store.get("med01").title == "Scurvy"
    assert store.get_many(["med01", "none"]).keys() == {"med01"}


def test_registration_in_a_fresh_process_needs_one_import():
    code = (
        "import ir_datasets, pyterrier_expandr.collections, importlib\n"
        "importlib.reload(pyterrier_expandr.collections)\n"
        "assert len(list(ir_datasets.load('expandr-pocket/test').queries_iter())) == 37"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scifact(expandr_data):
    scifact = beir_folder(expandr_data / "scifact", "test")
    assert len(scifact.get_topics()) == 300 and len(scifact.get_qrels()) == 339
    assert sum(1 for _ in scifact.get_corpus_iter()) == 5183
    assert len(beir_folder(expandr_data / "scifact", "train").get_topics()) == 809


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": 1, "text": "a"}\n\n{"_id": "2", "title": null, "text": "b"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n{"_id": "other", "text": "y"}\n')
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t2\nq\t2\t0\n")
    return tmp_path


def test_a_folder_of_one_s_own(folder):
    opened = beir_folder(folder, "dev")
    assert list(opened.get_corpus_iter()) == [
        {"docno": "1", "title": "", "text": "a"},
        {"docno": "2", "title": "", "text": "b"},
    ]
    assert opened.get_topics().values.tolist() == [["q", "x"]]
    assert opened.get_qrels().values.tolist() == [["q", "1", 2], ["q", "2", 0]]


class TestBadInput:
    def test_what_is_missing_is_named(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"no split 'test': choose one of \['dev'\]"):
            beir_folder(folder, "test")
        with pytest.raises(FileNotFoundError, match="no corpus.jsonl"):
            beir_folder(tmp_path / "none")
        with pytest.raises(ValueError, match="no split 'dev'"):
            pocket("dev")

    def test_broken_corpus(self, folder):
        (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "a"}\n{broken\n')
        with pytest.raises(ValueError, match=r"corpus.jsonl:2 is not valid JSON"):
            list(beir_folder(folder, "dev").get_corpus_iter())
        (folder / "corpus.jsonl").write_text('{"id": "1", "contents": "a"}\n')
        with pytest.raises(
            ValueError, match=r":1 must have the fields \['_id', 'text'\], but has \['contents', 'id'\]"
        ):
            list(beir_folder(folder, "dev").get_corpus_iter())

    @pytest.mark.parametrize(
        ("lines", "number"),
        [
            ("query-id\tcorpus-id\tscore\nq\t1\thigh\n", 2),
            ("q\t1\thigh\n", 1),
            ("q\t1\t--5\n", 1),
            ("q\t1\t1\nq\t2\n", 2),
        ],
    )
    def test_broken_qrels(self, folder, lines, number):
        (folder / "qrels" / "dev.tsv").write_text(lines)
        with pytest.raises(ValueError, match=rf"dev.tsv:{number} must be"):
            beir_folder(folder, "dev").get_qrels()

    def test_qrels_without_a_header_and_of_unknown_queries(self, folder):
        (folder / "qrels" / "dev.tsv").write_text("q\t1\t1\n")
        assert beir_folder(folder, "dev").get_qrels().values.tolist() == [["q", "1", 1]]
        (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nghost\t1\t1\n")
        with pytest.raises(ValueError, match="ghost"):
            beir_folder(folder, "dev").get_topics()
