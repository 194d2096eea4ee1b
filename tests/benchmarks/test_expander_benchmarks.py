import json

import numpy as np
import pytest

from benchmarks import dpo_effect, reward_validity, scifact_small
from benchmarks.report import RESULTS
from pyterrier_expandr.reports.paper import PATH as PAPER
from pyterrier_expandr.training.preferences.candidates import CandidateSet
from pyterrier_expandr.training.recipe.recipe import SYSTEMS


def test_an_extract_is_the_documents_most_similar_sentences_in_order(encoder):
    document = "Cats sleep a lot. Air scatters blue light. Bread is baked. The sky looks blue by day. Stones are hard."
    found = reward_validity.extract("why is the sky blue", document, encoder, sentences=2)
    assert found == "Air scatters blue light. The sky looks blue by day."


def test_a_reward_that_knows_the_measure_is_judged_best():
    values = np.random.default_rng(0).random((40, 5))
    right, wrong, unrelated = (
        reward_validity.judge(rewards, values) for rewards in (values, -values, np.roll(values, 7, axis=0))
    )
    assert right["chosen"] == pytest.approx(values.max(axis=1).mean())
    assert right["rejected"] == pytest.approx(values.min(axis=1).mean())
    assert right["random"] == pytest.approx(values.mean())
    assert right["rank correlation"] == pytest.approx(1) and wrong["rank correlation"] == pytest.approx(-1)
    assert right["p chosen, random"] < 0.001 < 0.05 < unrelated["p chosen, random"]
    assert wrong["chosen"] == right["rejected"]


def test_the_recorded_rewards_choose_better_than_chance():
    result = json.loads((RESULTS / "reward_validity.json").read_text())
    assert result["queries"] == 300 and result["candidates"] == 7
    for row in result["rows"]:
        assert row["rejected"] < row["random"] < row["chosen"] <= result["best passage"]
    paper = next(row for row in result["rows"] if row["reward"] == "both" and row["answer"] == "without document")
    assert paper["p chosen, random"] < 0.05 and paper["p chosen, rejected"] < 0.05


def test_the_documentation_says_what_the_results_say():
    text = (RESULTS.parent / "expander_training.md").read_text(encoding="utf-8")
    result = json.loads((RESULTS / "reward_validity.json").read_text())
    assert reward_validity.markdown(result) in text, "copy what python -m benchmarks.reward_validity prints"
    bare = next(row for row in result["rows"] if row["reward"] == "self" and row["answer"] == "without document")
    assert f"(p = {bare['p random, rejected']:.3f})" in text
    assert f"alone is {result['query alone']:.3f}, and {result['best passage']:.3f} if" in text
    for retriever, rows in json.loads(PAPER.read_text())["table3_ablation_ndcg10"].items():
        for column in ("Avg", "SciFact"):
            values = [rows[name][column] for name in ("ExpandR", "w/o Self-Reward")]
            assert (
                f"{retriever} {values[0]} with, {values[1]} without" in text
                or f"{retriever} {values[0]} and {values[1]}" in text
            )


def sets(texts):
    query, gold = "why is the sky blue", "Air scatters short waves of light more than long ones, so the sky is blue."
    return [CandidateSet("1", query, "d1", gold, "Because air scatters blue light.", tuple(row)) for row in texts]


def test_a_model_that_writes_what_is_rewarded_ranks_first(encoder):
    good = ["Air scatters blue light most, so the sky is blue.", "Short waves of light are scattered by air."]
    bad = ["Bread is baked from flour.", "The match ended without goals."]
    values = dpo_effect.measure({"trained": sets([good]), "base": sets([bad]), "base again": sets([bad])}, encoder)
    assert values["similarity trained"] > values["similarity base"] + 0.3
    assert values["similarity base"] == values["similarity base again"]
    assert values["rank trained"] == [1.5], "places 1 and 2 of 4"
    assert values["rank base again"] == [3], "of equal texts the base's is ahead: places 2 and 4"


def test_an_empty_passage_is_similar_to_nothing(encoder):
    values = dpo_effect.measure(
        {"trained": sets([["", ""]]), "base": sets([["Blue.", "Sky."]]), "base again": sets([["Sky.", ""]])}, encoder
    )
    assert values["similarity trained"] == [0] and values["rank trained"] == [3.5]


def test_a_gain_by_length_alone_is_gone_when_shortened(encoder):
    short, long = "Bread is baked", "Bread is baked because air scatters short waves of light, so the sky is blue."
    values = dpo_effect.measure(
        {"trained": sets([[long]]), "base": sets([[short]]), "base again": sets([[""]])}, encoder
    )
    assert values["similarity trained"] > values["similarity base"] + 0.3
    assert values["similarity shortened"] == values["similarity base"]
    assert (values["words trained"], values["words base"], values["words shortened"]) == (15, 3, 3)


def test_summary_tells_effect_from_noise():
    draw = np.random.default_rng(1)
    base = draw.random(200)
    values = {
        "similarity trained": base + 0.05 + 0.1 * draw.standard_normal(200),
        "similarity base": base,
        "similarity base again": base + 0.1 * draw.standard_normal(200),
        "similarity shortened": base - 0.05 + 0.1 * draw.standard_normal(200),
        "rank trained": 8.0 + draw.standard_normal(200),
        "rank base again": 8.5 + draw.standard_normal(200),
    }
    found = dpo_effect.summary(values, 8)
    assert found["gain"] == pytest.approx(0.05, abs=0.02) and found["gain p"] < 0.01 < 0.05 < found["noise p"]
    assert found["gain shortened"] == pytest.approx(-0.05, abs=0.02) and found["gain shortened p"] < 0.01
    assert found["rank trained"] == pytest.approx(8, abs=0.2) and found["rank p"] < 0.01 < 0.05 < found["rank noise p"]


def test_the_whole_loop_as_recorded_and_as_the_documentation_tells_it():
    result = json.loads((RESULTS / "scifact_small.json").read_text())
    assert {row["system"] for row in result["table"]} == set(SYSTEMS), "all rows of Table 3"
    *seeds, together = result["effect"]["rows"]
    assert len(seeds) >= 3 and result["effect"]["settings"]["samples"] >= 8 and result["effect"]["queries"] == 300
    assert together["gain"] > 0 and together["gain p"] < 0.05 < together["noise p"]
    for row in seeds:
        training = row["training"]
        before, after, held_out = training["before"], training["after"], training["pairs"]["held out"]
        assert before["loss"] == pytest.approx(np.log(2), abs=1e-6) and after["loss"] < before["loss"]
        right = after["reward_accuracy"] * held_out
        assert before["reward_accuracy"] is None and right == pytest.approx(round(right), abs=1e-4), "a share of pairs"
    text = (RESULTS.parent / "expander_training.md").read_text(encoding="utf-8")
    assert scifact_small.markdown(result) in text, "copy what python -m benchmarks.scifact_small prints"


def test_attempts_that_train_online_have_valid_settings():
    from benchmarks.expander_effect import ATTEMPTS, COMMON
    from pyterrier_expandr.training.expander.config import ExpanderTrainingConfig

    online = {name: one for name, one in ATTEMPTS.items() if "online" in one.training}
    assert {one.training["method"] for one in online.values()} == {"grpo", "online-dpo"}
    for attempt in online.values():
        training = attempt.training | {"online": {"encoder": "contriever", **attempt.training["online"]}}
        config = ExpanderTrainingConfig("base", "queries.jsonl", "out", **{**COMMON, **training})
        assert config.batch_size % config.group_size == 0 and config.group_size in (2, 4)
