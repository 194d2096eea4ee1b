import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import pytrec_eval
from ir_measures import RR, R, nDCG

from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.collections import beir_folder, pocket
from pyterrier_expandr.collections.opening import topics_of
from pyterrier_expandr.evaluation import beir
from pyterrier_expandr.evaluation.averages import COLLECTIONS, FORUMS
from pyterrier_expandr.evaluation.beir_collections import SOURCES, Collection, resolve
from pyterrier_expandr.evaluation.cell_files import CELL, RUN
from pyterrier_expandr.evaluation.cells import evaluate, parse_measures, search
from pyterrier_expandr.evaluation.provenance import describe_pipeline
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.evaluation.self_match import SelfMatchFilter
from pyterrier_expandr.retrieval.sparse import bm25
from tests.contract import check_contract


def write_collection(folder, queries, qrels, docs):
    """A folder in BEIR format."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": docno, "title": "", "text": text} for docno, text in docs.items()]
    topics = [{"_id": qid, "text": text} for qid, text in queries.items()]
    for name, rows in (("corpus", corpus), ("queries", topics)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


class Fixed(pt.Transformer):
    """A ranking for each qid, whatever the query is."""

    def __init__(self, rankings, name="fixed"):
        self.rankings, self.name, self.calls = rankings, name, 0

    def transform(self, inp):
        self.calls += 1
        rows = [
            (qid, docno, float(-rank), rank)
            for qid in inp["qid"]
            for rank, docno in enumerate(self.rankings.get(qid, []))
        ]
        return pd.DataFrame(rows, columns=["qid", "docno", "score", "rank"])

    def __repr__(self):
        return f"Fixed({self.name!r})"


@pytest.fixture
def made(tmp_path):
    folder = write_collection(
        tmp_path / "made",
        {"q1": "one", "q2": "two", "q3": "three", "unjudged": "four"},
        [("q1", "a", 1), ("q2", "b", 2), ("q2", "c", 1), ("q3", "d", 0)],
        {name: name for name in "abcd"},
    )
    return Collection("made", beir_folder(folder))


# ---------------------------------------------------------------- collections


def test_the_fifteen_collections_exist_in_ir_datasets():
    import ir_datasets

    assert len(COLLECTIONS) == 15 and len(FORUMS) == 12
    assert set(SOURCES) == {*COLLECTIONS, *FORUMS} - {"CQADupStack"}
    for folder, name, split in SOURCES.values():
        assert ir_datasets.load(name).has_qrels() and name.startswith(f"beir/{folder}")
        assert split == "dev" if folder == "msmarco" else split == "test"


def test_names_become_collections():
    names = [c.name for c in resolve(["scifact", "SciFact", "cqadupstack", "WEBIS-Touche2020"])]
    assert names == ["SciFact", *FORUMS, "Touche-2020"]
    assert [c.name for c in resolve("All")] == [n for c in COLLECTIONS for n in (FORUMS if c == "CQADupStack" else [c])]
    assert len(resolve("BEIR14")) == 13 + 12
    assert [c.num_results for c in resolve(["Quora", "pocket"], num_results=10)] == [11, 10]
    with pytest.raises(ValueError, match="unknown collection 'scifct'.*SciFact"):
        resolve("scifct")
    with pytest.raises(ValueError, match="at least one"):
        resolve([])
    with pytest.raises(ValueError, match="two collections are named 'SciFact'"):
        resolve(["scifact", Collection("SciFact", pocket())])


def test_a_folder_of_collections_goes_before_ir_datasets(tmp_path, made):
    data = tmp_path / "data"
    for name in ("scifact", "cqadupstack/tex", "own"):
        write_collection(data / name, {"1": name}, [("1", "a", 1)], {"a": "a"})
    found = resolve(["SciFact", "CQADupStack/tex", "own"], data=data)
    assert [c.topics["query"].tolist() for c in found] == [["scifact"], ["cqadupstack/tex"], ["own"]]
    assert [c.self_matches for c in found] == [True, True, False]
    with pytest.raises(ValueError, match="has no folder of this name"):
        resolve("vaswani", data=data)


def test_only_judged_queries_are_searched(made):
    assert made.topics["qid"].tolist() == ["q1", "q2", "q3"]
    changed = Collection("made", made.dataset, num_results=10)
    assert made.fingerprint == Collection("made", made.dataset).fingerprint != changed.fingerprint


def test_trec_covid_s_query_is_its_question():
    class TrecCovid:
        def get_topics(self):
            row = {"qid": ["1"], "text": ["what is the origin of COVID-19"], "query": ["coronavirus origin"]}
            return pd.DataFrame(row)

    assert topics_of(TrecCovid())["query"].tolist() == ["what is the origin of COVID-19"]


def test_a_collection_that_cannot_be_downloaded_says_what_to_do(tmp_path, monkeypatch):
    code = (
        "import sys, warnings\n"
        "from pyterrier_expandr import beir\n"
        "warnings.simplefilter('ignore')\n"
        "(collection,) = beir.resolve('NFCorpus')\n"
        "try: next(collection.get_corpus_iter())\n"
        "except OSError as error: print(error)\n"
        "system = {'s': lambda c: list(c.get_corpus_iter())}\n"
        "print(beir.experiment(system, 'NFCorpus', sys.argv[1], verbose=False).failures['error'].item())"
    )
    # A proxy that refuses stands for a machine without a network.
    offline = {"IR_DATASETS_HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | offline,
    )
    for said in (
        "NFCorpus is not on this machine",
        "data=FOLDER",
        "as nfcorpus/ (corpus.jsonl",
        "ir-datasets downloads it",
    ):
        assert done.stdout.count(said) == 2, done.stdout


def test_unusable_judgments(tmp_path):
    nothing = write_collection(tmp_path / "a", {"1": "x"}, [("1", "a", 0)], {"a": "a"})
    with pytest.raises(ValueError, match="no document is judged relevant"):
        _ = Collection("a", beir_folder(nothing)).topics

    class Odd:
        def get_qrels(self):
            return pd.DataFrame({"qid": ["1", "9"], "docno": ["a", "b"], "label": [1, 1]})

        def get_topics(self):
            return self.topics

    odd = Odd()
    odd.topics = pd.DataFrame({"qid": ["7"], "query": ["x"]})
    with pytest.raises(ValueError, match="no query id in common"):
        _ = Collection("odd", odd).topics
    odd.topics = pd.DataFrame({"qid": ["1", "1"], "query": ["x", "y"]})
    with pytest.raises(ValueError, match=r"query ids are repeated: \['1'\]"):
        _ = Collection("odd", odd).topics


def test_a_judged_query_without_text_scores_zero(caplog):
    class Odd:
        def get_qrels(self):
            return pd.DataFrame({"qid": ["1", "9"], "docno": ["a", "b"], "label": [1, 1]})

        def get_topics(self):
            return pd.DataFrame({"qid": ["1"], "query": ["x"]})

    collection = Collection("odd", Odd())
    run = search(Fixed({"1": ["a"]}), collection)
    assert "1 judged queries have no text and score 0: ['9']" in caplog.text
    assert evaluate(run, collection.qrels, parse_measures("nDCG@10"))[1] == {"nDCG@10": 0.5}


# ---------------------------------------------------------------- self-matches


def test_self_matches_are_dropped_and_no_rank_is_lost():
    frame = pd.DataFrame(
        {
            "qid": ["a"] * 4 + ["b"] * 4,
            "query": "text",
            "docno": ["a", "x", "y", "z", "x", "y", "a", "z"],
            "score": [4.0, 3.0, 2.0, 2.0] * 2,
            "rank": [0, 1, 2, 3] * 2,
        }
    )
    kept = check_contract(lambda: SelfMatchFilter(num_results=3), frame, row_wise=False)
    assert kept[["qid", "docno", "rank"]].values.tolist() == [
        ["a", "x", 0],
        ["a", "y", 1],
        ["a", "z", 2],
        ["b", "x", 0],
        ["b", "y", 1],
        ["b", "a", 2],
    ]
    assert (
        SelfMatchFilter(5).fuse_rank_cutoff(3) == SelfMatchFilter(3) and SelfMatchFilter(3).fuse_rank_cutoff(5) is None
    )
    with pytest.raises(ValueError, match="num_results"):
        SelfMatchFilter(0)


def test_a_pipeline_is_asked_for_one_document_more(tmp_path):
    # "a" is its own best match; the relevant "c" is third, so second of two when "a" is gone.
    folder = write_collection(tmp_path / "c", {"a": "text"}, [("a", "c", 1)], {name: name for name in "abc"})
    collection = Collection("c", beir_folder(folder), self_matches=True, num_results=2)
    assert collection.num_results == 3
    results = beir.experiment(
        {"s": lambda c: Fixed({"a": ["a", "b", "c"][: c.num_results]})},
        collection,
        tmp_path / "r",
        num_results=2,
        verbose=False,
    )
    assert results.run("s", "c")["docno"].tolist() == ["b", "c"]
    assert results.means()["value"].tolist() == pytest.approx([1 / np.log2(3), 1.0])


class TestSelfMatchFilter(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return SelfMatchFilter(num_results=2)


# ---------------------------------------------------------------- one cell


def test_values_by_hand(made):
    run = search(Fixed({"q1": ["x", "a"], "q2": ["c", "b"]}), made)
    per_query, means = evaluate(run, made.qrels, parse_measures(["nDCG@10", "R@100", RR]))
    values = per_query.set_index(["qid", "measure"])["value"]
    best = 2 + 1 / np.log2(3)
    assert values["q1", "nDCG@10"] == pytest.approx(1 / np.log2(3)) and values["q1", "RR"] == 0.5
    assert values["q2", "nDCG@10"] == pytest.approx((1 + 2 / np.log2(3)) / best) and values["q2", "R@100"] == 1
    assert values["q3"].tolist() == [0, 0, 0]  # no results, and nothing relevant: scores 0 and counts
    assert len(values) == 9 and means["R@100"] == pytest.approx(2 / 3) and means["RR"] == pytest.approx(0.5)


def test_a_cell_equals_pt_experiment():
    collection = Collection("pocket", pocket())
    pipeline = Fixed({qid: ["med01", "astro01"] for qid in collection.topics["qid"]})
    measures = ["ndcg_cut_10", "recall_100", "map"]
    run = search(pipeline, collection)
    _, means = evaluate(run, collection.qrels, parse_measures(measures))
    theirs = pt.Experiment([pipeline], collection.topics, collection.qrels, measures, names=["x"])
    assert list(means.values()) == pytest.approx(theirs[measures].iloc[0].tolist(), abs=1e-12)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"qid": ["q1", "q1"], "docno": ["a", "a"], "score": [1.0, 0.5]}, "are repeated for the same query"),
        ({"qid": ["q1"], "docno": ["a"], "score": [float("nan")]}, "scores are NaN, for qids"),
        ({"qid": ["q1"], "docno": ["a b"], "score": [1.0]}, "docno must not contain white space"),
        ({"qid": ["q1"], "docno": [""], "score": [1.0]}, "docno must not contain white space"),
        ({"qid": [], "docno": [], "score": []}, "found nothing for any of 3 queries"),
    ],
)
def test_runs_that_cannot_be_evaluated(made, frame, said):
    pipeline = pt.apply.generic(lambda _: pd.DataFrame(frame))
    with pytest.raises(ValueError, match=said):
        search(pipeline, made)


def test_results_without_ranks_or_for_unjudged_queries(made):
    frame = pd.DataFrame({"qid": ["q1", "q1", "other"], "docno": ["x", "a", "b"], "score": [1.0, 2.0, 3.0]})
    run = search(pt.apply.generic(lambda _: frame), made)
    assert run[run["qid"] == "q1"]["docno"].tolist() == ["a", "x"]
    assert evaluate(run, made.qrels, parse_measures("RR"))[1] == {"RR": pytest.approx(1 / 3)}


def test_what_is_no_ranking(made):
    with pytest.raises(TypeError, match=r"the columns \['docno', 'score'\] are missing"):
        search(pt.Transformer.identity(), made)
    with pytest.raises(TypeError, match="must return a PyTerrier transformer, got str"):
        search("bm25", made)


def test_measures_by_either_name():
    assert parse_measures(["nDCG@10", "ndcg_cut_10", R @ 100, "MRR@10"]) == [nDCG @ 10, R @ 100, RR @ 10]
    for wrong in (["nonsense"], [], ["nDCG@"]):
        with pytest.raises(ValueError, match="measure"):
            parse_measures(wrong)


# ---------------------------------------------------------------- the experiment


def test_finished_cells_are_not_computed_again(made, tmp_path):
    pipelines = {"s": Fixed({"q1": ["a"]}), "t": Fixed({"q2": ["b"]}, "other")}
    systems = {name: (lambda c, p=p: p) for name, p in pipelines.items()}

    def run(systems=systems, **options):
        return beir.experiment(systems, made, tmp_path / "r", verbose=False, **options)

    first = run()
    assert [p.calls for p in pipelines.values()] == [1, 1]
    pd.testing.assert_frame_equal(run().means(), first.means())
    assert [p.calls for p in pipelines.values()] == [1, 1]

    more = run(measures=["RR", "nDCG@10"])  # from the ranking that is there
    assert [p.calls for p in pipelines.values()] == [1, 1]
    assert more.measures == ["nDCG@10", "R@100", "RR"] and len(more.means()) == 6

    run(versions={"t": "2"})
    assert [p.calls for p in pipelines.values()] == [1, 2]
    run(versions={"t": "2"})
    assert [p.calls for p in pipelines.values()] == [1, 2]
    changed = Fixed({"q1": ["a"]}, "a repr that differs")
    run(systems={"s": lambda c: changed}, versions={"t": "2"})
    assert changed.calls == 1
    assert run(systems={"s": lambda c: changed}).systems == ["s"]  # what was asked for ...
    assert Results.load(tmp_path / "r").systems == ["s", "t"]  # ... and all that is there


def test_changed_judgments_are_noticed(tmp_path):
    folder = write_collection(tmp_path / "c", {"1": "x"}, [("1", "a", 1)], {"a": "a", "b": "b"})
    pipeline = Fixed({"1": ["a"]})

    def value():
        found = beir.experiment({"s": lambda c: pipeline}, str(folder), tmp_path / "r", measures="RR", verbose=False)
        return found.means()["value"].tolist()

    assert value() == [1.0]
    (folder / "qrels" / "test.tsv").write_text("1\tb\t1\n")
    assert value() == [0.0] and pipeline.calls == 2


def test_a_failing_cell_is_reported_and_the_others_go_on(made, tmp_path):
    def broken(collection):
        raise OSError("the index is gone")

    missing = Collection("gone", lambda: beir_folder(tmp_path / "nowhere"))
    systems = {
        "broken": broken,
        "nan": lambda c: pt.apply.generic(lambda t: t.assign(docno="a", score=np.nan, rank=0)),
        "good": lambda c: Fixed({"q1": ["a"]}),
    }
    with pytest.warns(UserWarning, match="5 of 6 cells failed"):
        results = beir.experiment(systems, [missing, made], tmp_path / "r", verbose=False)
    assert results.means()["system"].unique().tolist() == ["good"]
    failures = results.failures.set_index(["system", "collection"])["error"]
    assert failures["broken", "made"] == "OSError: the index is gone"
    assert "scores are NaN" in failures["nan", "made"]
    assert "not a folder in BEIR format" in failures["good", "gone"]
    # Once mended, only what failed is computed.
    systems["broken"] = lambda c: Fixed({"q2": ["b"]})
    results = beir.experiment({"broken": systems["broken"]}, made, tmp_path / "r", verbose=False)
    assert results.failures.empty and len(Results.load(tmp_path / "r").failures) == 4


def test_ctrl_c_keeps_the_finished_cells(made, tmp_path):
    def interrupted(collection):
        raise KeyboardInterrupt

    first = Fixed({"q1": ["a"]})
    with pytest.raises(KeyboardInterrupt):
        beir.experiment({"a": lambda c: first, "b": interrupted}, made, tmp_path / "r", verbose=False)
    assert Results.load(tmp_path / "r").cells["state"].tolist() == ["done", "pending"]
    beir.experiment({"a": lambda c: first, "b": lambda c: first}, made, tmp_path / "r", verbose=False)
    assert first.calls == 2


KILLED = """
import sys, time
from tests.evaluation.test_beir import Fixed
from pyterrier_expandr import beir
folder, data = sys.argv[1:3]
log = open(folder + ".log", "a", buffering=1)

def system(number):
    def make(collection):
        log.write(f"{number} {collection.name}\\n")
        time.sleep(0.4)
        return Fixed({"1": ["a", "b"][number % 2:]}, str(number))
    return make

beir.experiment({f"s{n}": system(n) for n in range(4)}, ["one", "two"], folder, data=data, verbose=False)
"""


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_kill_9_and_again_gives_the_same(tmp_path):
    for name in ("one", "two"):
        write_collection(tmp_path / "data" / name, {"1": name}, [("1", "a", 1)], {"a": "a", "b": "b"})

    def start(folder):
        command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "data")]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    assert start(tmp_path / "whole").wait(60) == 0
    process, cell = start(tmp_path / "killed"), tmp_path / "killed" / "s1" / "one" / CELL
    for _ in range(600):
        if cell.is_file():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = int((Results.load(tmp_path / "killed").cells["state"] == "done").sum())
    assert 2 <= done < 8
    assert start(tmp_path / "killed").wait(60) == 0
    whole, again = Results.load(tmp_path / "whole"), Results.load(tmp_path / "killed")
    pd.testing.assert_frame_equal(whole.means(), again.means())
    pd.testing.assert_frame_equal(whole.per_query, again.per_query)
    for name in ("s0", "s3"):
        files = [tmp_path / where / name / "two" / RUN for where in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("systems", "error", "said"),
    [
        ([("a", lambda c: None), ("a", lambda c: None)], ValueError, "two systems are named 'a'"),
        ({}, ValueError, "at least one system"),
        ({"a": pt.RankCutoff(3)}, TypeError, "is a pipeline, which can search only one collection"),
        ({"a": "bm25"}, TypeError, "must be a function of a collection or an ExpandR"),
    ],
)
def test_systems_that_are_refused(systems, error, said, tmp_path):
    with pytest.raises(error, match=said):
        beir.experiment(systems, "pocket", tmp_path / "r", verbose=False)
    assert not (tmp_path / "r").exists()


def test_cqadupstack_is_the_mean_of_its_forums(tmp_path):
    data = tmp_path / "data"
    for number, forum in enumerate(FORUMS):  # forum n has n + 1 queries; the relevant document is at rank n + 1
        queries = {str(q): forum for q in range(number + 1)}
        docs = {f"d{i}": "" for i in range(12)} | {"0": "the first query itself"}
        write_collection(data / forum.lower(), queries, [(qid, f"d{number}", 1) for qid in queries], docs)
    system = {"s": lambda c: Fixed({qid: ["0", *(f"d{i}" for i in range(12))] for qid in map(str, range(12))})}
    results = beir.experiment(system, "CQADupStack", tmp_path / "r", data=data, measures="RR", verbose=False)
    assert results.collections == ["CQADupStack"] and len(results.cells) == 12
    # Query "0" loses its self-match "0": its relevant document is at rank n + 1, that of the n others at n + 2.
    forums = [(1 / (n + 1) + n / (n + 2)) / (n + 1) for n in range(12)]
    assert results.means()[["collection", "value"]].values.tolist() == [["CQADupStack", pytest.approx(np.mean(forums))]]


def test_each_collection_has_its_own_index(tmp_path):
    data, seen = tmp_path / "data", []
    for name in ("one", "two"):
        write_collection(data / name, {"1": f"text of {name}"}, [("1", name, 1)], {name: f"text of {name}"})

    def system(collection):
        seen.append([document["docno"] for document in collection.get_corpus_iter()])
        return bm25(
            collection.get_corpus_iter(), tmp_path / f"{collection.name}.pisa", num_results=collection.num_results
        )

    results = beir.experiment({"BM25": system}, ["one", "two"], tmp_path / "r", data=data, verbose=False)
    assert seen == [["one"], ["two"]] and results.means()["value"].tolist() == [1.0] * 4


def test_the_description_of_a_pipeline_shows_what_decides(tmp_path, encoder):
    records = [{"query": "x", "passage": "one"}]
    here, same = RecordedExpander(records), RecordedExpander([{"query": "x", "passages": ["one"]}])
    other = RecordedExpander([{"query": "x", "passage": "two"}])
    described = [json.dumps(describe_pipeline(e >> encoder.query_encoder())) for e in (here, same, other)]
    assert described[0] == described[1] != described[2]
    assert describe_pipeline(encoder.query_encoder()) != describe_pipeline(encoder.query_encoder(fusion=0.3))
    function = describe_pipeline(pt.apply.query(lambda row: row["query"]) >> pt.RankCutoff(3))
    assert "0x" not in json.dumps(function) and function == describe_pipeline(pt.apply.query(str) >> pt.RankCutoff(3))


# ---------------------------------------------------------------- against others


@pytest.fixture(scope="module", params=["scifact", "vaswani"])
def real(request, expandr_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    systems = {"BM25": lambda c: bm25(c.get_corpus_iter(), folder / "pisa", num_results=c.num_results)}
    results = beir.experiment(systems, request.param, folder / "r", data=expandr_data, verbose=False)
    return expandr_data / request.param, results


def test_real_collections_equal_ir_measures_and_pytrec_eval(real, tmp_path):
    folder, results = real
    (collection,) = results.collections
    ours = results.means().set_index("measure")["value"]
    plain = tmp_path / "run.res"
    plain.write_bytes(gzip.decompress((results.folder / "BM25" / collection / RUN).read_bytes()))
    rows = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    qrels = [ir_measures.Qrel(qid, docno, int(label)) for qid, docno, label in rows]
    theirs = ir_measures.calc_aggregate([nDCG @ 10, R @ 100], qrels, ir_measures.read_trec_run(str(plain)))
    assert ours["nDCG@10"] == pytest.approx(theirs[nDCG @ 10], abs=1e-12)
    assert ours["R@100"] == pytest.approx(theirs[R @ 100], abs=1e-12)

    nested: dict[str, dict[str, int]] = {}
    for qid, docno, label in rows:
        nested.setdefault(qid, {})[docno] = int(label)
    with open(plain) as file:
        run = pytrec_eval.parse_run(file)
    found = pytrec_eval.RelevanceEvaluator(nested, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    for measure, name in (("nDCG@10", "ndcg_cut_10"), ("R@100", "recall_100")):
        values = results.per_query[results.per_query["measure"] == measure].set_index("qid")["value"]
        assert values[list(found)].tolist() == pytest.approx([found[qid][name] for qid in found], abs=1e-12)
        assert len(values) == len(nested) and values.mean() == pytest.approx(ours[measure], abs=1e-12)
    assert len(nested) == {"scifact": 300, "vaswani": 93}[folder.name]
