"""Pairs chosen by the search itself: in Python, on the command line, and as a row of a recipe."""

import json

import ir_measures
import numpy as np
import pandas as pd
import pytest
from ir_measures import nDCG

from pyterrier_expandr import ExpandREncoder, FaissIndex
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.training.preferences.choice import PreferenceSettings, decide
from pyterrier_expandr.training.preferences.measured import open_gain, searching, training_collection
from pyterrier_expandr.training.preferences.pairs import PairsConfig, read_decisions
from pyterrier_expandr.training.recipe.plan import plan
from pyterrier_expandr.training.recipe.recipe import _recipe, read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.stage import build, in_order
from tests.command import expandr
from tests.training.recipe.test_recipe import TINY, tiny, write

pytest.importorskip("faiss")

ROW = "ExpandR by search"
REWARDS = ("measure", "retriever-margin")


@pytest.fixture(scope="module")
def encoder(minilm):
    return ExpandREncoder(minilm, device="cpu")


@pytest.fixture(scope="module")
def index(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "pocket.faiss"
    (encoder.doc_encoder() >> FaissIndex(folder)).index(pocket("train").get_corpus_iter(verbose=False))
    return folder


def gains(sets, encoder):
    """The gain in nDCG@10 of each candidate, by an exhaustive search of its own."""
    documents = list(pocket("train").get_corpus_iter(verbose=False))
    vectors = encoder.encode([f"{d['title']} {d['text']}".strip() for d in documents], "document")
    qrels = [ir_measures.Qrel(r.qid, r.docno, r.label) for r in pocket("train").get_qrels().itertuples()]

    def measured(one, vector):
        found = [
            ir_measures.ScoredDoc(one.query_id, d["docno"], float(s))
            for d, s in zip(documents, vectors @ vector, strict=True)
        ]
        return ir_measures.calc_aggregate([nDCG @ 10], [q for q in qrels if q.query_id == one.query_id], found)

    for one in sets:
        query, *texts = encoder.encode([one.query], "query")[0], *encoder.encode(list(one.candidates), "document")
        alone = measured(one, query)[nDCG @ 10]
        yield [measured(one, (query + text) / 2)[nDCG @ 10] - alone for text in texts]


def test_a_row_chooses_its_pairs_by_the_search(tmp_path, encoder):
    stages = tiny(systems=[ROW], preferences=TINY["preferences"] | {"pairs_per_query": 2})
    pairs = stages.pairs(REWARDS)
    build([pairs], tmp_path)
    folder = {stage.name: stage.folder(tmp_path) for stage in in_order([pairs])}
    decisions = list(read_decisions(folder["pairs"] / "decisions.jsonl", folder["candidates"] / "candidates.jsonl"))
    chosen = [one for one in decisions if one.dropped is None]
    expected = list(gains([one.of for one in chosen], encoder))
    assert np.abs(expected).max() > 0.05, "the candidates must matter to the search"
    np.testing.assert_allclose([one.parts[0] for one in chosen], expected, atol=1e-4)
    for one in chosen:
        assert one.chosen == np.argmax(one.rewards) and one.rejected == np.argmin(one.rewards)
    assert all(not one.of.answer for one in decisions), "nothing compares with answers, so none is written"


def test_the_row_stands_beside_those_of_the_paper():
    stages = tiny(systems=["Query", "ExpandR", ROW])
    by_search, paper = stages.pairs(REWARDS), stages.pairs(("self", "retriever"))
    searched = by_search.inputs[1]
    assert searched.name == "searched" and by_search.inputs[0].fingerprint == paper.inputs[0].fingerprint
    assert stages.recipe.candidates.answers and not tiny(systems=[ROW]).recipe.candidates.answers
    table = plan(stages.recipe).set_index("stage")
    assert table.loc["searched", "texts"] == 242 and table.loc["searched", "for"] == ROW
    several = plan(tiny(systems=[ROW], preferences={"pairs_per_query": 2}).recipe).set_index("stage")
    assert several.loc["dpo", "texts"] > 1.5 * plan(tiny(systems=[ROW]).recipe).set_index("stage").loc["dpo", "texts"]
    weighted = tiny(systems=["ExpandR", ROW], preferences={"weights": [2, 1]})
    assert weighted.pairs(REWARDS).settings["weights"] == [1.0, 1.0]


def test_an_adapted_retriever_searches_an_index_of_its_own():
    stages = tiny(systems=[ROW], rounds=2, adapt_retriever=True)
    _, retriever, searched = stages.pairs(REWARDS, 2).inputs
    assert searched.name == "searched-2" and searched.inputs == (retriever,)
    plain = tiny(systems=[ROW], rounds=2).pairs(REWARDS, 2)
    assert plain.inputs[1].fingerprint == stages.pairs(REWARDS, 1).inputs[1].fingerprint


def test_the_command_searches_an_index(tmp_path, tiny_llama, minilm, index, encoder):
    given = ["--dataset", "pocket", "--llm", tiny_llama, "--encoder", minilm, "--limit", 4, "--threshold", -1]
    given += ["--temperature", 1, "--samples", 3, "--max-new-tokens", 8, "--choose-truncated", "--device", "cpu"]
    given += ["--reward", "measure", "--reward", "retriever-margin", "--out", tmp_path / "pairs"]
    expandr("train", "pairs", *given, "--index", index)
    decisions = [one for one in read_decisions(tmp_path / "pairs") if one.rewards]
    np.testing.assert_allclose(
        [one.parts[0] for one in decisions], list(gains([one.of for one in decisions], encoder)), atol=1e-4
    )
    record = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    assert "nDCG@10" in record["settings"]["preferences"]["rewards"][0]
    said = expandr("train", "pairs", *given, status=2)
    assert 'the reward "measure" and an index to search belong together' in said


@pytest.mark.parametrize(
    ("rewards", "data", "message"),
    [
        (("retriever",), "pocket", "belong together: give both, or neither"),
        (REWARDS, "rows.jsonl", "searches the collection of the training queries, but 'rows.jsonl' is none"),
    ],
)
def test_what_cannot_be_searched_is_refused(index, encoder, rewards, data, message):
    with pytest.raises(ValueError, match=message):
        searching(PreferenceSettings(rewards=rewards), index, encoder, data, "train")


def test_a_collection_in_the_home_folder_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "corpus.jsonl").write_text("{}")
    assert training_collection("~/mine", "train").name == "training"


def test_an_index_of_another_encoder_and_one_never_opened_are_refused(index, minilm):
    other, qrels = ExpandREncoder(minilm, device="cpu", pooling="cls"), pocket("train").get_qrels()
    with pytest.raises(ValueError, match="but the reward encoder is .*: use one encoder for both"):
        open_gain(index, qrels, other)
    with pytest.raises(ValueError, match='the reward "measure" searches an index: open one'):
        next(decide([], other, PreferenceSettings(rewards=REWARDS)))
    with pytest.raises(ValueError, match='the reward "measure" searches an index: open one'):
        PairsConfig("pocket", preferences=PreferenceSettings(rewards=REWARDS))  # before anything is drawn
    assert searching(PreferenceSettings(), None, other, "no matter", "train") == PreferenceSettings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "JSONL"}, f"systems: {ROW}: the reward .measure. searches the collection"),
        (
            {"dpo": TINY["dpo"] | {"method": "grpo", "batch_size": 8}},
            "method 'grpo' takes no pairs, which a system is to choose by the search: name the reward .measure. in dpo",
        ),
    ],
)
def test_recipes_that_cannot_search_are_refused(tmp_path, changes, message):
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "positive": "b"}\n' * 4)
    given = {name: str(tmp_path / "rows.jsonl") if value == "JSONL" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        _recipe(TINY | {"systems": [ROW]} | given, None)


@pytest.mark.slow
def test_the_row_runs_to_the_table(tmp_path, minilm):
    file = write(tmp_path / "search.yaml", systems=["Query", ROW])
    said = expandr("train", "run", file, "--folder", tmp_path / "runs")
    last = RecipeStages(read_recipe(file)).experiment()
    table = pd.read_csv(last.folder(tmp_path / "runs") / "table.csv", index_col=0)
    assert list(table.index) == ["Query", ROW] and ROW in said.splitlines()[-1]
