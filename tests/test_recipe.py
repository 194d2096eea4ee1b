import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pyterrier_expandr.training.recipe import SYSTEMS, Recipe, read_recipe
from pyterrier_expandr.training.recipe_plan import plan
from pyterrier_expandr.training.recipe_stages import RecipeStages
from pyterrier_expandr.training.stages import in_order, status
from tests.test_cli import expandr

RECIPES = Path(__file__).parent.parent / "recipes"

#: the whole loop in seconds
TINY = yaml.safe_load("""
data: pocket
llm: small
encoder: demo
limit: 12
systems: [ExpandR]
small_lm: {vocab_size: 300, hidden_size: 16, layers: 1, heads: 2, context: 384, block: 64, passage_tokens: 32,
           text_epochs: 0.2, pair_epochs: 1}
candidates: {temperatures: [1.0], samples: 3, max_new_tokens: 6}
preferences: {threshold: -1.0}
dpo: {learning_rate: 1.0e-2, epochs: 1, batch_size: 2, max_length: 192, eval_fraction: 0.25, evaluations: 1,
      report_prompts: 0}
expansion: {max_new_tokens: 6}
retriever: {base: demo, batch_size: 4, epochs: 1, max_length: 16, dev_fraction: 0, negatives: 0}
evaluation: {collections: [pocket], num_results: 20}
""")

#: imports everything once, then runs the recipe in children of which each is killed as soon as a new stage has begun
KILLER = """
import os, signal, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import faiss, peft, sentence_transformers, transformers, trl
from pyterrier_expandr.training import dpo, retriever
from pyterrier_expandr.training.recipe import read_recipe
from pyterrier_expandr.training.recipe_stages import RecipeStages
from pyterrier_expandr.training.stages import build, in_order

recipe, root = read_recipe(sys.argv[1]), Path(sys.argv[2])
last = RecipeStages(recipe).experiment()
for stage in in_order([last]):
    child = os.fork()
    if child == 0:
        os.nice(19)  # the killer shall be in time on a busy machine too
        build([last], root)
        os._exit(0)
    while not stage.folder(root).exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended before " + stage.name
        time.sleep(0.002)
    time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed in" if stage.record(root) is None else "killed after", stage.name, flush=True)
build([last], root)
"""


def write(path, **changes) -> Path:
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, minilm):
    """The tiny recipe's file and folder after `expandr train run`, and what that said."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("recipe")
    file = write(folder / "tiny.yaml")
    return file, folder / "runs", expandr("train", "run", file, "--folder", folder / "runs")


def stages(**changes):
    return {stage.name: stage.fingerprint for stage in in_order([experiment(**changes)])}


def experiment(**changes):
    from pyterrier_expandr.training.recipe import _recipe

    return RecipeStages(_recipe(TINY | changes, None)).experiment()


def test_the_whole_loop_runs_and_ends_in_a_table(finished):
    file, root, said = finished
    assert "[1/11] examples" in said and "ExpandR" in said.splitlines()[-1]
    table = status([RecipeStages(read_recipe(file)).experiment()], root).set_index("stage")
    expected = (
        "examples small-lm candidates pairs dpo merge expansions retriever-expandr index test-expansions experiment"
    )
    assert set(table.index) == set(expected.split())
    assert (table["state"] == "finished").all() and (table["bytes"] > 0).all()
    assert table.loc["index", "counts"] == "documents 242"
    assert "pairs" in table.loc["dpo", "counts"] and "effect" in table.loc["merge", "counts"]


def test_a_second_run_does_nothing_and_shows_the_same(finished):
    file, root, said = finished
    again = expandr("train", "run", file, "--folder", root)
    assert again.count("finished before") == 11 and again.splitlines()[-2:] == said.splitlines()[-2:]
    shown = expandr("train", "status", file, "--folder", root)
    assert shown.count("finished") == 11 and "documents 242" in shown


def test_killed_in_every_stage_it_ends_in_the_same_table(finished, tmp_path):
    file, root, _ = finished
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(file), str(tmp_path)], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("killed") == 11 and done.stdout.count("killed in") >= 6, done.stdout
    last = RecipeStages(read_recipe(file)).experiment()
    for stage in in_order([last]):
        left, right = stage.folder(root), stage.folder(tmp_path)
        for name in (
            "table.csv",
            "pairs.jsonl",
            "expansions.jsonl",
            "candidates.jsonl",
            "adapter/adapter_model.safetensors",
        ):
            if (left / name).exists():
                assert (left / name).read_bytes() == (right / name).read_bytes(), f"{stage.name}: {name}"
    assert (last.folder(root) / "table.csv").is_file()


@pytest.mark.parametrize(
    ("changes", "unchanged"),
    [
        ({"seed": 7}, ""),
        ({"candidates": {**TINY["candidates"], "samples": 4}}, "examples small-lm"),
        ({"preferences": {"threshold": 0.1}}, "examples small-lm candidates"),
        ({"dpo": {**TINY["dpo"], "beta": 0.2}}, "examples small-lm candidates pairs"),
        ({"expansion": {"max_new_tokens": 7}}, "examples small-lm candidates pairs dpo merge"),
        (
            {"retriever": {**TINY["retriever"], "epochs": 2}},
            "examples small-lm candidates pairs dpo merge expansions test-expansions",
        ),
        (
            {"evaluation": {**TINY["evaluation"], "measures": ["RR@10"]}},
            "examples small-lm candidates pairs dpo merge expansions test-expansions retriever-expandr index",
        ),
    ],
)
def test_a_changed_setting_changes_its_stage_and_those_behind(changes, unchanged):
    before, after = stages(), stages(**changes)
    assert {name for name in before if before[name] == after[name]} == set(unchanged.split())


def test_a_changed_setting_runs_only_what_is_behind_it(finished, tmp_path):
    _, root, _ = finished
    file = write(tmp_path / "tiny.yaml", evaluation=TINY["evaluation"] | {"measures": ["RR@10"]})
    copied = shutil.copytree(root, tmp_path / "runs")
    said = expandr("train", "run", file, "--folder", copied)
    assert said.count("finished before") == 10 and "experiment" in next(s for s in said.splitlines() if "starts" in s)
    assert "pocket RR@10" in said


def test_ablations_share_what_they_can():
    by_name: dict[str, int] = {}
    for stage in in_order([experiment(systems=list(SYSTEMS))]):
        by_name[stage.name] = by_name.get(stage.name, 0) + 1
    assert by_name == {
        "examples": 1, "small-lm": 1, "candidates": 1, "pairs": 3, "dpo": 3, "merge": 3, "expansions": 4,
        "test-expansions": 4, "retriever-raw": 1, "retriever-ft": 1, "retriever-expandr": 4, "index": 6, "experiment": 1,
    }  # fmt: skip


def test_systems_are_the_papers_rows():
    paper = json.loads((Path(__file__).parent.parent / "pyterrier_expandr" / "data" / "paper.json").read_text())
    assert list(SYSTEMS) == list(paper["table3_ablation_ndcg10"]["Contriever"])
    rewards = {name: system.rewards for name, system in SYSTEMS.items()}
    assert rewards["w/o Self-Reward"] == ("retriever",) and rewards["w/o Retriever Reward"] == ("self",)
    assert rewards["w/o LLM Training"] == () and rewards["Query"] is None


@pytest.mark.parametrize("name", ["paper-llama3-anchordr", "paper-llama3-contriever", "paper-qwen-contriever"])
def test_the_papers_recipes_have_the_papers_values(name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert recipe.candidates.count == 32 and recipe.parts == {"llm": 100_000, "retriever": 708_740}
    dpo = recipe.expander_config("base", "pairs", "out")
    assert (dpo.beta, dpo.lora_r, dpo.learning_rate, dpo.max_length) == (0.1, 8, 2e-5, 612)
    retriever = recipe.retriever_config("data", "out", "ft", None)
    assert (retriever.batch_size, retriever.learning_rate, retriever.epochs) == (1024, 1e-5, 3)
    candidates = plan(recipe).set_index("stage").loc["candidates"]
    assert candidates["texts"] == 3_300_000 and candidates["tokens_written"] == 3_300_000 * 512


def test_a_dry_run_prints_the_plan():
    said = expandr("train", "run", RECIPES / "paper-llama3-anchordr.yaml", "--dry-run")
    candidates = next(line.split() for line in said.splitlines() if "candidates" in line)
    assert candidates[2] == "3,300,000" and candidates[4] == f"{3_300_000 * 512:,}"
    assert "GiB in the largest stage" in said and said.count("index") == 6


def test_the_plan_counts_what_is_read_and_written():
    recipe = read_recipe(RECIPES / "pocket.yaml")
    table = plan(replace(recipe, systems=("ExpandR",))).set_index("stage")
    assert table.loc["index", "texts"] == 242 and table.loc["test-expansions", "texts"] == 37
    assert table.loc["candidates", "tokens_written"] == table.loc["candidates", "texts"] * 48
    assert table.loc["index", "memory_gib"] == pytest.approx(242 * 384 * 4 / 2**30)


def test_the_recipe_for_scifact_reads(expandr_data, monkeypatch):
    recipe = read_recipe(RECIPES / "scifact-small.yaml", seed=3)
    assert recipe.seed == recipe.candidates.seed == recipe.small_lm.seed == 3
    assert recipe.data == str(expandr_data / "scifact") and len(recipe.systems) == 7
    monkeypatch.delenv("EXPANDR_DATA")
    with pytest.raises(ValueError, match="scifact-small.yaml: .*EXPANDR_DATA.* is not set"):
        read_recipe(RECIPES / "scifact-small.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, r"recipe: unknown \['epochs'\]"),
        ({"dpo": {"learning_rat": 1.0}}, r"dpo: unknown \['learning_rat'\], known are .*'learning_rate'"),
        ({"dpo": {"base": "other"}}, r"dpo: unknown \['base'\]"),
        ({"dpo": {"learning_rate": "2e-5"}}, "dpo: learning_rate must be a number.*YAML"),
        ({"candidates": {"samples": 0}}, "candidates: "),
        ({"preferences": {"filter": "none"}}, "preferences: filter 'none' is unknown"),
        ({"preferences": {"rewards": ["self"]}}, r"preferences: unknown \['rewards'\]"),
        ({"retriever": {"base": "demo", "stage": "ft"}}, r"retriever: unknown \['stage'\]"),
        ({"expansion": {"samples": 2}}, r"expansion: unknown \['samples'\]"),
        ({"evaluation": {"collections": "pocket"}}, "evaluation: collections must be a list"),
        ({"systems": ["Best"]}, r"systems \['Best'\] are unknown"),
        ({"parts": {"llm": 1.0}}, "parts must have sizes for llm and retriever"),
        (
            {"llm": "openai:model@http://localhost:1/v1"},
            r"is on a server and cannot be trained, which \['ExpandR'\] need",
        ),
        ({"llm": "vlm:model"}, "there is no engine 'vlm'"),
        ({"llm": "/no/such/llm"}, "llm: there is no folder '/no/such/llm'"),
        ({"llm": None}, r"lacks \['llm'\]"),
        ({"encoder": "/no/such/encoder"}, "encoder: there is no folder"),
        ({"retriever": {"base": None}}, "retriever: base must name a model"),
        ({"retriever": {"base": "contreiver"}}, "did you mean 'contriever'"),
        ({"dpo": 3}, "dpo must be a mapping"),
        ({"expansion": {"temperature": -1}}, "expansion: temperature must be 0 or more"),
        ({"expansion": {"n": 0}}, "expansion: n must be a whole number from 1"),
        ({"expansion": {"prompt": "nope"}}, "expansion: prompt 'nope'"),
        ({"evaluation": {"measures": ["foo"]}}, "evaluation: .*foo"),
        ({"evaluation": {"num_results": 0}}, "evaluation: num_results must be a whole number from 1"),
        ({"preferences": {"threshold": "high"}}, "preferences: threshold must be a number"),
        ({"candidates": {"temperatures": 0.8}}, "candidates: temperatures must be a list of numbers"),
        ({"small_lm": {"layers": "x"}}, "small_lm: layers must be a whole number"),
        ({"systems": []}, "systems must be a list"),
        ({"parts": {"llm": 0.9, "retriever": 0.9}}, "sizes must be fractions up to 1 in sum"),
        ({"parts": {"llm": 0, "retriever": 0.9}}, "parts must leave queries to both"),
        ({"min_relevance": 0}, "min_relevance must be a whole number from 1"),
        ({"limit": 0}, "limit must be a whole number from 1"),
    ],
)
def test_every_field_is_checked(tmp_path, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"tiny.yaml: .*{message}"):
        read_recipe(write(tmp_path / "tiny.yaml", **changes))


def test_no_recipe(tmp_path):
    (tmp_path / "broken.yaml").write_text("data: [")
    with pytest.raises(ValueError, match="broken.yaml is no YAML"):
        read_recipe(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match=r"lacks \['data', 'llm', 'retriever'\]"):
        read_recipe(tmp_path / "empty.yaml")
    assert "expandr: error:" in expandr("train", "run", tmp_path / "missing.yaml", status=2)


def test_a_part_without_queries_is_refused(tmp_path):
    recipe = Recipe("pocket", "small", {"base": "demo"}, limit=1)
    with pytest.raises(ValueError, match="leaves no query for"):
        RecipeStages(recipe).examples().run(tmp_path)


def test_the_engine_is_named_with_the_model():
    def stages_of(llm):
        recipe = Recipe("pocket", llm, {"base": "demo"}, systems=("ExpandR",))
        return recipe, {stage.name: stage for stage in in_order([RecipeStages(recipe).experiment()])}

    recipe, ours = stages_of("vllm:me/model-7B?dtype=float16&seed=1")
    assert recipe.model == "me/model-7B" and recipe.engine_name(None) == recipe.llm
    assert recipe.engine_name(Path("merged")) == "vllm:merged?dtype=float16&seed=1"
    _, theirs = stages_of("me/model-7B")
    assert ours["dpo"].settings == theirs["dpo"].settings and ours["dpo"].fingerprint != theirs["dpo"].fingerprint
    assert ours["candidates"].settings == theirs["candidates"].settings | {"engine": "vllm"}
    untrained = Recipe("pocket", "openai:m@http://localhost:1/v1", {"base": "demo"}, systems=("w/o LLM Training",))
    assert untrained.model == "m@http://localhost:1/v1"


def test_rewards_keep_their_weights_in_ablations():
    changes = {"systems": ["ExpandR", "w/o Self-Reward"], "preferences": {"threshold": -1.0, "weights": [2, 3]}}
    found = {
        tuple(s.settings["rewards"]): s.settings["weights"]
        for s in in_order([experiment(**changes)])
        if s.name == "pairs"
    }
    assert found == {("self", "retriever"): [2, 3], ("retriever",): [3]}


def test_a_changed_file_is_noticed(tmp_path):
    file = tmp_path / "rows.jsonl"
    fingerprints = set()
    for text in ("text a", "text b"):
        file.write_text(f'{{"query": "q", "positive": "{text}"}}\n')
        fingerprints.add(RecipeStages(Recipe(str(file), "small", {"base": "demo"})).examples().fingerprint)
    assert len(fingerprints) == 2


def test_variables_of_the_environment_stand_in_lists_too(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "pocket")
    file = write(tmp_path / "tiny.yaml", evaluation={"collections": ["$SOMEWHERE"]})
    assert read_recipe(file).evaluation.collections == ("pocket",)
