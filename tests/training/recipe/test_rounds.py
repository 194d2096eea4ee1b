"""Rounds of a recipe, and online methods as its stages."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pyterrier_expandr import ExpandREncoder, FaissIndex
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.training.expander.online.report import is_training_run
from pyterrier_expandr.training.preferences.candidates import read_candidates
from pyterrier_expandr.training.recipe.checks import check_machine
from pyterrier_expandr.training.recipe.plan import plan
from pyterrier_expandr.training.recipe.recipe import _recipe, read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.stage import build, in_order
from tests.command import expandr
from tests.encoders_tiny import build_bert
from tests.training.recipe.test_recipe import RECIPES, TINY, tiny, write

BOTH = ("self", "retriever")
GRPO = TINY["dpo"] | {"method": "grpo", "batch_size": 4, "online": {"group_size": 2, "weights": [1, 0.5]}}


def with_online(**values):
    return GRPO | {"online": GRPO["online"] | values}


def names(stages):
    return [stage.name for stage in in_order(stages)]


def test_a_round_starts_from_the_model_of_the_round_before():
    one, two = tiny(), tiny(rounds=2)
    first = one.trained(BOTH)[0]
    second = two.trained(BOTH)[0]
    assert second.name == "merge-2" and names([second])[-4:] == ["candidates-2", "pairs-2", "dpo-2", "merge-2"]
    assert {stage.fingerprint for stage in in_order([first])} < {stage.fingerprint for stage in in_order([second])}
    drawn = two.candidates(BOTH, 2)
    assert [stage.fingerprint for stage in drawn.inputs] == [one.examples().fingerprint, first.fingerprint]
    dpo = second.inputs[0]
    assert dpo.name == "dpo-2" and dpo.inputs[1].fingerprint == first.fingerprint, "the base is the model of round 1"
    assert tiny(rounds=1).experiment().fingerprint == one.experiment().fingerprint


def test_each_round_is_a_row_and_is_planned():
    two = tiny(rounds=2, systems=["Query", "ExpandR", "w/o LLM Training"])
    assert list(two.rows()) == ["Query", "ExpandR, round 1", "ExpandR", "w/o LLM Training"]
    table = plan(two.recipe)
    assert {"candidates", "candidates-2", "dpo-2"} <= set(table["stage"])
    texts = table.set_index("stage")["texts"]
    assert texts["candidates-2"] == texts["candidates"] > 0 and texts["pairs-2"] == texts["pairs"]
    assert set(table.set_index("stage").loc[["candidates", "merge-2"], "for"]) == {"ExpandR"}


def test_the_retriever_may_adapt_between_rounds():
    plain, adapted = tiny(rounds=2), tiny(rounds=2, adapt_retriever=True)
    (retriever,) = adapted.pairs(BOTH, 2).inputs[1:]
    assert retriever.fingerprint == plain.retriever("expandr", BOTH, 1).fingerprint
    assert "encoder" not in adapted.pairs(BOTH, 2).settings and "encoder" in plain.pairs(BOTH, 2).settings
    assert adapted.pairs(BOTH).fingerprint == plain.pairs(BOTH).fingerprint, "the first round is the same"
    with pytest.raises(ValueError, match="set rounds to 2 or more"):
        tiny(adapt_retriever=True)
    with pytest.raises(ValueError, match="rounds must be 1 or more"):
        tiny(rounds=0)


@pytest.mark.slow
def test_two_rounds_with_the_retriever_between_end_in_a_table(tmp_path, minilm):
    pytest.importorskip("faiss")
    file = write(tmp_path / "two.yaml", rounds=2, adapt_retriever=True)
    said = expandr("train", "run", file, "--folder", tmp_path / "runs")
    stages = RecipeStages(read_recipe(file))
    table = pd.read_csv(stages.experiment().folder(tmp_path / "runs") / "table.csv", index_col=0)
    assert list(table.index) == ["ExpandR, round 1", "ExpandR"] and "[17/17]" not in said.split("experiment")[0]
    again = expandr("train", "run", file, "--folder", tmp_path / "runs")
    assert again.count("finished before") == len(in_order([stages.experiment()]))


# --- online methods


def test_an_online_method_is_a_stage_that_takes_answers_or_examples():
    stages = tiny(dpo=GRPO)
    assert names(stages.trained(BOTH)) == ["examples", "small-lm", "answers", "grpo", "merge"]
    retriever = GRPO | {"online": {"rewards": ["retriever", "length:20"], "group_size": 2}}
    without = tiny(dpo=retriever)
    assert names(without.trained(BOTH)) == ["examples", "small-lm", "grpo", "merge"]
    config = without.recipe.expander_config("base", "data", "out")
    assert (config.online.max_new_tokens, config.online.temperature) == (6, 1.0), "as passages are drawn later"
    assert config.online.weights == (1.0, 1.0) and config.group_size == 2
    named = tiny(dpo=with_online(encoder="demo")).recipe.expander_config("base", "data", "out").online
    assert named.encoder == config.online.encoder == demo_encoder_folder()
    table = plan(stages.recipe).set_index("stage")
    queries = table.loc["answers", "texts"]
    assert table.loc["grpo", "texts"] >= 2 * (queries - 1) and table.loc["answers", "tokens_written"] == 6 * queries


def test_a_row_leaves_out_the_reward_that_it_is_named_by():
    recipe = tiny(dpo=GRPO, systems=["ExpandR", "w/o Self-Reward"]).recipe
    config = recipe.expander_config("base", "data", "out", ("retriever",))
    assert config.online.rewards == ("retriever",) and config.online.weights == (0.5,)
    only = GRPO | {"online": {"rewards": ["retriever"]}, "batch_size": 8}
    with pytest.raises(
        ValueError, match="without the reward 'self', but the rewards are .'retriever'.: leave that sys"
    ):
        tiny(dpo=only, systems=["w/o Self-Reward"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dpo": GRPO | {"batch_size": 3}}, "dpo: batch_size 3 must be a multiple of"),
        ({"dpo": GRPO | {"online": {"groups": 2}}}, "dpo: online: unknown fields .'groups'"),
        ({"dpo": GRPO | {"online": 3}}, "dpo: online must be a mapping"),
        ({"dpo": with_online(encoder="rubbish")}, "dpo: online: encoder: unknown encoder 'rubbish'"),
        ({"dpo": with_online(encoder="/no/such")}, "dpo: online: encoder: there is no folder '/no/such'"),
        ({"dpo": with_online(rewards="retriever")}, "dpo: online: rewards must be a list .*, got 'retriever'"),
        ({"dpo": with_online(rewards=None)}, "dpo: online: rewards must be a list .*, got None"),
        ({"dpo": with_online(weights=1)}, "dpo: online: weights must be a list of numbers, got 1"),
        ({"dpo": with_online(weights=[1])}, "dpo: online: give one weight for each of the 2 rewards, got 1"),
        (
            {"dpo": with_online(rewards=["self"], weights=None), "systems": ["w/o Self-Reward"]},
            "is to be trained without .'self'., and no other reward is named: leave that system out",
        ),
        ({"dpo": GRPO | {"online": {"index": "no", "qrels": "no", "group_size": 2}}}, "index: 'no' does not exist"),
        ({"dpo": GRPO, "rounds": 2, "adapt_retriever": True}, "but grpo takes none"),
        ({"dpo": TINY["dpo"] | {"online": {"encoder": "demo"}}}, "method 'dpo' takes no online settings"),
    ],
)
def test_online_settings_of_a_recipe_are_checked(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        _recipe(TINY | changes, None)


def test_candidates_need_room_only_where_they_are_drawn():
    long = {"candidates": {**TINY["candidates"], "max_new_tokens": 340}}
    tiny(dpo=with_online(rewards=["retriever"], weights=None), **long)
    with pytest.raises(ValueError, match="candidates: max_new_tokens 340 plus 64 tokens of prompt exceeds the context"):
        tiny(dpo=GRPO, **long)


def test_the_online_stages_run_and_end_in_a_model(tmp_path, minilm):
    (merged,) = tiny(dpo=GRPO).trained(BOTH)
    build([merged], tmp_path)
    found = {stage.name: stage.folder(tmp_path) for stage in in_order([merged])}
    answers = list(read_candidates(found["answers"] / "candidates.jsonl"))
    assert answers and all(one.candidates == () for one in answers)
    record = json.loads((found["grpo"] / "adapter" / "expander.json").read_text())
    assert record["settings"]["online"]["rewards"] == ["self", "retriever"] and record["settings"]["method"] == "grpo"
    assert record["pairs"]["training"] + record["pairs"]["held out"] == len(answers)
    assert (found["merge"] / "model" / "config.json").is_file()
    assert json.loads(Path(found["grpo"] / "adapter" / "evaluations.json").read_text())[0]["step"] == 0
    assert is_training_run(found["grpo"]) and not is_training_run(found["answers"])


def test_what_the_rewards_lack_is_said_before_the_llm_writes_answers(tmp_path, minilm):
    pytest.importorskip("faiss")
    (tmp_path / "qrels.tsv").write_text("no-such-query\tastro1\t1\n")
    encoder = ExpandREncoder(minilm, device="cpu")
    (encoder.doc_encoder() >> FaissIndex(tmp_path / "index")).index([{"docno": "astro1", "text": "a star"}])
    online = GRPO["online"] | {"index": str(tmp_path / "index"), "qrels": str(tmp_path / "qrels.tsv")}
    stages = tiny(dpo=GRPO | {"online": online}, encoder=str(minilm))
    check_machine(stages.recipe)
    build_bert(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="was made by .*, but the reward encoder is '.*other': use one encoder"):
        check_machine(tiny(dpo=with_online(**online | {"encoder": str(tmp_path / "other")})).recipe)
    with pytest.raises(ValueError, match="the judgments have no relevant document for"):
        build(stages.trained(BOTH), tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("answers*/**/*.sqlite")), "nothing was written"


def test_the_recipe_for_grpo_is_planned():
    table = plan(read_recipe(RECIPES / "paper-qwen-grpo.yaml")).set_index("stage")
    texts = 312 * 256 + 200 * (1 + 10 + 8)  # a tenth of 3,118 steps is rounded up
    assert table.loc["grpo", "texts"] == texts and table.loc["grpo", "tokens_written"] == texts * 512
    assert table.loc["grpo", "memory_gib"] == pytest.approx(2 * 7 * 2e9 / 2**30), "vLLM holds the weights again"
    assert "answers" not in table.index and "candidates" not in table.index
