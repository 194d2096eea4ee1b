import importlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest
import yaml

from benchmarks import recipe_table
from pyterrier_expandr import ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.cli.train.recipe import _size, run
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.expansion.cache import GenerationCache
from pyterrier_expandr.training.data.examples import open_examples, split_examples
from pyterrier_expandr.training.expander import stages as expander_stages
from pyterrier_expandr.training.expander.train import ExpanderTrainingConfig
from pyterrier_expandr.training.preferences.candidates import (
    CandidateSet,
    CandidateSettings,
    read_candidates,
    write_candidates,
)
from pyterrier_expandr.training.recipe.plan import _billions, plan
from pyterrier_expandr.training.recipe.recipe import SYSTEMS, Evaluation, Recipe, read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.retriever.train import RetrieverTrainingConfig
from pyterrier_expandr.training.stage import build, in_order, status
from tests.command import expandr

RECIPES = Path(__file__).parents[3] / "recipes"

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
preferences: {threshold: -1.0, choose_truncated: true}
dpo: {learning_rate: 1.0e-2, epochs: 1, batch_size: 2, max_length: 192, eval_fraction: 0.25, evaluations: 1,
      report_prompts: 0}
expansion: {max_new_tokens: 6}
retriever: {base: demo, batch_size: 4, epochs: 1, max_length: 16, dev_fraction: 0, negatives: 0, learning_rate: 1.0e-3}
evaluation: {collections: [pocket], num_results: 20}
""")

#: imports everything once, then runs the recipe in children of which each is killed as soon as a new stage has begun
KILLER = """
import os, signal, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import faiss, peft, sentence_transformers, transformers, trl
from pyterrier_expandr.training.expander import dpo
from pyterrier_expandr.training.retriever import train as retriever
from pyterrier_expandr.training.recipe import read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.stage import build, in_order

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
    return tiny(**changes).experiment()


def tiny(**changes):
    from pyterrier_expandr.training.recipe.recipe import _recipe

    return RecipeStages(_recipe(TINY | changes, None))


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
    assert shown.count("ExpandR") == 11 and "iB" in shown


@pytest.mark.slow  # `make test-crash` kills this stage more often
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


def test_an_untrained_retriever_depends_on_no_training():
    def raw(changes, retriever):
        return tiny(**changes, retriever=TINY["retriever"] | retriever).retriever("raw", None).fingerprint

    same = raw({"seed": 7, "limit": 5, "split": "test"}, {"learning_rate": 1.0e-5, "epochs": 2, "batch_size": 3})
    assert same == raw({}, {})
    for decides in ({"base": "contriever"}, {"max_length": 8}, {"pooling": "cls"}, {"query_prompt": "query: "}):
        assert raw({}, decides) != same, decides


def test_a_changed_setting_runs_only_what_is_behind_it(finished, tmp_path):
    _, root, _ = finished
    file = write(tmp_path / "tiny.yaml", evaluation=TINY["evaluation"] | {"measures": ["RR@10"]})
    copied = shutil.copytree(root, tmp_path / "runs")
    said = expandr("train", "run", file, "--folder", copied)
    assert said.count("finished before") == 10 and "experiment" in next(s for s in said.splitlines() if "starts" in s)
    assert "pocket RR@10" in said


def test_a_changed_stage_writes_only_the_texts_that_none_wrote(finished, tmp_path):
    file, root, _ = finished
    copied = shutil.copytree(root, tmp_path / "runs")
    with closing(GenerationCache(copied / "generations.sqlite")) as texts:
        before = len(texts)
        recipe = read_recipe(file)
        more = RecipeStages(replace(recipe, candidates=replace(recipe.candidates, samples=4))).candidates()
        build([more], copied)
        queries = more.record(copied)["counts"]["queries"]
        assert len(texts) == before + queries, "of each query one more candidate, and the answers are there"
        before = len(texts)
        two = RecipeStages(replace(recipe, expansion=recipe.expansion | {"n": 2})).expansions(("self", "retriever"))
        with pytest.warns(UserWarning, match="were truncated at 6 tokens"):
            build([two], copied)
        assert len(texts) == before + two.record(copied)["counts"]["queries"], "and one more passage"
    drawn = [list(read_candidates(folder / "candidates.jsonl")) for folder in copied.glob("candidates-*")]
    three, four = sorted(drawn, key=lambda sets: len(sets[0].candidates))
    assert [(one.answer, one.candidates) for one in three] == [(one.answer, one.candidates[:3]) for one in four]


def beir(folder, corpus="a text") -> Path:
    """A BEIR folder of one document with the splits dev and test."""
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": corpus}))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a query"}\n{"_id": "p", "text": "another"}')
    (folder / "qrels" / "test.tsv").write_text("q\td\t1\n")
    (folder / "qrels" / "dev.tsv").write_text("p\td\t1\n")
    return folder


def rows(folder, text="a text") -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(json.dumps({"query": "q", "positive": text}))
    return folder


def last(**changes) -> str:
    return experiment(**changes).fingerprint


def test_every_field_decides_the_table(tmp_path):
    evaluation = {"collections": ["one"], "data": str(beir(tmp_path / "first" / "one").parent)}
    beir(tmp_path / "first" / "two", "another text")
    whole = {"data": str(rows(tmp_path / "rows")), "systems": [*SYSTEMS, "ExpandR student"], "evaluation": evaluation}
    of_evaluation = {
        "collections": ["two"],
        "data": str(beir(tmp_path / "second" / "one", "a third text").parent),
        "split": "dev",
        "measures": ["RR@10"],
        "num_results": 7,
        "samples": [1, 2],
    }
    of_recipe = {
        "data": str(rows(tmp_path / "other", "another text")),
        "llm": "me/model-7B",
        "retriever": TINY["retriever"] | {"learning_rate": 1.0e-4},
        "encoder": "contriever",
        "split": "dev",
        "min_relevance": 2,
        "ratios": {"rows": 0.5},
        "limit": 11,
        "parts": {"llm": 0.4, "retriever": 0.5},
        "small_lm": TINY["small_lm"] | {"layers": 2},
        "candidates": TINY["candidates"] | {"top_p": 0.8},
        "preferences": {"threshold": -0.5, "choose_truncated": True},
        "max_pairs": 3,
        "dpo": TINY["dpo"] | {"lora_r": 4},
        "rounds": 2,
        "expansion": {"max_new_tokens": 6, "prompt": "q2a {query}"},
        "student": {"epochs": 5},
        "systems": ["ExpandR"],
        "evaluation": evaluation | {"num_results": 8},
        "seed": 7,
    }
    assert set(of_evaluation) == {item.name for item in fields(Evaluation)}
    assert set(of_recipe) | {"adapt_retriever"} == {item.name for item in fields(Recipe)}
    before = last(**whole)
    assert last(**whole) == before
    for name, value in of_evaluation.items():
        assert last(**whole | {"evaluation": evaluation | {name: value}}) != before, name
    for name, value in of_recipe.items():
        assert last(**whole | {name: value}) != before, name
    two = whole | {"rounds": 2}  # a retriever between rounds needs a second one
    assert last(**two | {"adapt_retriever": True}) != last(**two)


def test_what_was_moved_is_not_done_again(tmp_path):
    def names(where):
        evaluation = {"collections": [str(where / "one")], "measures": ["RR@10"]}
        return stages(data=str(where / "rows"), evaluation=evaluation)

    beir(tmp_path / "here" / "one")
    rows(tmp_path / "here" / "rows")
    before = names(tmp_path / "here")
    after = names(shutil.copytree(tmp_path / "here", tmp_path / "there"))
    assert {name for name in before if before[name] != after[name]} == {"experiment"}  # the table names the collection
    for part, changed in (("one", "small-lm"), ("rows", "examples")):
        file = next((tmp_path / "there" / part).glob("[cr]*.jsonl"))
        file.write_text(file.read_text().replace("a text", "text"))
        assert names(tmp_path / "there")[changed] != before[changed]


def test_a_built_in_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = last(encoder="contriever")
    for name in ("pocket", "contriever", "small"):  # such as the folder of a run
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("{}")
    assert last(encoder="contriever") == before


def test_options_of_the_backend_decide_the_texts():
    def candidates(llm):
        return stages(llm=llm)["candidates"]

    plain = candidates("me/model-7B")
    assert candidates("hf:me/model-7B") == candidates("me/model-7B?batch_size=4") == plain
    others = ["?dtype=bfloat16", "?revision=abc", "?trust_remote_code=true"]
    found = {candidates("me/model-7B" + other) for other in others}
    found |= {candidates(f"vllm:me/model-7B?options={value}") for value in ('{"quantization": "awq"}', "{}")}
    assert len(found | {plain}) == 6


def test_the_commit_that_writes_is_the_commit_that_is_trained(tmp_path, monkeypatch):
    recipe = read_recipe(write(tmp_path / "tiny.yaml", llm="vllm:me/model-7B?revision=abc&trust_remote_code=true"))
    config = recipe.expander_config("base", "pairs", "out")
    assert (config.revision, config.trust_remote_code) == ("abc", True)
    assert recipe.backend_name(Path("merged")) == "vllm:merged?trust_remote_code=true"
    given = {}

    def merge(*folders, **options):
        given.update(options)
        raise InterruptedError

    monkeypatch.setattr(expander_stages, "merge_adapter", merge)
    (merging,) = RecipeStages(recipe).trained(("self",))
    with pytest.raises(InterruptedError):
        merging.run(tmp_path, tmp_path)
    assert (given["base"], given["revision"], given["trust_remote_code"]) == ("me/model-7B", "abc", True)
    with pytest.raises(ValueError, match="train another: merge it first"):
        read_recipe(write(tmp_path / "tiny.yaml", llm="me/model-7B?adapter=somewhere"))


def test_every_field_of_the_trainings_is_told_apart():
    settings = {s.name: s.settings for s in in_order([experiment()])}
    assert "losses" not in settings["dpo"], (
        "a finished run of the paper's loss, from before there were others, stays known"
    )
    other = {s.name: s.settings for s in in_order([experiment(dpo=TINY["dpo"] | {"losses": {"sft": 1}})])}
    assert other["dpo"] == settings["dpo"] | {"losses": {"sft": 1.0}}
    named = {s.name: s.settings for s in in_order([experiment(dpo=TINY["dpo"] | {"method": "sft-best"})])}
    assert named["dpo"] == other["dpo"], "the name says the same"
    indifferent = set(
        "base pairs out report_prompts report_tokens losses label_smoothing ld_alpha method online".split()
    )
    assert {item.name for item in fields(ExpanderTrainingConfig)} - indifferent <= settings["dpo"].keys()
    how = set("data out expansions dev_data mini_batch_size gradient_checkpointing tensorboard device".split())
    assert {item.name for item in fields(RetrieverTrainingConfig)} - how == settings["retriever-expandr"].keys()


def test_python_and_yaml_say_the_same(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "{data: pocket, llm: me/model-7B, retriever: {base: demo}, candidates: {temperatures: [1.0], samples: 3}, seed: 7}"
    )
    drawn = CandidateSettings(temperatures=(1.0,), samples=3)
    recipe = Recipe("pocket", "me/model-7B", {"base": "demo"}, candidates=drawn, seed=7)
    assert recipe == read_recipe(file) and recipe.preferences.candidates == 3
    assert recipe.candidates.seed == recipe.small_lm.seed == 7
    file.write_text(file.read_text().replace("samples: 3", "samples: 3, seed: 42"))
    assert read_recipe(file).candidates.seed == 42


def test_the_device_reaches_the_retriever(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    trained = RecipeStages(read_recipe(write(tmp_path / "tiny.yaml")), device="cuda").retriever("ft", None)
    with pytest.raises(ValueError, match="device='cuda' needs a GPU"):
        trained.run(tmp_path, tmp_path)


def test_no_trainer_sees_a_gpu_where_the_cpu_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run(write(tmp_path / "tiny.yaml"), device="cpu", dry_run=True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_4_bits_are_refused_before_the_first_stage(tmp_path):
    if importlib.import_module("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    file = write(tmp_path / "tiny.yaml", dpo={**TINY["dpo"], "load_in_4bit": True})
    run(file, dry_run=True)  # plans for another machine
    with pytest.raises(ValueError, match="load_in_4bit needs a CUDA device"):
        run(file)
    assert not (tmp_path / "runs").exists()


def test_a_threshold_that_drops_everything_is_said(tmp_path, minilm):
    texts = ("one text", "two texts", "three texts")
    write_candidates(tmp_path / "candidates.jsonl", [CandidateSet("1", "a query", "d", "gold", "answer", texts)])
    recipe = read_recipe(write(tmp_path / "tiny.yaml", preferences={"threshold": 1.5}))
    with pytest.raises(ValueError, match=r"none of the 1 queries gave a pair \(1 filtered\).*threshold 1.5"):
        RecipeStages(recipe).pairs(("self", "retriever")).run(tmp_path, tmp_path)


def test_each_system_searches_its_own_index_with_its_own_expansions(finished, tmp_path):
    _, root, _ = finished
    names = ["Query", "w/ Retriever Training", "ExpandR", "w/o Retriever Training", "ExpandR student"]
    file, copied = write(tmp_path / "tiny.yaml", systems=names), shutil.copytree(root, tmp_path / "runs")
    said = expandr("train", "run", file, "--folder", copied)
    assert said.count("finished before") == 10
    stages = RecipeStages(read_recipe(file))
    made = {
        "raw": stages.index(stages.retriever("raw", None)),
        "ft": stages.index(stages.retriever("ft", None)),
        "trained": stages.index(stages.retriever("expandr", ("self", "retriever"))),
        "texts": stages.test_expansions(("self", "retriever")),
        "student": stages.student(("self", "retriever")),
    }
    folders = {name: stage.folder(copied) for name, stage in made.items()}
    by_hand = {
        "Query": ("raw", None),
        "w/ Retriever Training": ("ft", None),
        "ExpandR": ("trained", "texts"),
        "w/o Retriever Training": ("raw", "texts"),
    }
    test = pocket("test")
    table = pd.read_csv(stages.experiment().folder(copied) / "table.csv", index_col=0)
    found = {}
    for index, texts in by_hand.values():
        opened = FaissIndex(folders[index] / "pocket.faiss")
        search = opened.query_encoder() >> opened.retriever(num_results=20)
        if texts is not None:
            search = RecordedExpander(folders[texts] / "pocket.jsonl") >> search
        measured = pt.Evaluate(search(test.get_topics()), test.get_qrels(), ["ndcg_cut_10"], perquery=False)
        found[index, texts] = measured["ndcg_cut_10"]
    opened = FaissIndex(folders["trained"] / "pocket.faiss")
    taught = ExpandREncoder(folders["student"] / "model", device="cpu").query_encoder() >> opened.retriever(20)
    measured = pt.Evaluate(taught(test.get_topics()), test.get_qrels(), ["ndcg_cut_10"], perquery=False)
    assert table.loc["ExpandR student", "pocket nDCG@10"] == pytest.approx(measured["ndcg_cut_10"])
    assert table.index.tolist() == names
    for name, made_of in by_hand.items():
        assert table.loc[name, "pocket nDCG@10"] == pytest.approx(found[made_of]), name
    assert len({round(found[made_of], 6) for made_of in by_hand.values()}) == len(by_hand), found


def test_rows_for_one_and_for_several_passages_share_the_passages(finished, tmp_path):
    _, root, _ = finished
    systems = ["Query", "ExpandR", "w/o LLM Training"]
    changes = {"systems": systems, "evaluation": TINY["evaluation"] | {"samples": [1, 3]}}
    file, copied = write(tmp_path / "tiny.yaml", **changes), shutil.copytree(root, tmp_path / "runs")
    expandr("train", "run", file, "--folder", copied)
    stages = RecipeStages(read_recipe(file))
    table = pd.read_csv(stages.experiment().folder(copied) / "table.csv", index_col=0)
    assert table.index.tolist() == ["Query", *(f"{name}, n={n}" for name in systems[1:] for n in (1, 3))]
    texts = stages.test_expansions(("self", "retriever")).folder(copied) / "pocket.jsonl"
    before = tiny().test_expansions(("self", "retriever")).folder(copied) / "pocket.jsonl"
    test = pocket("test")
    three, one = (RecordedExpander(file)(test.get_topics())["query_expansions"] for file in (texts, before))
    drawn = one.str.len() == 1  # where the one passage was empty, the first of three is another
    assert three.str.len().max() == 3 and three.str[0][drawn].tolist() == one.str[0][drawn].tolist() and drawn.sum() > 9
    index = FaissIndex(stages.index(stages.retriever("expandr", ("self", "retriever"))).folder(copied) / "pocket.faiss")
    search = RecordedExpander(texts, n=1) >> index.query_encoder() >> index.retriever(num_results=20)
    measured = pt.Evaluate(search(test.get_topics()), test.get_qrels(), ["ndcg_cut_10"], perquery=False)
    assert table.loc["ExpandR, n=1", "pocket nDCG@10"] == pytest.approx(measured["ndcg_cut_10"])
    results = Results.load(stages.experiment().folder(copied) / "results")
    rows = {row["system"]: row for row in recipe_table.rows_of(results)}
    assert list(rows) == table.index.tolist() and set(rows["Query"]) == {"system", *recipe_table.MEASURES}
    found, values = rows["ExpandR, n=3"], table["pocket nDCG@10"]
    for name, baseline in {"Query": "Query", "w/o LLM Training": "w/o LLM Training, n=3"}.items():
        assert found[name]["difference"] == pytest.approx(values["ExpandR, n=3"] - values[baseline])
        assert 0 < found[name]["p"] <= 1
    assert "w/o LLM Training" not in rows["w/o LLM Training, n=3"], "it is not compared with itself"
    times = recipe_table.seconds_of(stages.experiment().folder(copied))
    assert (times["retriever"]["stages"], times["experiment"]["stages"]) == (2, 1), "the folder has another experiment"
    shown = recipe_table.markdown(
        {"rows": list(rows.values()), "stages": times, "machine": {"cpus": 2, "processor": "x"}}
    )
    line = f"| ExpandR, n=3 | {values['ExpandR, n=3']:.4f} | "
    assert line in shown and f", {found['Query']['p']:.4f} | {found['w/o LLM Training']['difference']:+.4f}, " in shown


def test_ablations_share_what_they_can():
    by_name: dict[str, int] = {}
    for stage in in_order([experiment(systems=list(SYSTEMS))]):
        by_name[stage.name] = by_name.get(stage.name, 0) + 1
    assert by_name == {
        "examples": 1, "small-lm": 1, "candidates": 1, "pairs": 3, "dpo": 3, "merge": 3, "expansions": 4,
        "test-expansions": 4, "retriever-raw": 1, "retriever-ft": 1, "retriever-expandr": 4, "index": 6, "experiment": 1,
    }  # fmt: skip


def test_a_student_builds_on_expandr_and_its_settings_count():
    of_expandr = {stage.fingerprint for stage in in_order(tiny().of("ExpandR")) if stage.name != "test-expansions"}
    built = tiny(systems=["ExpandR student"])
    assert {stage.fingerprint for stage in in_order(built.of("ExpandR student"))} - of_expandr == {
        built.student(("self", "retriever")).fingerprint
    }
    assert plan(built.recipe).set_index("stage").loc["student", "texts"] == 9 + 9 + 3 * 9
    assert stages(systems=["ExpandR student"], student={"epochs": 5}) != stages(systems=["ExpandR student"])
    with pytest.raises(ValueError, match="student: unknown fields .'teacher'"):
        tiny(student={"teacher": "contriever"})


def test_systems_are_the_papers_rows():
    paper = json.loads((Path(__file__).parents[3] / "pyterrier_expandr" / "reports" / "paper.json").read_text())
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
    assert candidates[-4] == "3,300,000" and candidates[-2] == f"{3_300_000 * 512:,}"
    assert "GiB of weights or index in the largest stage" in said
    assert [line.split()[0] for line in said.splitlines()].count("index") == 6


def test_the_plan_counts_what_is_read_and_written():
    recipe = read_recipe(RECIPES / "pocket.yaml")
    table = plan(replace(recipe, systems=("ExpandR",))).set_index("stage")
    assert table.loc["index", "texts"] == 242 and table.loc["test-expansions", "texts"] == 37
    assert table.loc["candidates", "tokens_written"] == table.loc["candidates", "texts"] * 48
    assert table.loc["index", "memory_gib"] == pytest.approx(242 * 384 * 4 / 2**30)


def test_the_plan_is_from_above():
    recipe = read_recipe(RECIPES / "pocket.yaml")
    examples: dict[str, list] = {"llm": [], "retriever": []}
    for part, example in split_examples(open_examples("pocket", "train"), recipe.parts, recipe.seed):
        examples[part].append(example)
    positives = {part: sum(len(example.positives) for example in found) for part, found in examples.items()}
    assert positives["retriever"] > len(examples["retriever"]) and positives["llm"] > len(examples["llm"])
    table = plan(replace(recipe, systems=("ExpandR",))).set_index("stage")
    config = recipe.retriever_config("data", "out", "expandr", None)
    assert table.loc["retriever-expandr", "texts"] == positives["retriever"] * config.epochs * 3
    assert table.loc["small-lm", "texts"] == 242 + positives["llm"]
    # a fifth is held out, and measured before training, in the midst and after
    dpo, pairs = recipe.expander_config("base", "pairs", "out"), len(examples["llm"])
    held_out = -(-pairs // 5)
    training = 2 * (pairs - held_out) * dpo.epochs + 2 * held_out * 3
    generations = 2 * min(held_out, 4)
    assert table.loc["dpo", "texts"] == training + generations
    assert table.loc["dpo", "tokens_written"] == generations * 48
    assert table.loc["dpo", "tokens_read"] >= 2 * training * dpo.max_length


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen2.5-7B-Instruct", 7), ("mistralai/Mixtral-8x7B-Instruct-v0.1", 56), ("Qwen3-0.6B", 0.6)],
)
def test_the_size_in_a_name(name, billions):
    assert _billions(name) == pytest.approx(billions)


def test_each_stage_says_whom_it_is_for():
    found = plan(read_recipe(RECIPES / "paper-llama3-contriever.yaml"))
    said = found.groupby("stage")["for"].agg(list).to_dict()
    assert said["pairs"] == ["ExpandR, w/o Retriever Training", "w/o Self-Reward", "w/o Retriever Reward"]
    assert said["candidates"] == ["all but Query, w/ Retriever Training, w/o LLM Training"]
    assert said["examples"] == ["all but Query"] and said["experiment"] == ["all"]
    assert said["retriever-raw"] == ["Query, w/o Retriever Training"]


def test_sizes_are_written_for_people():
    assert [_size(count) for count in (512, 1500, 3 * 2**20, 1023 * 2**20)] == [
        "512 B",
        "1.46 KiB",
        "3 MiB",
        "0.999 GiB",
    ]


def test_the_recipe_for_scifact_reads(expandr_data, monkeypatch):
    recipe = read_recipe(RECIPES / "scifact-smollm2.yaml", seed=3)
    assert recipe.seed == recipe.candidates.seed == recipe.small_lm.seed == 3
    assert "dtype" not in f"{recipe.llm} {recipe.dpo}", "float32 on a CPU, bfloat16 on a GPU"
    assert recipe.data == str(expandr_data / "scifact") and list(recipe.systems) == list(SYSTEMS)
    paper = read_recipe(RECIPES / "scifact-smollm2-paper.yaml", seed=3)
    assert list(paper.systems) == list(SYSTEMS) and paper.preferences.pairs_per_query == 1
    theirs = ExpanderTrainingConfig("base", "pairs", "out").recorded()
    ours = paper.expander_config("base", "pairs", "out").recorded()
    sized = {"device_batch_size", "seed", "dtype"}
    assert {key for key in theirs if theirs[key] != ours[key]} <= sized, "the paper's DPO, but for what fits here"
    same = {"data", "llm", "parts", "candidates", "expansion", "evaluation"}
    assert all(getattr(paper, name) == getattr(recipe, name) for name in same)
    monkeypatch.delenv("EXPANDR_DATA")
    with pytest.raises(ValueError, match="scifact-smollm2.yaml: .*EXPANDR_DATA.* is not set"):
        read_recipe(RECIPES / "scifact-smollm2.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, r"recipe: unknown fields \['epochs'\]"),
        ({"dpo": {"learning_rat": 1.0}}, r"dpo: unknown fields \['learning_rat'\], the fields are .*'learning_rate'"),
        ({"dpo": {"base": "other"}}, r"dpo: unknown fields \['base'\]"),
        ({"dpo": {"learning_rate": "2e-5"}}, "dpo: learning_rate must be a number.*YAML"),
        ({"candidates": {"samples": 0}}, "candidates: "),
        ({"preferences": {"filter": "none"}}, "preferences: filter 'none' is unknown"),
        ({"preferences": {"rewards": ["self"]}}, r"preferences: unknown fields \['rewards'\]"),
        ({"retriever": {"base": "demo", "stage": "ft"}}, r"retriever: unknown fields \['stage'\]"),
        ({"expansion": {"samples": 2}}, r"expansion: unknown fields \['samples'\]"),
        ({"evaluation": {"collections": "pocket"}}, "evaluation: collections must be a list"),
        ({"systems": ["Best"]}, r"unknown systems \['Best'\]"),
        ({"parts": {"llm": 1.0}}, "parts must have sizes for llm and retriever"),
        (
            {"llm": "openai:model@http://localhost:1/v1"},
            r"is on a server, so it cannot be trained as \['ExpandR'\] require",
        ),
        ({"llm": "vlm:model"}, "there is no backend 'vlm'"),
        ({"llm": "/no/such/llm"}, "llm: there is no folder '/no/such/llm'"),
        ({"llm": None}, r"lacks the fields \['llm'\]"),
        ({"encoder": "/no/such/encoder"}, "encoder: there is no folder"),
        ({"retriever": {"base": None}}, "retriever: base must name a model"),
        ({"retriever": {"base": "contreiver"}}, "did you mean 'contriever'"),
        ({"dpo": 3}, "dpo must be a mapping"),
        ({"expansion": {"temperature": -1}}, "expansion: temperature must be 0 or more"),
        ({"expansion": {"n": 0}}, "expansion: n must be 1 or more"),
        ({"expansion": {"prompt": "nope"}}, "expansion: prompt 'nope'"),
        ({"evaluation": {"measures": ["foo"]}}, "evaluation: .*foo"),
        ({"evaluation": {"samples": [1, 0]}}, "evaluation: samples must be 1 or more"),
        ({"evaluation": {"samples": 4}}, "evaluation: samples must be a list of different numbers"),
        ({"evaluation": {"samples": [4, 4]}}, "evaluation: samples must be a list of different numbers"),
        ({"evaluation": {"num_results": 0}}, "evaluation: num_results must be 1 or more"),
        ({"preferences": {"threshold": "high"}}, "preferences: threshold must be a number"),
        ({"candidates": {"temperatures": 0.8}}, "candidates: temperatures must be a list of numbers"),
        ({"small_lm": {"layers": "x"}}, "small_lm: layers must be a whole number"),
        ({"systems": []}, "systems must be a list"),
        ({"parts": {"llm": 0.9, "retriever": 0.9}}, "sizes must be whole numbers, or fractions that sum to at most 1"),
        ({"parts": {"llm": 0, "retriever": 0.9}}, "parts must leave queries for both"),
        ({"min_relevance": 0}, "min_relevance must be 1 or more"),
        ({"limit": 0}, "limit must be 1 or more"),
        ({"limit": True}, "limit must be a whole number"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 2**32}, "seed must be below"),
        ({"data": 3}, "data must be a non-empty string"),
        ({"split": ["train"]}, "split must be a non-empty string"),
        ({"split": "trian"}, "has no split 'trian': choose one of"),
        ({"systems": ["ExpandR", "ExpandR"]}, r"systems \['ExpandR'\] are repeated"),
        ({"parts": {"llm": True, "retriever": 0.5}}, "parts: llm must be a number"),
        ({"ratios": {"nq": 0.5}}, "ratios apply to JSONL files"),
        ({"ratios": {"nq": 2}}, "ratios: nq must be at most 1"),
        (
            {"data": str(RECIPES), "ratios": {"nq": 0.5}},
            "files that do not exist",
        ),
        ({"dpo": {**TINY["dpo"], "max_length": 385}}, "dpo: max_length 385 exceeds the context of llm 'small', 384"),
        ({"dpo": {}}, "dpo: max_length 612 exceeds the context"),
        ({"dpo": {**TINY["dpo"], "precompute_reference": "no"}}, "dpo: precompute_reference must be true or false"),
        ({"dpo": {**TINY["dpo"], "epochs": float("inf")}}, "dpo: epochs must be finite"),
        ({"retriever": {**TINY["retriever"], "epochs": float("inf")}}, "retriever: epochs must be finite"),
        ({"candidates": {"max_new_tokens": 321}}, "candidates: max_new_tokens 321 plus 64 tokens of prompt exceeds"),
        ({"expansion": {"max_new_tokens": 321}}, "expansion: max_new_tokens 321 plus 64 tokens of prompt exceeds"),
        ({"llm": "me/model-7B?revison=abc"}, "has no option revison"),
        ({"llm": "me/model-7B?batch_size=many"}, "batch_size must be int"),
        ({"llm": "me/model-7B?revision=abc", "dpo": {"revision": "main"}}, "dpo: revision 'main' contradicts llm"),
        ({"llm": "me/model-7B", "dpo": {"trust_remote_code": True}}, "dpo: trust_remote_code True contradicts llm"),
        ({"evaluation": {"data": "/no/such/folder"}}, "evaluation: data: there is no folder"),
        ({"evaluation": {"collections": ["pocket"], "split": "tset"}}, "evaluation: .*has no split 'tset'"),
        ({"evaluation": {"collections": ["pockett"]}}, "evaluation: unknown collection 'pockett'"),
        ({"evaluation": {"collections": ["irds:no/such"]}}, "evaluation: ir-datasets has no dataset"),
    ],
)
def test_every_field_is_checked(tmp_path, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"tiny.yaml: .*{message}"):
        read_recipe(write(tmp_path / "tiny.yaml", **changes))


def test_no_recipe(tmp_path):
    (tmp_path / "broken.yaml").write_text("data: [")
    with pytest.raises(ValueError, match="broken.yaml: not valid YAML"):
        read_recipe(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match=r"lacks the fields \['data', 'llm', 'retriever'\]"):
        read_recipe(tmp_path / "empty.yaml")
    (tmp_path / "twice.yaml").write_text("data: pocket\ndpo:\n  beta: 0.1\n  beta: 0.2\n")
    with pytest.raises(ValueError, match="twice.yaml: line 4: the key 'beta' is repeated"):
        read_recipe(tmp_path / "twice.yaml")
    assert "expandr: error:" in expandr("train", "run", tmp_path / "missing.yaml", status=2)


def test_a_part_without_queries_is_refused(tmp_path):
    recipe = Recipe("pocket", "me/model-7B", {"base": "demo"}, limit=1)
    with pytest.raises(ValueError, match="no training query is left for"):
        RecipeStages(recipe).examples().run(tmp_path)


def test_the_backend_is_named_with_the_model():
    def stages_of(llm):
        recipe = Recipe("pocket", llm, {"base": "demo"}, systems=("ExpandR",))
        return recipe, {stage.name: stage for stage in in_order([RecipeStages(recipe).experiment()])}

    recipe, ours = stages_of("vllm:me/model-7B?dtype=float16&max_model_len=900")
    assert recipe.model == "me/model-7B" and recipe.backend_name(None) == recipe.llm
    assert recipe.backend_name(Path("merged")) == "vllm:merged?dtype=float16&max_model_len=900"
    _, theirs = stages_of("me/model-7B")
    assert ours["dpo"].settings == theirs["dpo"].settings and ours["dpo"].fingerprint != theirs["dpo"].fingerprint
    said = {"engine": "vllm", "options": {"dtype": "float16", "max_model_len": "900"}}
    assert ours["candidates"].settings == theirs["candidates"].settings | said
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
        fingerprints.add(RecipeStages(Recipe(str(file), "me/model-7B", {"base": "demo"})).examples().fingerprint)
    assert len(fingerprints) == 2


def test_variables_of_the_environment_stand_in_lists_too(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "pocket")
    file = write(tmp_path / "tiny.yaml", evaluation={"collections": ["$SOMEWHERE"]})
    assert read_recipe(file).evaluation.collections == ("pocket",)
