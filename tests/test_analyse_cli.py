import json

import pytest
from typer.testing import CliRunner

from pyterrier_expandr.analysis import expansion_lengths
from pyterrier_expandr.cli import app
from pyterrier_expandr.cli.analyse import recorded
from pyterrier_expandr.collections import pocket

EXPANSIONS = f"ExpandR={pocket().expansions_path}"


def analyse(*arguments):
    """What the command prints."""
    done = CliRunner().invoke(app, ["analyse", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(output):
    """The lines of a printed table by their first word."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}


@pytest.mark.parametrize("command", ["lengths", "bleu", "entailment", "alignment", "transfer"])
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


def test_alignment(minilm, tmp_path):
    options = ["--collection", "pocket", "--encoder", minilm, "--pairs", 6, "--device", "cpu"]
    out = rows(analyse("alignment", "--expansions", EXPANSIONS, *options, "--out", tmp_path / "a.png"))
    assert float(out["ExpandR"][1]) < float(out["query"][2]) and (tmp_path / "a.png").stat().st_size > 1000


def test_transfer(encoder, tmp_path):
    from pyterrier_expandr import FaissIndex

    index = FaissIndex(tmp_path / "index")
    (encoder.doc_encoder() >> index).index(pocket().get_corpus_iter())
    options = ["--collection", "pocket", "--index", f"MiniLM={tmp_path / 'index'}", "--device", "cpu"]
    out = rows(analyse("transfer", "--expansions", EXPANSIONS, *options))
    assert float(out["ExpandR"][1]) > float(out["query"][2]) > 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lengths", "--expansions", "nameless.jsonl"], "write NAME=VALUE, not 'nameless.jsonl'"),
        (["lengths", "--expansions", "a=x", "--expansions", "a=y"], "each name may stand there once"),
        (["lengths", "--expansions", "a=nowhere.jsonl", "--out", "x.doc"], "must end in"),
        (["bleu", "--expansions", EXPANSIONS, "--collection", "nowhere"], "no folder in BEIR format"),
    ],
)
def test_what_can_be_mended_is_said(arguments, said):
    with pytest.raises((ValueError, OSError), match=said):
        analyse(*arguments)
