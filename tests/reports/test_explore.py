"""The page of an experiment, as text; `test_explore_browser` opens it."""

import html.parser
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pyterrier_expandr.cli import app
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.common.locks import InUseError
from pyterrier_expandr.evaluation.beir_collections import resolve
from pyterrier_expandr.evaluation.result_store import ResultStore
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.reports.explore import explore, results_of_runs
from pyterrier_expandr.reports.explore.documents import fitting
from pyterrier_expandr.reports.explore.maps import plane
from pyterrier_expandr.reports.explore.questions import choose_questions
from pyterrier_expandr.reports.page import report
from tests.command import expandr
from tests.common.test_locks import held
from tests.reports.explored import DOCUMENTS, IMAGE, PASSAGES, QUERIES, SCRIPT, SYSTEMS, data_of, experiment
from tests.test_written_before import WRITTEN


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def page(results):
    return explore(results)


class Parser(html.parser.HTMLParser):
    """Well-formed, nothing fetched, no handler of events; counts what can run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.running, self.data = [], 0, 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert not {"src", "href"} & set(given) and not [name for name in given if name.startswith("on")]
        if tag == "script":
            self.running, self.data = self.running + ("type" not in given), self.data + ("type" in given)
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_texts_are_data_and_never_html(page):
    seen = Parser(page.html)
    assert seen.running == 2 and seen.data == 3  # the library and the page's own; core, queries, documents
    assert "hacked" not in re.sub(r"&lt;.*?&gt;", "", page.html)  # only escaped, in the report
    core = data_of(page.html, "core")
    assert core["texts"] == list(QUERIES.values()) and core["qids"] == list(QUERIES) and core["systems"] == SYSTEMS
    found = {docno: tuple(rest) for docno, *rest in data_of(page.html, "documents-0")}
    assert found["sky"] == DOCUMENTS["sky"] and found["moon" + SCRIPT] == DOCUMENTS["moon" + SCRIPT]
    assert found["other"][1].endswith("[…]") and "Texts of documents are cut after 2000 characters." in page.notes


def test_scores_rankings_judgments_and_passages_are_the_experiment_s(results, page):
    core, details = data_of(page.html, "core"), data_of(page.html, "queries-0")
    values = results.per_query.set_index(["measure", "system", "qid"])["value"]
    for m, measure in enumerate(results.measures):
        for s, system in enumerate(SYSTEMS):
            for q, qid in enumerate(QUERIES):
                assert core["scores"][m][s][q] == pytest.approx(values[measure, system, qid], abs=1e-4)
    docnos = [row[0] for row in data_of(page.html, "documents-0")]
    names = list(DOCUMENTS)
    first = details[0]
    assert [docnos[n] for n in first["lists"][0]] == [names[i] for i in (3, 2, 1, 0)] and first["lengths"] == [4, 3]
    judged = dict(zip([docnos[n] for n in first["judged"]["numbers"]], first["judged"]["grades"], strict=True))
    assert judged == {"sky": 2, "fugue": 0} and first["judged"]["relevant"] == 1
    assert first["passages"] == {"texts": PASSAGES["1"], "of": [[], [0, 1]]}
    assert details[2]["passages"]["texts"] == []
    assert results.passages(SYSTEMS[1], results.collections[0])["1"] == PASSAGES["1"]


def test_the_report_is_its_first_tab(results):
    text = report(results, "html", baseline="plain")
    assert text.count("Bold: the best") == 1 and text.count("Holm-corrected") == 1  # once for both tables
    value = results.means().query("system == 'plain' and measure == 'nDCG@10'")["value"].item()
    assert f">{100 * value:.2f}" in re.sub("<b>|<u>", "", text) and "Differences from plain" in text
    assert "expandr explore writes a page with them" in text and data_of(text, "core")["texts"] == ["", "", ""]
    assert IMAGE not in text and "&lt;img/src=x" in text


def test_two_processes_do_not_write_one_page(page, tmp_path):
    with held(tmp_path / "page.html"), pytest.raises(InUseError, match=r"page\.html"):
        page.save(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    assert page.save(tmp_path / "page.html").read_text() == page.html


def test_a_page_of_one_query(results, page):
    one = results[results.collections[0], "3"]
    core = data_of(one.html, "core")
    assert core["qids"] == ["3"] and core["single"] and not data_of(page.html, "core")["single"]
    shown = one._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "<script" not in shown and 'sandbox="allow-scripts"' in shown
    assert data_of(results["3"].html, "core")["qids"] == ["3"]
    with pytest.raises(KeyError, match="no query '9' is in these results"):
        _ = results["9"]


def test_a_folder_without_texts_and_with_a_failed_cell(tmp_path):
    store = ResultStore(tmp_path / "r", ["a", "b"], ["unknown here"], ["nDCG@10"], {"num_results": 10})
    record = {"means": {"nDCG@10": 0.5}, "n_queries": 2, "seconds": 1.0, "fingerprint": "f"}
    run = pd.DataFrame({"qid": ["1", "2"], "docno": ["x", "y"], "rank": 0, "score": 1.0})
    store.save_run("a", "unknown here", run)
    values = pd.DataFrame({"qid": ["1", "2"], "measure": "nDCG@10", "value": [0.0, 1.0]})
    store.commit("a", "unknown here", values, record)
    store.fail("b", "unknown here", OSError("no such | <b>file</b>"))
    page = explore(Results.load(tmp_path / "r"))
    said = " ".join(page.notes)
    assert (
        "No queries, judgments and documents of unknown here are shown (--data says where it is): unknown collection"
        in said
    )
    assert "There is no ranking of b on unknown here." in said
    assert "Failed: b on unknown here: OSError: no such | &lt;b&gt;file&lt;/b&gt;" in page.html
    assert data_of(page.html, "documents-0") == [["x"], ["y"]]
    assert data_of(page.html, "queries-0")[0]["lists"] == [[0], None]


def test_nothing_to_show(tmp_path):
    store = ResultStore(tmp_path, ["a"], ["pocket"], ["nDCG@10"], {})
    with pytest.raises(ValueError, match="nothing has been computed yet"):
        explore(Results.load(tmp_path))
    store.fail("a", "pocket", OSError("no disk"))
    with pytest.raises(ValueError, match="nothing has been computed yet in .*: a on pocket failed: OSError: no disk"):
        explore(Results.load(tmp_path))
    none = pd.DataFrame({"qid": [], "measure": [], "value": []})
    store.commit("a", "pocket", none, {"means": {}, "n_queries": 0, "seconds": 1.0, "fingerprint": "f"})
    with pytest.raises(ValueError, match="nothing has been computed yet"):  # 0 queries
        explore(Results.load(tmp_path))


def test_what_an_earlier_release_wrote_can_be_explored():
    page = explore(Results.load(WRITTEN / "results"), data=WRITTEN, maps=0)
    assert data_of(page.html, "core")["systems"] == ["one", "two"] and "eight" in page.html


def test_a_hundred_thousand_queries(tmp_path):
    store = ResultStore(tmp_path, ["a"], ["many"], ["RR"], {})
    frame = pd.DataFrame({"qid": [f"q{i}" for i in range(100_000)], "measure": "RR", "value": 0.5})
    store.commit("a", "many", frame, {"means": {"RR": 0.5}, "n_queries": 100_000, "seconds": 1.0, "fingerprint": "f"})
    page = explore(Results.load(tmp_path), texts=False)
    assert any(note.startswith("98000 of 100000 queries are left out") for note in page.notes)
    assert len(data_of(page.html, "core")["qids"]) == 2000 and len(page.html) < 2e6


def test_those_that_differ_most_are_kept(results):
    chosen = choose_questions(results, ["nDCG@10"], {}, limit=1)
    assert chosen.total == 3 and chosen.keys[0][1] == "1" and chosen.spread[0] == pytest.approx(1 - 1 / np.log2(5))
    assert chosen.scores.shape == (1, 2, 1)


def test_texts_fit_and_the_important_ones_stay():
    rng = np.random.default_rng(0)
    texts = [("title", "".join(map(chr, rng.integers(97, 123, 500)))) for _ in range(300)]
    docnos, importance = [f"d{i}" for i in range(300)], [(i * 7) % 300 for i in range(300)]
    whole, none = fitting(docnos, texts, importance, 1e9)
    assert none == 0
    room = sum(map(len, whole)) / 3
    blocks, left_out = fitting(docnos, texts, importance, room)
    assert room * 0.8 < sum(map(len, blocks)) <= room and 150 < left_out < 250
    rows = [row for block in blocks for row in data_of(f'<script type="text/plain" id="x">{block}</script>', "x")]
    assert [row[0] for row in rows] == docnos
    assert sorted(importance[i] for i, row in enumerate(rows) if len(row) == 3) == list(range(300 - left_out))
    assert fitting(docnos, texts, importance, 10)[1] == 300


def test_a_plane_is_that_of_pca():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(12, 30))
    points, share = plane(vectors)
    theirs = PCA(2).fit(vectors)
    np.testing.assert_allclose(np.abs(points), np.abs(theirs.transform(vectors)), atol=1e-9)
    assert share == pytest.approx(theirs.explained_variance_ratio_.sum())
    assert plane(np.ones((3, 4)))[0].tolist() == [[0, 0]] * 3 and plane(np.ones((1, 4)))[1] == 1.0


def write_runs(folder):
    topics, names = pocket().get_topics(), ["astro01", "med01", "food14"]
    for name, order in (("a", names), ("b", names[::-1])):
        lines = [
            f"{qid}\tQ0\t{docno}\t{rank}\t{9 - rank}\t{name}"
            for qid in topics["qid"]
            for rank, docno in enumerate(order)
        ]
        (folder / f"{name}.trec").write_text("\n".join(lines))
    return folder / "a.trec", folder / "b.trec"


def invoke(*arguments, status=0):
    done = CliRunner().invoke(app, ["explore", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.stdout


def test_two_runs_without_an_experiment(tmp_path):
    a, b = write_runs(tmp_path)
    out = tmp_path / "page.html"
    printed = invoke("--run", a, "--run", f"second={b}", "--collection", "pocket", "--measure", "RR", "--out", out)
    text = out.read_text(encoding="utf-8")
    assert f"page in {out}" in printed and "note: Rankings are shown to rank 100." in printed
    core = data_of(text, "core")
    assert core["systems"] == ["a", "second"] and core["measures"] == ["RR"] and len(core["qids"]) == 37
    assert core["texts"] == pocket().get_topics()["query"].tolist() and "Differences from a" in text
    (collection,) = resolve("pocket")
    expected = results_of_runs({"a": a, "b": b}, collection, tmp_path / "r", measures=["RR"]).per_query
    assert core["scores"][0][0] == pytest.approx(expected[expected["system"] == "a"]["value"].tolist(), abs=1e-4)


def test_open_starts_the_user_s_browser(tmp_path, results, monkeypatch):
    """Python's webbrowser runs what the environment names in BROWSER: here a script that writes down its arguments."""
    browser, opened, page = tmp_path / "browser", tmp_path / "opened", tmp_path / "my page.html"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {opened}\n')
    browser.chmod(0o755)
    arguments = (results.folder, "--maps", 0, "--out", page)
    monkeypatch.setenv("BROWSER", str(browser))
    invoke(*arguments)
    assert page.is_file() and not opened.exists()
    said = expandr("explore", *arguments, "--open")
    assert opened.read_text() == f"{page.as_uri()}\n" and "%20page.html" in page.as_uri()
    assert "no browser" not in said
    for name, value in (("BROWSER", str(tmp_path / "none")), ("PATH", str(tmp_path)), ("DISPLAY", "")):
        monkeypatch.setenv(name, value)  # nor any browser that Python would find by itself
    assert f"note: no browser could be started: open {page.as_uri()} in one" in expandr("explore", *arguments, "--open")


def test_bad_runs_are_errors(tmp_path, results):
    a, b = write_runs(tmp_path)
    b.write_text("q1 Q0 d1 1 high b\n")
    on = ("--collection", "pocket")
    for arguments, said in (
        (("--run", a, "--run", b, *on), "b.trec' is not a TREC run .*could not convert"),
        (("--run", tmp_path / "c.trec", *on), "there is no run"),
        (("--run", a), "runs need the collection"),
        (("--run", a, "--run", a, *on), "each name may be given only once"),
        ((results.folder, "--run", a), "give either the folder of an experiment, or --run"),
        ((), "give either the folder of an experiment, or --run"),
        ((results.folder, *on), "--collection is for --run"),
        ((results.folder, "--expansions", "nobody=x.jsonl"), "expansions are given for"),
        ((results.folder, "--baseline", "nobody"), "there is no system 'nobody'"),
        ((results.folder, "--out", tmp_path), "is a folder, but --out is the file of the page"),
        ((tmp_path,), "is not the folder of an experiment"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            invoke(*arguments)
    a.write_text("unknown Q0 d1 1 2.0 a\n")
    with pytest.raises(
        ValueError, match="the run 'a' .* cannot be evaluated on pocket: ValueError: the pipeline found"
    ):
        invoke("--run", a, *on)
