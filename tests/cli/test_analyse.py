import json

import pandas as pd
import pytest
from ir_measures import nDCG
from typer.testing import CliRunner

from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.analysis import expansion_lengths
from pyterrier_expandr.cli import app
from pyterrier_expandr.cli.common import recorded
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.evaluation.result_store import ResultStore
from tests.tiny_nli import build_tiny_nli

EXPANSIONS = f"ExpandR={pocket().expansions_path}"


def analyse(*arguments):
    """What the command prints."""
    done = CliRunner().invoke(app, ["analyse", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def experiment(encoder, pocket_index, tmp_path_factory):
    """The folder of a real experiment on pocket: the query alone and ExpandR."""
    folder, dataset = tmp_path_factory.mktemp("experiment"), pocket()
    dense = encoder.query_encoder() >> pocket_index.retriever(num_results=20)
    systems = {"dense": dense, "ExpandR": RecordedExpander(dataset.expansions_path) >> dense}
    store = ResultStore(folder / "out", list(systems), ["pocket"], ["nDCG@10"], {"num_results": 20})
    qrels = dataset.get_qrels().rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
    for name, system in systems.items():
        run = system(dataset.get_topics())
        store.save_run(name, "pocket", run)
        values = (nDCG @ 10).iter_calc(qrels, run.rename(columns={"qid": "query_id", "docno": "doc_id"}))
        frame = pd.DataFrame(
            [(value.query_id, "nDCG@10", value.value) for value in values], columns=["qid", "measure", "value"]
        )
        record = {"fingerprint": name, "n_queries": len(frame), "seconds": 0.0}
        store.commit(name, "pocket", frame, record | {"means": {"nDCG@10": frame["value"].mean()}})
    return folder / "out"


def rows(output):
    """The lines of a printed table by their first word."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}


@pytest.mark.parametrize("command", ["lengths", "bleu", "entailment", "alignment", "transfer", "change", "case"])
def test_help_shows_an_example(command):
    assert f"Example: expandr analyse {command}" in " ".join(analyse(command, "--help").split())


def test_lengths(tmp_path):
    picture = tmp_path / "lengths.svg"
    out = analyse("lengths", "--expansions", EXPANSIONS, "--out", picture)
    words = expansion_lengths({"ExpandR": recorded(pocket().expansions_path)})["length"]
    assert out.startswith("length in words") and rows(out)["ExpandR"][1:3] == ["68.0", f"{words.mean():.1f}"]
    assert picture.read_text().startswith("<?xml")


def test_a_line_needs_only_a_qid_or_a_query(tmp_path):
    file = tmp_path / "e.jsonl"
    lines = [{"query_id": "1", "passage": "one two"}, {"query": "why", "passage": "Here is a passage: three"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    frame = recorded(file)
    assert frame["query_expansions"].tolist() == [["one two"], ["three"]]
    assert frame[["qid", "query"]].values.tolist() == [["1", "1"], ["why", "why"]]


def test_bleu_against_gold_documents_and_answers(tmp_path):
    path = pocket().expansions_path
    out = analyse(
        "bleu", "--expansions", EXPANSIONS, "--collection", "pocket", "--answers", path, "--out", tmp_path / "b.png"
    )
    lines = [line.split() for line in out.splitlines() if line.lstrip().startswith("ExpandR")]
    assert lines[0][1:] == ["answers", "100.00", "100.00", "37"]
    assert lines[1][1:3] == ["gold", "documents"] and 0 < float(lines[1][3]) < 20
    assert "sacreBLEU nrefs:1" in out and (tmp_path / "b.png").stat().st_size > 1000


def test_entailment(tmp_path):
    model = build_tiny_nli(tmp_path, ["contradiction", "entailment", "neutral"])
    out = rows(
        analyse("entailment", "--expansions", EXPANSIONS, "--collection", "pocket", "--model", model, "--device", "cpu")
    )
    assert 0 < float(out["ExpandR"][1]) < 100 and out["ExpandR"][3] == "37"


def test_alignment(minilm, tmp_path):
    options = ["--collection", "pocket", "--encoder", minilm, "--pairs", 6, "--device", "cpu"]
    out = rows(analyse("alignment", "--expansions", EXPANSIONS, *options, "--out", tmp_path / "a.png"))
    assert float(out["ExpandR"][1]) < float(out["query"][2]) and (tmp_path / "a.png").stat().st_size > 1000


def test_transfer(pocket_index):
    options = ["--collection", "pocket", "--index", f"MiniLM={pocket_index.path}", "--device", "cpu"]
    out = rows(analyse("transfer", "--expansions", EXPANSIONS, *options))
    assert float(out["ExpandR"][1]) > float(out["query"][2]) > 0.5


def test_change(experiment, tmp_path):
    options = ["--system", "ExpandR", "--baseline", "dense", "--texts", "pocket", "--show-worst", 2]
    out = analyse("change", experiment, *options, "--out", tmp_path / "change.png")
    assert "ExpandR minus dense: +0.11" in out and "the mean over 37 queries" in out
    assert "12 queries gain, 3 lose, 22 stay as they are" in out
    hurt = out.split("Hurt most:")[1].splitlines()[2:]
    assert len(hurt) == 2 and hurt[0].split()[1] == "q23" and "phone in bed" in hurt[0]
    assert (tmp_path / "change.png").stat().st_size > 1000


def test_case(experiment, tmp_path):
    options = ["--collection", "pocket", "--expansions", EXPANSIONS, "--out", tmp_path / "case.html"]
    out = analyse("case", "q01", experiment, *options)
    assert "gold document: astro03 Tidal locking" in out
    assert "dense: nDCG@10 0.2534, gold document rank 7" in out
    assert "ExpandR: nDCG@10 0.9502, gold document rank 1" in out
    page = (tmp_path / "case.html").read_text(encoding="utf-8")
    assert "tidally locked" in page and "<mark>Moon</mark>" in page
    with pytest.raises(ValueError, match=r"--expansions names \['other'\].*systems are \['dense', 'ExpandR'\]"):
        analyse("case", "q01", experiment, "--collection", "pocket", "--expansions", "other=x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["change", "nowhere", "--system", "a", "--baseline", "b"], "there is no folder 'nowhere'"),
        (["lengths", "--expansions", "nameless.jsonl"], "expected NAME=VALUE, got 'nameless.jsonl'"),
        (["lengths", "--expansions", "a=x", "--expansions", "a=y"], "each name may be given only once"),
        (["lengths", "--expansions", "a=nowhere.jsonl", "--out", "x.doc"], "must end in"),
        (["bleu", "--expansions", EXPANSIONS, "--collection", "nowhere"], "not a folder in BEIR format"),
    ],
)
def test_what_can_be_mended_is_said(arguments, said):
    with pytest.raises((ValueError, OSError), match=said):
        analyse(*arguments)
