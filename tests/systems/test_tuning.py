import json

import numpy as np
import pandas as pd
import pytest

from pyterrier_expandr import HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.evaluation.cells import evaluate, parse_measures
from pyterrier_expandr.retrieval.sparse import LexicalIndex
from pyterrier_expandr.systems.expandr import ExpandR
from pyterrier_expandr.systems.settings import TunedSettings
from pyterrier_expandr.systems.trials import Setting, Trials
from pyterrier_expandr.systems.tuning import Grid, choose, held_out, tune

GRID = Grid(n=(1, 2), fusion=(0.5, 0.8, 1.0), repeats=(1, 5, "mugi"), weight=(0.0, 0.3, 0.5, 1.0))
TRAIN = pocket("train")
NOISE = "The stock market closed lower, and the goalkeeper was injured in the second half of the match."


@pytest.fixture(scope="module")
def lexical(tmp_path_factory):
    return LexicalIndex(tmp_path_factory.mktemp("tuning") / "pisa").index(pocket().get_corpus_iter())


def two_passages(second):
    """Recorded passages of all queries, and a second one for each."""
    lines = [json.loads(line) for line in pocket().expansions_path.read_text().splitlines()]
    texts = [line["passages"] if "passages" in line else [line["passage"]] for line in lines]
    return [
        {"query_id": line["query_id"], "passages": [own[0], second or own[0]]}
        for line, own in zip(lines, texts, strict=True)
    ]


def noise():
    return RecordedExpander([{"query_id": line["query_id"], "passages": [NOISE]} for line in two_passages(None)])


def test_every_setting_scores_what_its_pipeline_scores(encoder, pocket_index, lexical):
    topics, qrels = TRAIN.get_topics(), TRAIN.get_qrels()
    system = ExpandR(RecordedExpander(two_passages(NOISE)), encoder, pocket_index, lexical=lexical, hybrid="zscore")
    (measure,) = parse_measures(["nDCG@10"])
    trials = Trials(system, topics, qrels, measure)
    settings = [Setting(0, 1.0, 1, 0.5), Setting(1, 0.5, 5, 0.3), Setting(2, 0.8, "mugi", 0.5), Setting(2, 0.5, 1, 1.0)]
    trials.expand([1, 2])
    from pyterrier_expandr.systems.tuning import _tuned

    for setting, values in zip(settings, trials.scores(settings), strict=True):
        run = system.with_settings(_tuned(setting, system, {})).pipeline(10)(topics)
        per_query, _ = evaluate(run, qrels, [measure])
        expected = per_query.set_index("qid")["value"].reindex(topics["qid"], fill_value=0.0)
        np.testing.assert_allclose(values, expected, atol=1e-12, err_msg=str(setting))


def test_nothing_is_written_encoded_or_searched_twice(encoder, pocket_index, lexical, tiny_llama, monkeypatch):
    asked, encoded, searched = [], [], []

    class Counting(HuggingFaceBackend):
        def stream(self, requests):
            asked.extend((request.messages[0]["content"], s) for request in requests for s in request.samples)
            yield from super().stream(requests)

    class Once(Trials):
        def __init__(self, *args):
            super().__init__(*args)
            searched.append((self.dense, self.lexical))

    encode = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda self, t, *a: encoded.extend(t) or encode(self, t, *a))
    monkeypatch.setattr("pyterrier_expandr.systems.tuning.Trials", Once)
    expander = LLMExpander(Counting(tiny_llama, device="cpu"), n=1, max_new_tokens=4)
    system = ExpandR(expander, encoder.with_fusion("average"), pocket_index, lexical=lexical)
    system.encoder._memo = type(encoder._memo)()
    topics = TRAIN.get_topics().head(6)
    with pytest.warns(UserWarning, match="truncated"):
        found = tune(system, topics, TRAIN.get_qrels(), GRID, folds=2)
    assert len(asked) == len(set(asked)) == 12, "6 queries, 2 samples"
    assert len(encoded) == len(set(encoded)) <= 18, "6 queries and 12 passages"
    ((dense, words),) = searched
    assert dense.searched == len(dense._known) <= 6 * (1 + 2 * 2), "alone, and two weights for each number of passages"
    assert words.searched == len(words._known) <= 6 * (1 + 2 * 3)
    assert len(found.table) == 8 and system.expander.n == 1


def test_good_passages_are_used_and_noise_is_not(encoder, pocket_index, lexical):
    topics, qrels = TRAIN.get_topics(), TRAIN.get_qrels()
    good = RecordedExpander(two_passages(NOISE))
    found = tune(ExpandR(good, encoder, pocket_index, lexical=lexical), topics, qrels, GRID)
    assert found.settings.n == 1 and found.choice.gain > found.choice.error > 0  # the second passage is noise
    table = found.table.set_index("system")["mean"]
    assert table["chosen"] >= table["untuned"] and table["chosen"] > table["hybrid, query alone"]

    bad = tune(ExpandR(noise(), encoder, pocket_index, lexical=lexical), topics, qrels, Grid(fusion=(0.5, 0.7)))
    table = bad.table.set_index("system")["mean"]
    assert bad.settings.n == 0 and table["untuned"] < table["chosen"] == table.filter(like="query alone").max()

    dense = tune(ExpandR(noise(), encoder, pocket_index), topics, qrels, GRID)
    assert dense.settings.hybrid is None and dense.settings.n == 0
    assert list(dense.table["system"]) == ["dense, query alone", "dense, passages", "untuned", "chosen"]
    assert dense.table["fusion"].isna().tolist() == [True, False, False, True]  # what has no effect is not shown


def test_the_chosen_settings_give_the_value_that_was_told(encoder, pocket_index, lexical, tmp_path):
    topics, qrels = TRAIN.get_topics(), TRAIN.get_qrels()
    system = ExpandR(RecordedExpander(two_passages(NOISE)), encoder, pocket_index, lexical=lexical)
    found = tune(system, topics, qrels, GRID, source={"split": "train"})
    found.settings.save(tmp_path / "s.json")
    opened = TunedSettings.load(tmp_path / "s.json")
    assert opened == found.settings and opened.source["split"] == "train" and opened.source["queries"] == 31
    _, means = evaluate(system.with_settings(opened).pipeline()(topics), qrels, parse_measures(["nDCG@10"]))
    assert means["nDCG@10"] == pytest.approx(opened.source["value"], abs=1e-9)


def test_a_large_grid_of_noise_does_not_win_by_chance():
    wins = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        alone, noise = draw.random((1, 60)), draw.random((300, 60))
        parts = np.arange(60) % 5
        choice = choose(np.vstack([alone, noise]), np.array([False] + [True] * 300), parts)
        assert noise.mean(axis=1).max() > alone.mean()  # the best of 300 looks better on the queries it was chosen on
        wins += choice.chosen > 0
    assert wins <= 6  # about one in six by the standard error


def test_held_out_values_are_of_queries_that_did_not_choose():
    values = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert held_out(values, np.array([0, 1]), np.array([0, 0, 1, 1])).tolist() == [0.0, 0.0, 0.0, 0.0]


def test_what_cannot_be_tuned(encoder, pocket_index):
    topics, qrels = TRAIN.get_topics(), TRAIN.get_qrels()
    system = ExpandR(noise(), encoder, pocket_index)
    with pytest.raises(ValueError, match="5 folds need as many judged queries, and there are 3"):
        tune(system, topics.head(3), qrels)
    with pytest.raises(ValueError, match="give an expander, not None"):
        tune(system.without_expansion(), topics, qrels)
    with pytest.raises(ValueError, match="has no index"):
        tune(ExpandR(noise(), encoder), topics, qrels)
    with pytest.raises(ValueError, match="unknown measure"):
        tune(system, topics, qrels, measure="nonsense")


@pytest.mark.parametrize("wrong", [{"fusion": (2.0,)}, {"repeats": (0,)}, {"weight": (0.5, 2.0)}, {"n": (-1,)}])
def test_grids_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Grid(**wrong)


def test_without_an_expander_the_weight_alone_is_tuned(encoder, pocket_index, lexical):
    system = ExpandR(None, encoder, pocket_index, lexical=lexical)
    found = tune(system, TRAIN.get_topics(), TRAIN.get_qrels(), Grid(n=()))
    assert found.settings.n == 0 and found.choice.gain == 0 and isinstance(found.table, pd.DataFrame)
    assert 0 <= found.settings.hybrid.weight < 0.5  # pocket's words differ from its queries'
