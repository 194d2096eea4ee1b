import json

import numpy as np
import pytest

from benchmarks import reward_validity
from benchmarks.report import RESULTS
from pyterrier_expandr.reports.paper import PATH as PAPER


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
    ablations = json.loads(PAPER.read_text())["table3_ablation_ndcg10"]
    flat = " ".join(text.split())
    for column, said in (
        ("Avg", "from {} to {} (Contriever) and from {} to {} (AnchorDR)"),
        ("SciFact", "from {} to {} and from {} to {}"),
    ):
        trained = [ablations[of][name][column] for of in ablations for name in ("w/o LLM Training", "ExpandR")]
        assert said.format(*trained) in flat
    for retriever, rows in ablations.items():
        for column in ("Avg", "SciFact"):
            values = [rows[name][column] for name in ("ExpandR", "w/o Self-Reward")]
            assert (
                f"{retriever} {values[0]} with, {values[1]} without" in text
                or f"{retriever} {values[0]} and {values[1]}" in text
            )


def test_attempts_that_train_online_have_valid_settings():
    from benchmarks.expander_attempts import ATTEMPTS, COMMON
    from pyterrier_expandr.training.expander.config import ExpanderTrainingConfig

    online = {name: one for name, one in ATTEMPTS.items() if "online" in one.training}
    assert {one.training["method"] for one in online.values()} == {"grpo", "online-dpo"}
    for attempt in online.values():
        settings = {"encoder": "contriever", "index": "i", "qrels": "q", **attempt.training["online"]}
        training = attempt.training | {"online": settings}
        config = ExpanderTrainingConfig("base", "queries.jsonl", "out", **{**COMMON, **training})
        assert config.batch_size % config.group_size == 0 and config.group_size in (2, 4, 8)
