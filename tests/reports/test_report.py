import re

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from typer.testing import CliRunner

from pyterrier_expandr import ExpandREncoder, RecordedExpander
from pyterrier_expandr.cli import app
from pyterrier_expandr.evaluation.averages import COLLECTIONS, FORUMS
from pyterrier_expandr.evaluation.provenance import describe_pipeline
from pyterrier_expandr.evaluation.result_store import ResultStore
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.reports.page import report
from pyterrier_expandr.reports.paper import paper_row
from pyterrier_expandr.reports.paper_comparison import Setting, beside_paper, standard_queries

SYSTEMS = ["BM25", "Contriever/Raw", "Contriever/ExpandR"]
CONTRIEVER, RELEASED = "facebook/contriever", "chengpingan/ExpandR_Retriever"


def fill(store, system, collection, values, measure="nDCG@10", **record):
    per_query = pd.DataFrame({"qid": [str(i) for i in range(len(values))], "measure": measure, "value": values})
    means = {"means": {measure: float(np.mean(values))}, "n_queries": len(values), "seconds": 1.0, "fingerprint": "f"}
    store.commit(system, collection, per_query, means | record)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two collections of the paper, one of another split, and one with a single query; BM25 failed on the last."""
    path, rng = tmp_path_factory.mktemp("results"), np.random.default_rng(0)
    sizes = {"NFCorpus": 323, "SciFact": 150, "tiny": 1}
    store = ResultStore(path, SYSTEMS, list(sizes), ["nDCG@10"], {"num_results": 1000})
    for collection, size in sizes.items():
        base = rng.random(size) / 2
        for number, system in enumerate(SYSTEMS):
            if (system, collection) != ("BM25", "tiny"):
                fill(store, system, collection, (base + 0.02 * number + 0.05 * rng.random(size)).tolist())
    store.fail("BM25", "tiny", OSError("no such | file"))
    return path


def rows(text):
    """The cells of a Markdown table by their first column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_number_is_the_experiment_s(folder):
    results = Results.load(folder)
    table = rows(report(results))
    assert table[""] == SYSTEMS and list(table)[2:] == ["NFCorpus", "SciFact", "tiny", "Avg"]
    means = results.means().set_index(["system", "collection"])["value"]
    for collection in ("NFCorpus", "SciFact", "tiny"):
        for system, cell in zip(SYSTEMS, table[collection], strict=True):
            if (system, collection) in means.index:
                assert re.sub(r"[^\d.]", "", cell) == f"{100 * means[system, collection]:.2f}"
            else:
                assert cell == "–"  # noqa: RUF001
    plain = means["Contriever/Raw"].mean()
    assert f"{100 * plain:.2f}" in table["Avg"][1] and table["Avg"][0] == "–"  # noqa: RUF001


def test_best_second_and_daggers(folder):
    text = report(Results.load(folder), baseline="Contriever/Raw")
    table = rows(text)
    assert [re.sub(r"[\d.]", "", cell) for cell in table["NFCorpus"]] == ["‡", "<ins></ins>", "****†"]
    assert "†" not in "".join(table["tiny"]) and "One query only, so that no test is possible: tiny." in text
    compared = Results.load(folder).compare("Contriever/Raw", correction="holm")
    significant = compared[compared["p_corrected"] < 0.05]
    assert sum("†" in c or "‡" in c for row in table.values() for c in row) == len(significant) > 0
    assert "Holm-corrected" in text and "Holm" not in report(Results.load(folder))
    assert r"Failed: BM25 on tiny: OSError: no such \| file" in text


def test_the_paper_beside_ours(folder):
    paper = {"Contriever/ExpandR": "Contriever/ExpandR"}
    text = report(Results.load(folder), paper=paper)
    table = rows(text)
    ours = (
        100
        * Results.load(folder).means().set_index(["system", "collection"])["value"]["Contriever/ExpandR", "NFCorpus"]
    )
    assert table["NFCorpus"][3] == f"34.80 ({round(ours, 2) - 34.8:+.2f})°"
    assert table["SciFact"][3] == "69.68≠" and table["tiny"][3] == "–"  # noqa: RUF001
    assert "150 queries evaluated, 300 in the standard split: Contriever/ExpandR on SciFact" in text
    assert "whoever made this report says so" in text and "10.18653" in text


def test_a_measure_that_the_paper_does_not_print(tmp_path):
    store = ResultStore(tmp_path, ["a"], ["SciFact"], ["RR@10"], {})
    fill(store, "a", "SciFact", [0.5] * 300, measure="RR@10")
    text = report(Results.load(tmp_path), paper={"a": "BM25"})
    assert "The paper prints no RR@10" in text and rows(text)["SciFact"] == ["50.00", "–"]  # noqa: RUF001


def test_counts_are_no_percentages(tmp_path):
    store = ResultStore(tmp_path, ["a"], ["SciFact"], ["NumRel"], {})
    fill(store, "a", "SciFact", [3.0, 5.0], measure="NumRel")
    text = report(Results.load(tmp_path))
    assert rows(text)["SciFact"] == ["4.00"] and "Percent" not in text


def test_the_averages_of_the_paper(tmp_path):
    rng = np.random.default_rng(0)
    names = [name for name in COLLECTIONS if name != "CQADupStack"] + list(FORUMS)
    store = ResultStore(tmp_path, ["x", "y"], names, ["nDCG@10"], {})
    for name in names:
        values = rng.random(8) / 2
        fill(store, "x", name, values.tolist())
        fill(store, "y", name, (values + 0.1).tolist())
    table = rows(report(Results.load(tmp_path), baseline="x", paper={"y": "AnchorDR/ExpandR"}))
    assert list(table)[-2:] == ["Avg.BEIR14", "Avg.All"] and "CQADupStack" in table and not set(FORUMS) & set(table)
    assert table["Avg.All"][1].endswith("†") and table["Avg.All"][2] == "48.47≠"
    by_system = rows(report(Results.load(tmp_path), layout="systems"))
    assert list(by_system)[2:] == ["x", "y"] and by_system[""][-2:] == ["Avg.BEIR14", "Avg.All"]


def settings(names, encoder=None, change=0):
    return {name: Setting((standard_queries(name) or 0) + change, standard_queries(name), encoder) for name in names}


def test_what_is_comparable():
    same = beside_paper("Contriever/Raw", "nDCG@10", settings(["SciFact"], CONTRIEVER))["SciFact"]
    assert (same.value, same.unlike, same.stated) == (64.92, (), False)
    stated = beside_paper("Contriever/ExpandR", "nDCG@10", settings(["SciFact"], "/my/trained"))["SciFact"]
    assert (stated.value, stated.unlike, stated.stated) == (69.68, (), True)
    released = beside_paper("AnchorDR/ExpandR", "nDCG@10", settings(["SciFact"], RELEASED))["SciFact"]
    assert not released.unlike and not released.stated
    unnamed = beside_paper("5:E5", "nDCG@10", settings(["SciFact"], "intfloat/e5-base-v2"))["SciFact"]
    assert not unnamed.unlike and unnamed.stated, "the paper does not say which E5"
    assert not beside_paper("5:ExpandR", "nDCG@10", settings(["SciFact"], RELEASED))["SciFact"].unlike
    assert not beside_paper("Contriever/w/o Retriever Training", "nDCG@10", settings(["NQ"], CONTRIEVER))["NQ"].unlike
    assert not beside_paper("BGE-large-1.5/ExpandR", "nDCG@10", settings(["NQ"], "BAAI/bge-large-en-v1.5"))["NQ"].unlike


@pytest.mark.parametrize(
    ("name", "measure", "given", "said"),
    [
        ("Contriever/ExpandR", "nDCG@10", settings(["SciFact"], CONTRIEVER), "the encoder is facebook/contriever"),
        ("AnchorDR/Raw", "nDCG@10", settings(["SciFact"], CONTRIEVER), "the paper's is AnchorDR"),
        ("Contriever/Raw", "nDCG@10", settings(["SciFact"], "sentence-transformers/all-MiniLM-L6-v2"), "is Contriever"),
        ("Contriever/Raw", "nDCG@10", settings(["SciFact"], CONTRIEVER, change=509), "809 queries evaluated, 300"),
        ("BM25", "R@100", settings(["TREC-COVID"]), "capped recall"),
        ("BM25", "nDCG@10", {"SciFact": Setting(300, None, None)}, "not a collection of the paper"),
    ],
)
def test_what_is_not_comparable(name, measure, given, said):
    (beside,) = beside_paper(name, measure, given).values()
    assert len(beside.unlike) == 1 and said in beside.unlike[0]


def test_the_encoder_is_read_from_the_record(tmp_path, minilm):
    store = ResultStore(tmp_path, ["hub", "folder", "other"], ["SciFact"], ["nDCG@10"], {})
    expander = RecordedExpander([{"query": "why", "passage": "because"}])
    for name, model in (("hub", CONTRIEVER), ("folder", minilm), ("other", None)):
        encoder = pt.RankCutoff(10) if model is None else expander >> ExpandREncoder(model).query_encoder()
        fill(store, name, "SciFact", [0.6] * 300, pipeline=describe_pipeline(encoder >> pt.RankCutoff(5)))
    paper = {"hub": "Contriever/Raw", "folder": "Contriever/FT", "other": "BM25"}
    cells = rows(report(Results.load(tmp_path), paper=paper))["SciFact"]
    assert cells[1::2] == ["64.92 (-4.92)", "68.84 (-8.84)°", "66.5 (-6.5)°"]


def test_averages_compare_where_all_their_members_do():
    everything = beside_paper("Contriever/Raw", "nDCG@10", settings(COLLECTIONS, CONTRIEVER))
    assert len(everything) == 17 and not any(each.unlike for each in everything.values())
    one_off = settings(COLLECTIONS, CONTRIEVER) | settings(["NQ"], CONTRIEVER, change=-1)
    found = beside_paper("Contriever/Raw", "nDCG@10", one_off)
    assert found["Avg.All"].unlike == found["NQ"].unlike != ()
    assert "Avg.All" not in beside_paper("Contriever/Raw", "nDCG@10", settings(COLLECTIONS[1:], CONTRIEVER))
    wrong = beside_paper("DPR", "R@100", settings(COLLECTIONS))["Avg.All"].unlike
    assert "the paper's own average contradicts its rows (swapped)" in wrong
    eight = [name for name in paper_row("3:Contriever/Query", "nDCG@10").values if name != "Avg"]
    assert beside_paper("3:Contriever/Query", "nDCG@10", settings(eight, CONTRIEVER))["Avg"].value == 38.53
    assert "Avg" not in beside_paper("3:Contriever/Query", "nDCG@10", settings([*eight, "SCIDOCS"], CONTRIEVER))


def test_the_standard_splits_are_those_of_the_protocol():
    sizes = [standard_queries(name) for name in COLLECTIONS]
    assert sizes == [6980, 50, 323, 3452, 7405, 648, 1406, 49, 13145, 10000, 400, 1000, 6666, 1535, 300]
    assert standard_queries("pocket") is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "docx"}, "format must be one of"),
        ({"layout": "diagonal"}, "layout must be"),
        ({"baseline": "nobody"}, "no system 'nobody'"),
        ({"paper": {"nobody": "BM25"}}, r"no systems \['nobody'\]"),
        ({"paper": {"BM25": "BM26"}}, "no row 'BM26'"),
        ({"measures": ["AP"]}, r"no measures \['AP'\]"),
    ],
)
def test_what_cannot_be_reported(folder, options, said):
    with pytest.raises(ValueError, match=said):
        report(Results.load(folder), **options)


def test_an_experiment_without_a_result(tmp_path):
    ResultStore(tmp_path, ["a"], ["SciFact"], ["nDCG@10"], {})
    with pytest.raises(ValueError, match="nothing has been computed yet"):
        report(Results.load(tmp_path))


def test_systems_that_were_evaluated_on_different_queries(tmp_path):
    store = ResultStore(tmp_path, ["a", "b"], ["SciFact"], ["nDCG@10"], {})
    fill(store, "a", "SciFact", [0.1, 0.2])
    fill(store, "b", "SciFact", [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="evaluate both on the same"):
        report(Results.load(tmp_path), baseline="a")


def test_the_command(folder, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(app, ["report", str(folder), *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    paper = ["--baseline", "BM25", "--paper", "Contriever/ExpandR=7:Contriever/ExpandR"]
    printed = run(*paper, "--system", "BM25", "--system", "Contriever/ExpandR", "--on", "NFCorpus")
    assert rows(printed)[""] == ["BM25", "Contriever/ExpandR", "paper: 7:Contriever/ExpandR"]
    assert "34.58" in rows(printed)["NFCorpus"][2] and "Avg" not in rows(printed)
    assert f"report in {tmp_path / 'a' / 'r.html'}" in run("--format", "html", "--out", tmp_path / "a" / "r.html")
    assert (tmp_path / "a" / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert r"\toprule" in run("--format", "latex", "--layout", "systems")
    assert "Example: expandr report" in " ".join(run("--help").split())
