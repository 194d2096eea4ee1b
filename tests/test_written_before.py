"""What the version before the rooms wrote is read by this one: `fixtures/written_before_rooms/make.py` says how it was made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import (
    ExpandR,
    ExpandREncoder,
    FaissIndex,
    FaissRetriever,
    GenerationCache,
    HuggingFaceBackend,
    LLMExpander,
    beir,
)
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.evaluation import Results
from pyterrier_expandr.training.expander import ExpanderTrainingConfig, train_expander
from pyterrier_expandr.training.preferences import (
    CandidateSettings,
    PairsConfig,
    PreferenceSettings,
    build_pairs,
    read_pairs,
)
from pyterrier_expandr.training.preferences.pairs import read_decisions

WRITTEN = Path(__file__).parent / "fixtures" / "written_before_rooms"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text())
TOPICS = pd.DataFrame({"qid": ["q0", "q1"], "query": ["why is the sky blue", "what moves the tides"]})


@pytest.fixture
def written(tmp_path):
    """A copy: opening SQLite files and running systems may write beside them."""
    return Path(shutil.copytree(WRITTEN, tmp_path / "written"))


def rows(frame, *names):
    return frame[list(names)].values.tolist()


@pytest.mark.parametrize("open_it", [FaissIndex, pt.Artifact.load], ids=["by class", "as an artefact"])
def test_an_index(open_it, written):
    index = open_it(str(written / "index"))
    index.verify()
    assert index.docnos.to_pylist() == [f"d{n}" for n in range(8)]
    # The folder of this encoder is gone: a user opens the system, which carries its encoder, or reads what it was.
    assert index.encoder == json.loads((written / "system" / "expandr_system.json").read_text())["encoder"]
    query = pd.DataFrame({"qid": ["q0"], "query_vec": [np.array(EXPECTED["query_vec"], np.float32)]})
    found = rows(index.retriever(num_results=3).transform(query), "docno", "score")
    assert found == [[docno, pytest.approx(score, abs=1e-6)] for docno, score in EXPECTED["index"]]


@pytest.mark.parametrize("open_it", [ExpandR.load, pt.Artifact.load], ids=["by class", "as an artefact"])
def test_a_system(open_it, written):
    found = rows(open_it(str(written / "system")).pipeline(5).transform(TOPICS), "qid", "docno", "score")
    assert found == [[qid, docno, pytest.approx(score, abs=1e-5)] for qid, docno, score in EXPECTED["system"]]


def test_a_folder_of_results(written):
    results = Results.load(written / "results")
    assert rows(results.means(), "system", "measure", "value") == EXPECTED["means"]
    per_query = results.per_query.groupby(["system", "measure"])["value"].mean().to_dict()
    assert per_query == {(system, measure): pytest.approx(value) for system, measure, value in EXPECTED["means"]}
    assert results.failures.empty and len(results.per_query) == 8
    ranked = pd.DataFrame(EXPECTED["system"], columns=["qid", "docno", "score"])
    assert rows(results.run("one", "eight"), "qid", "docno") == rows(ranked, "qid", "docno")
    assert results.run("one", "eight")["score"].tolist() == pytest.approx(ranked["score"].tolist(), abs=1e-5)


def test_a_finished_experiment_is_not_computed_again(written, monkeypatch):
    system = ExpandR.load(written / "system", device="cpu")
    systems = {"dense": system.without_expansion(), "ExpandR": system}
    collection = beir.Collection("eight", beir_folder(written / "beir"))
    monkeypatch.setattr(FaissRetriever, "transform", lambda *_: pytest.fail("the index was searched"))
    results = beir.experiment(systems, [collection], written / "own_results", verbose=False)
    assert results.failures.empty
    assert rows(results.means(), "system", "measure", "value") == EXPECTED["own_means"]


def test_a_generation_cache_gives_its_texts_and_nothing_is_generated(written, monkeypatch):
    pytest.importorskip("transformers", "5", reason="the tokenizer was saved by transformers 5")
    backend = HuggingFaceBackend(written / "llm", device="cpu")
    monkeypatch.setattr(HuggingFaceBackend, "load", lambda self: pytest.fail("the model was asked"))
    expander = LLMExpander(backend, n=2, max_new_tokens=8, cache=GenerationCache(written / "generations.sqlite"))
    assert expander.transform(TOPICS)["query_expansions"].tolist() == EXPECTED["sampled"]


@pytest.mark.filterwarnings("ignore:of 2 expansions")
def test_an_adapter_writes_what_it_wrote(written):
    pytest.importorskip("transformers", "5", reason="the tokenizer was saved by transformers 5")
    settings = {"temperature": 0, "max_new_tokens": 8, "clean": False}
    adapted, base = (
        LLMExpander(HuggingFaceBackend(written / "llm", adapter=adapter, device="cpu"), **settings)
        for adapter in (written / "adapter", None)
    )
    assert adapted.transform(TOPICS)["query_expansions"].tolist() == EXPECTED["adapted"]
    assert base.transform(TOPICS)["query_expansions"].tolist() != EXPECTED["adapted"]


def test_a_trained_adapter_is_known_as_finished(written, monkeypatch):
    pytest.importorskip("trl", reason="training needs the extra train")
    row = {
        "query_id": "0",
        "prompt": [{"role": "user", "content": "Question: why?"}],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "Why?"}],
    }
    pairs = written / "pairs.jsonl"
    pairs.write_text(f"{json.dumps(row)}\n" * 4)
    settings = {"batch_size": 2, "device_batch_size": 2, "eval_fraction": 0, "report_prompts": 0, "learning_rate": 0.1}
    config = ExpanderTrainingConfig(str(written / "llm"), str(pairs), str(written / "adapter"), **settings)
    monkeypatch.setattr(HuggingFaceBackend, "load", lambda self: pytest.fail("the model was asked"))
    assert train_expander(config) == written / "adapter"
    assert not (written / "adapter.work").exists()


def test_preference_pairs_are_read(written):
    folder = written / "pairs"
    assert list(read_pairs(folder / "pairs.jsonl")) == EXPECTED["pairs"]["rows"]
    decided = [[d.of.query_id, d.chosen, d.rejected] for d in read_decisions(folder)]
    names = ("query_id", "chosen_candidate", "rejected_candidate")
    assert decided == [[row[name] for name in names] for row in EXPECTED["pairs"]["rows"]]


def test_preference_pairs_are_not_made_again(written, monkeypatch):
    folder, encoder_folder = written / "pairs", written / "system" / "encoder"
    record = json.loads((folder / "pairs.json").read_text())
    record["settings"]["encoder"]["model"] = str(encoder_folder.resolve())  # as if it still lay where it was
    (folder / "pairs.json").write_text(json.dumps(record))
    config = PairsConfig(
        "pocket",
        limit=3,
        candidates=CandidateSettings(temperatures=(0.8, 1.1), samples=2, max_new_tokens=8),
        preferences=PreferenceSettings(candidates=4, threshold=-1, choose_truncated=True),  # as it was then
    )
    encoder = ExpandREncoder(encoder_folder, device="cpu", pooling="mean", normalize=True)
    monkeypatch.setattr(HuggingFaceBackend, "load", lambda self: pytest.fail("the model was asked"))
    report = build_pairs(config, HuggingFaceBackend(written / "llm", device="cpu"), encoder, folder)
    expected = EXPECTED["pairs"]["report"]
    expected["dropped"]["all truncated"] = 0  # a reason that there is since then
    assert report.as_json() == expected
