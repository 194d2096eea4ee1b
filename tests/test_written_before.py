"""What the version before the rooms wrote is read by this one: `fixtures/written_before_rooms/make.py` says how it was made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import ExpandR, FaissIndex, GenerationCache, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.evaluation import Results

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
    assert results.failures.empty and len(results.run("one", "eight")) == 10


def test_a_generation_cache_gives_its_texts_and_nothing_is_generated(written, monkeypatch):
    backend = HuggingFaceBackend(written / "llm", device="cpu")
    monkeypatch.setattr(HuggingFaceBackend, "load", lambda self: pytest.fail("the model was asked"))
    expander = LLMExpander(backend, n=2, max_new_tokens=8, cache=GenerationCache(written / "generations.sqlite"))
    with pytest.warns(UserWarning, match="truncated"):
        assert expander.transform(TOPICS)["query_expansions"].tolist() == EXPECTED["sampled"]


@pytest.mark.filterwarnings("ignore:of 2 expansions")
def test_an_adapter_writes_what_it_wrote(written):
    settings = {"temperature": 0, "max_new_tokens": 8, "clean": False}
    adapted, base = (
        LLMExpander(HuggingFaceBackend(written / "llm", adapter=adapter, device="cpu"), **settings)
        for adapter in (written / "adapter", None)
    )
    assert adapted.transform(TOPICS)["query_expansions"].tolist() == EXPECTED["adapted"]
    assert base.transform(TOPICS)["query_expansions"].tolist() != EXPECTED["adapted"]
