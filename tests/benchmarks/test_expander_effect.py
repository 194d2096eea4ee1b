import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import expander_accuracy, recipe_table
from benchmarks import expander_effect as effect
from benchmarks import expander_laboratory as laboratories
from benchmarks import expander_table as table
from benchmarks.expander_attempts import ATTEMPTS, COMMON, TEACHERS, Attempt
from benchmarks.expander_laboratory import Laboratory, Model, Part
from benchmarks.expander_table import Outcome
from benchmarks.report import RESULTS
from pyterrier_expandr.common import hardware
from pyterrier_expandr.training.data.examples import TrainingExample
from pyterrier_expandr.training.expander.config import ExpanderTrainingConfig
from pyterrier_expandr.training.expander.train import RECORD
from pyterrier_expandr.training.preferences.pair_files import read_pairs


def values(nDCG, seed=0):
    draw = np.random.default_rng(seed)
    rest = {"R@100": draw.random(len(nDCG)), "weight 0.7": draw.random(len(nDCG)), "words": np.full(len(nDCG), 12.0)}
    return {"nDCG@10": nDCG, "similarity": draw.random(len(nDCG)), **rest}


def test_a_row_says_what_training_gained_and_how_sure_that_is():
    draw = np.random.default_rng(1)
    base = draw.random(200)
    better = base + 0.05 + 0.1 * draw.standard_normal(200)
    row = table.row_of(Outcome(values(better), base + 0.02, base), values(base, seed=2), values(better))
    assert row["gain"] == pytest.approx(0.05, abs=0.02) and row["gain p"] < 0.001
    assert row["gain interval"][0] < row["gain"] < row["gain interval"][1] and row["gain interval"][0] > 0
    assert (row["to query alone"], row["to query alone p"]) == (0, 1)
    assert row["equal lengths"]["gain"] == pytest.approx(0.02) and row["equal lengths"]["p"] < 0.001
    assert row["words"] == 12
    similar = row["compared"]["similarity"]  # of random numbers alike
    assert abs(similar["gain"]) < 0.1 and similar["interval"][0] < 0 < similar["interval"][1] and similar["p"] > 0.01


def test_rows_of_several_runs_are_one_table_and_a_repeated_one_is_replaced():
    on = {"queries": "SciFact", "dtype": "float32"}
    old = [on | {"attempt": "base"}, on | {"attempt": "paper", "seed": 1, "gain": 0.1}]
    new = [on | {"attempt": "paper", "seed": 2}, on | {"attempt": "paper", "seed": 1}]
    assert table.merged_rows(old, new) == [old[0], new[1], new[0]]
    rounded = old[1] | {"dtype": "bfloat16"}
    assert table.merged_rows(old, [rounded]) == [*old, rounded], "another arithmetic is another row"


@pytest.mark.parametrize(
    "vendor, flags, said",
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", "amx_bf16"),
        ("GenuineIntel", "avx512f avx512_bf16", "avx512_bf16, Intel"),
        ("AuthenticAMD", "avx512f avx512_bf16", "avx512_bf16"),
        ("GenuineIntel", "avx2", ""),
    ],
)
def test_a_row_names_the_arithmetic_that_its_numbers_depend_on(vendor, flags, said, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\nflags\t\t: {flags}\n")
    monkeypatch.setattr(hardware, "PROCESSOR", tmp_path / "cpuinfo")
    assert effect.arithmetic("bfloat16") == said
    assert effect.arithmetic("float32") == ("avx512f" if "avx512f" in flags else "")


def test_both_passages_are_cut_to_the_words_of_the_shorter():
    long, short = [["one two  three"], ["one"], []], [["a b"], ["a b"], ["a"]]
    assert table.equally_long(long, short) == ([["one two"], ["one"], []], [["a b"], ["a"], []])
    four = table.equally_long([["a b c d", "a"], ["gone"]], [["x y z"], [""]])
    assert four == ([["a b c"], []], [["x y z"], []]), "nothing is left where the other wrote nothing"


def test_the_accuracy_is_tested_against_a_half_over_queries(monkeypatch, tmp_path):
    def adapter(record):
        (tmp_path / "adapter").mkdir(exist_ok=True)
        (tmp_path / "adapter" / RECORD).write_text(record)

    adapter("first")
    part = Part([], Model("base", tmp_path / "adapter"), tmp_path)
    prompts = [f"claim {n // 3}" for n in range(30)]  # three pairs each
    pairs = pd.DataFrame({"prompt": prompts, "better": [True] * 27 + [False] * 3})
    monkeypatch.setattr(expander_accuracy, "learnt", lambda *given: pairs)
    found = expander_accuracy.accuracy([part], seed=1)
    assert found["accuracy"] == 0.9 and found["accuracy p"] == 22 / 2**10, "9 queries of 10, and not 27 pairs of 30"
    assert 0.6 < found["accuracy interval"][0] < 0.9 < found["accuracy interval"][1] <= 1
    assert expander_accuracy.accuracy([Part([], Model("base"), None)], seed=1) == {}, "no pairs, no accuracy"
    monkeypatch.setattr(expander_accuracy, "learnt", None)
    assert expander_accuracy.accuracy([part], seed=1) == found, "minutes are not spent twice"
    for first, said in ((0, {}), (3, {"accuracy": 1.0}), (6, {"accuracy": 1.0, "accuracy p": 0.5})):
        monkeypatch.setattr(expander_accuracy, "learnt", lambda *given, first=first: pairs[:first])
        adapter(f"trained anew: {first}")
        assert expander_accuracy.accuracy([part], seed=1) == said, (
            "one query proves nothing, and equal ones have no interval"
        )


def test_the_target_is_reached_by_three_good_seeds_and_not_by_the_best_three_of_four():
    def seeds(*gains, **others):
        good = {"queries": "SciFact", "dtype": "float32", "attempt": "rate", "gain p": 0.001, "to query alone": 0.0}
        return [good | {"seed": seed, "gain": gain} | others for seed, gain in enumerate(gains)]

    assert table.reached(seeds(0.03, 0.05, 0.04))
    assert not table.reached(seeds(0.05, 0.05))
    assert not table.reached(seeds(0.05, 0.05, 0.05, 0.02))
    assert not table.reached([*seeds(0.05, 0.05), *seeds(0.05, attempt="paper")])
    for worse in ({"gain p": 0.02}, {"to query alone": -0.001}, {"queries": "development"}, {"attempt": "teacher"}):
        assert not table.reached(seeds(0.05, 0.05, 0.05, **worse))


def test_the_table_has_a_line_for_each_row_and_empty_cells_for_what_a_row_lacks():
    alone = {"queries": "SciFact", "attempt": "query alone", "nDCG@10": 0.6451, "R@100": 0.925}
    trained = {
        "queries": "SciFact",
        "dtype": "float32",
        "attempt": "paper",
        "what": "DPO",
        "seed": 3,
        "accuracy": 0.5,
        "training": {"seconds": 7},
    }
    same = np.linspace(0, 1, 20)
    trained |= table.row_of(Outcome(values(same), same, same), values(same), values(same))
    head, line, first, second = table.markdown([alone, trained]).splitlines()
    assert first.startswith("| SciFact | query alone |  |  | 0.6451 | 0.9250 |  |")
    assert second.startswith("| SciFact | DPO | 3 | float32 | 0.5000 |") and second.endswith(
        "| +0.0000, 1.0000 | 0.50 |  | 7 |"
    )
    assert len({one.count("|") for one in (head, line, first, second)}) == 1
    assert table.markdown([alone], ["queries", "words"]).count("|") == head.count("|") * 3 - 6


def test_the_log_probability_of_a_text_is_the_models_own_loss(tiny_llama):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    prompt, text = [5, 6, 7], [8, 9, 10, 11]
    with torch.inference_mode():
        loss = model(torch.tensor([prompt + text]), labels=torch.tensor([[-100] * 3 + text])).loss
        assert expander_accuracy.log_probability(model, prompt, text) == pytest.approx(-4 * float(loss), rel=1e-5)


def test_an_attempt_starts_from_one_that_exists_and_its_settings_are_valid():
    for attempt in ATTEMPTS.values():
        assert attempt.after is None or attempt.after in ATTEMPTS
        training = {**COMMON, **attempt.training}
        if "online" in training:  # the laboratory names the encoder and the index
            training["online"] = {"encoder": "demo", "index": "i", "qrels": "q", **training["online"]}
        ExpanderTrainingConfig("base", "pairs.jsonl", "out", **training)
    assert ATTEMPTS["paper"] == Attempt("DPO as in the paper"), "nothing differs from the paper's values"
    backend = Model("base").backend()
    assert backend.adapter is backend.dtype is None and "dtype" not in COMMON, "what the machine computes best"


def test_a_teacher_s_lessons_are_its_passages_against_the_model_s_own(tmp_path):
    folder = tmp_path / "expansions" / "scifact"
    folder.mkdir(parents=True)
    for file in TEACHERS:
        lines = [{"query_id": str(n), "query": f"claim {n}", "passage": f"{file[:12]} of {n}"} for n in range(3)]
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    queries = [TrainingExample(str(n), f"claim {n}", ("d",), ("text",)) for n in range(3)]
    rows = list(laboratories.lessons(queries[1:], {"1": ["own"], "2": []}, tmp_path))
    assert [row["query_id"] for row in rows] == ["1", "1"], "what wrote nothing teaches nothing"
    assert [row["chosen"][0]["content"] for row in rows] == [f"{file[:12]} of 1" for file in TEACHERS]
    assert {row["rejected"][0]["content"] for row in rows} == {"own"} and "claim 1" in rows[0]["prompt"][-1]["content"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(list(read_pairs(tmp_path / "pairs.jsonl"))) == 2


@pytest.mark.parametrize("options", [[], ["--test", "--collection", "Vaswani"]])
def test_a_teacher_is_refused_where_its_passages_are_not(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["effect", "paper", "teacher", "--folder", str(tmp_path / "work"), *options])
    with pytest.raises(SystemExit):
        effect.main()
    assert "add --test" in capsys.readouterr().err and not list(tmp_path.iterdir()), "before anything is computed"


def test_each_query_of_a_fold_is_written_for_by_the_fold_s_model(monkeypatch):
    laboratory = Laboratory.__new__(Laboratory)
    queries = [TrainingExample(str(n), f"claim {n}", ("d",), ("text",)) for n in range(7)]
    parts = [Part(fold, Model(f"fold {n}"), None) for n, fold in enumerate(laboratories.folds_of(queries))]
    monkeypatch.setattr(laboratory, "passages", lambda model, own, way: [[f"{model.base}: {q.query}"] for q in own])
    found = laboratory.written(parts, queries, laboratories.COMPARED)
    assert [text.split(": ")[1] for (text,) in found] == [q.query for q in queries], "in the order of the queries"
    assert {text.split(":")[0] for (text,) in found} == {f"fold {n}" for n in range(5)}


class Scripted:
    """A laboratory that trains nothing: a text is "a b", and each query's nDCG@10 is a, and b more for every other one."""

    collection, searcher = "SciFact", "demo"

    def __init__(self, texts):
        self.texts = texts

    def queries(self, test):
        return [TrainingExample(str(n), f"claim {n}", ("d",), ("text",)) for n in range(40)]

    def model(self, name, seed):
        return Model("smollm2", dtype="float32"), {}

    def passages(self, model, queries, way):
        return [["0.1 0" if way.temperature == 1 else "0.2 0"]] * len(queries)

    def parts(self, name, seed, queries):
        return [Part(queries, Model(f"{name}-{seed}"), None)], {"seconds": 60 * seed, "pairs": 3}

    def written(self, parts, queries, way):
        text = self.texts[parts[0].model.base]
        return [[text if way.temperature == 1 else "0.9 0"]] * len(queries)

    def measured(self, queries, passages):
        all_of_them, others = (0.3, 0) if passages is None else map(float, passages[0][0].split())
        return values(all_of_them + others * (np.arange(40) % 2), seed=1) | {"as query": np.full(40, 0.25)}


@pytest.fixture
def scripted(monkeypatch):
    """Rows of a run of two methods in two ways with two seeds, `grpo` named first."""
    monkeypatch.setattr(Model, "backend", lambda self: SimpleNamespace(fingerprint=lambda: {"dtype": "float32"}))
    texts = {"near-1": "0.2 0.1", "near-2": "0.4 -0.1", "grpo-1": "0.5 0.2", "grpo-2": "0.5 0.6"}
    rows = effect.run(["grpo", "near"], [1, 2], True, Scripted(texts), laboratories.WAYS[:2])
    return [row if row["attempt"] == "query alone" else row | {"processor": ""} for row in rows]


def test_the_seeds_of_an_attempt_have_a_mean_and_the_others_are_compared_with_dpo(scripted):
    of = {(row["attempt"], row.get("seed")): row for row in scripted}
    assert len(of) == len(scripted) == 3 + 2 * 2 * 3 and of["base", None]["gain"] == 0
    assert of["base at temperature 0.6", None]["gain"] == pytest.approx(0.1), "over the base at 1"
    near, grpo, cool = (of[name, None] for name in ("near", "grpo", "grpo at temperature 0.6"))
    assert near["seeds"] == grpo["seeds"] == [1, 2] and near["training"] == {"seconds": 90}
    assert [of["near", seed]["gain"] for seed in (1, 2)] == pytest.approx([0.15, 0.25])
    assert near["gain"] == pytest.approx(0.2) and near["gain interval"] == pytest.approx([0.2, 0.2])
    assert near["gain p"] < 0.001 and near["to query alone"] == pytest.approx(0) and "over" not in near
    assert [of["grpo", seed]["over"]["gain"] for seed in (1, 2)] == pytest.approx([0.35, 0.45])
    assert grpo["over"]["attempt"] == "near" and grpo["over"]["gain"] == pytest.approx(0.4)
    assert grpo["over"]["p"] < 0.001 and of["grpo", 1]["over"]["interval"][0] < 0.35 < grpo["over"]["interval"][1]
    assert cool["gain"] == pytest.approx(0.7), "over the base that writes at 0.6"
    assert cool["over"]["gain"] == pytest.approx(0) and not table.reached(scripted), "two seeds are not three"
    assert table.seed_of(near) == "mean of 1, 2" and table.seed_of(of["near", 2]) == "2"


def test_the_table_names_the_collection_and_an_encoder_that_chose_no_pairs():
    laboratory = Scripted({})
    assert [effect.where(laboratory, test) for test in (True, False)] == ["SciFact", "development"]
    laboratory.searcher = "another-encoder"
    assert effect.where(laboratory, True) == "SciFact (another-encoder)"


def test_a_comparison_with_dpo_outlives_a_run_without_it(scripted):
    again = [{name: value for name, value in row.items() if name != "over"} | {"words": 7} for row in scripted]
    merged = table.merged_rows(scripted, again)
    assert len(merged) == len(scripted) and all(row["words"] == 7 for row in merged)
    assert [row.get("over") for row in merged] == [row.get("over") for row in scripted]
    others = table.merged_rows(scripted, [row | {"nDCG@10": 0.5} for row in again])
    assert len(others) == len(scripted) and not any("over" in row for row in others), "other texts were measured"
    (dpo,) = (row for row in scripted if (row["attempt"], row.get("seed")) == ("near", 1))
    assert table.merged_rows(scripted, [dpo]) == scripted
    others = table.merged_rows(scripted, [dpo | {"nDCG@10": 0.5}])
    assert len(others) == len(scripted) and not any("over" in row for row in others), "DPO is another"
    own = table.merged_rows(scripted, [dpo | {"nDCG@10": 0.5}, *(row for row in scripted if "over" in row)])
    assert sum("over" in row for row in own) == sum("over" in row for row in scripted) > 0


def test_the_table_of_the_methods_says_what_is_of_other_seeds_and_shows_no_other_comparison(scripted):
    def cells(rows, name):
        head, _, *lines = table.methods(rows).splitlines()
        found = [dict(zip(head.split(" | "), line.split(" | "), strict=True)) for line in lines]
        return next(line for line in found if line["| method"] == f"| {name}")

    moved = {"queries": "Vaswani", "attempt": "grpo", "dtype": "float32", "processor": "", "seed": 1}
    moved |= {"gain": 0.05, "gain p": 0.01}
    grpo = cells([*scripted, moved], "`grpo`")
    assert grpo["seeds"] == "1, 2" and grpo["over `dpo`, p"] == "+0.4000, 0.0001" and grpo["minutes |"] == "2 |"
    assert grpo["nDCG@10 at 0.6"] == "0.9000" and grpo["gain at 0.6, p"] == "+0.7000, 0.0001"
    assert grpo["repeats the query"] == "25%" and grpo["gain on Vaswani, p"] == "+0.0500, 0.0100 (seed 1)"
    untrained = cells(scripted, "untrained")
    assert untrained["nDCG@10 at 0.6"] == "0.2000" and untrained["gain at 0.6, p"] == "", "it is the baseline there"
    single = [row for row in scripted if "seeds" not in row]
    assert cells(single, "`grpo`")["nDCG@10"] == "0.6000", "the first seed where there is no mean"
    other = [row | {"over": row["over"] | {"attempt": "paper"}} if "over" in row else row for row in scripted]
    assert cells(other, "`grpo`")["over `dpo`, p"] == ""
    elsewhere = [row | {"dtype": "bfloat16", "nDCG@10": 0.1} for row in scripted if row["attempt"] in ("base", "near")]
    assert cells([*elsewhere, *scripted, *elsewhere], "`dpo`")["nDCG@10"] == "0.3000", "where most were tried"


def listed(rows, name, form=".3f"):
    *first, last = (f"{row[name]:{form}}" for row in rows)
    return f"{', '.join(first)} and {last}"


#: what the page calls the attempts that differ from DPO with the retriever reward in one thing
VARIANTS = {
    "near": "as it was",
    "linear": "with LoRA on all linear layers",
    "robust": "with the robust loss",
    "equal-lengths": "with the length-controlled loss",
    "again": "after a second round",
}


@cache
def measured():
    return json.loads((RESULTS / "expander_effect.json").read_text())["rows"]


@cache
def page(name):
    return (RESULTS.parent / f"{name}.md").read_text(encoding="utf-8")


def prose(name):
    """The page on one line."""
    return " ".join(page(name).split())


def found(attempt, processor="", queries="SciFact"):
    """Its rows of single seeds, in their order."""
    key = (queries, attempt, processor)
    rows = [r for r in measured() if (r["queries"], r["attempt"], r.get("processor")) == key and "seeds" not in r]
    return sorted(rows, key=lambda row: row.get("seed", 0))


def test_the_pages_say_what_the_recipe_found():
    rows, text, online = measured(), page("expander_training"), page("online")
    recipe = json.loads((RESULTS / "recipe_smollm2.json").read_text())
    assert table.markdown(rows) in text and recipe_table.markdown(recipe) in text, "python -m benchmarks.report"
    assert table.methods(rows) in online, "python -m benchmarks.report"
    of = {row["system"]: row["nDCG@10"] for row in recipe["rows"]}
    text = prose("expander_training")
    untrained = {row["system"]: row["w/o LLM Training"] for row in recipe["rows"] if "w/o LLM Training" in row}
    helped, same, most = (
        f"(+{untrained[row]['difference']:.3f}, p = {untrained[row]['p']:.3f})"
        for row in ("ExpandR, n=1", "w/o Self-Reward, n=1", "w/o Retriever Reward, n=1")
    )
    assert f"has {of['ExpandR, n=1']:.3f}, and {of['w/o LLM Training, n=1']:.3f} without LLM training {helped}" in text
    assert f"{of['w/o Self-Reward, n=1']:.3f} {same}, by the self" in text
    assert f"{of['w/o Retriever Reward, n=1']:.3f} {most}. The LLM" in text
    step = json.loads((RESULTS / "dpo_step.json").read_text())
    assert f"{step['ratio']:.2f} of the time of TRL as it comes, with SmolLM2 in {step['dtype']}" in text


def test_the_page_says_what_training_did_on_the_test_queries():
    text = prose("expander_training")
    seeds = found("several-float32", "avx512_bf16, Intel")
    assert f"reaches {listed(seeds, 'nDCG@10')} in three seeds" in text
    assert f"gains {listed(seeds, 'gain')} (p = " in text
    assert f"by {listed(seeds, 'to query alone', '+.3f')} (p = " in text
    (trained,), (cool,) = (found(name, "avx512_bf16") for name in ("several", "base at temperature 0.6"))
    assert f"gave {trained['gain']:.4f} (p = {trained['gain p']:.4f})" in text
    assert f"{-trained['to query alone']:.3f} less than the query alone (p = {trained['to query alone p']:.3f})" in text
    assert f"{cool['nDCG@10']:.4f} on the test queries at 0.6, against {trained['nDCG@10']:.4f} trained" in text
    (base,), (paper,), (taught,) = map(found, ("base", "paper", "teacher"))
    moved = f"{paper['nDCG@10']:.3f} where the base has {base['nDCG@10']:.3f} ({paper['gain']:.3f}, p = 0.30)"
    assert f"nDCG@10 is {moved}" in text
    assert f"stays where it was ({paper['nDCG@10']:.3f} from {base['nDCG@10']:.3f}, p = 0.30)" in text
    assert f"It finds {taught['nDCG@10']:.3f} where the base has {base['nDCG@10']:.3f}" in text
    assert f"(+{taught['gain']:.3f}, p = {taught['gain p']:.2f})" in text
    assert f"({taught['similarity']:.3f}, before {base['similarity']:.3f})" in text
    linear = found("linear")
    assert all(row["gain"] >= table.TARGET and row["gain p"] < table.LEVEL for row in linear), "half of the target"
    assert f"it has {listed(linear, 'nDCG@10')} in three seeds" in text
    assert f"it gains {listed(linear, 'gain')} (p = {listed(linear, 'gain p', '.4f')}) in three seeds" in text
    lower = listed([{"less": -row["to query alone"]} for row in linear], "less")
    assert f"is {lower} below the query alone (p = {listed(linear, 'to query alone p', '.2f')})" in text


def test_the_page_says_what_the_development_queries_preferred():
    text = prose("expander_training")
    for name, called in VARIANTS.items():
        (own,) = found(name, queries="development")
        assert f"{own['nDCG@10']:.3f} {called}" in text
    together, cool, same = (
        found(name, "avx512f", "development")
        for name in ("several-linear", "several-linear at temperature 0.6", "base")
    )
    (best,), (first,) = (found(name, queries="development") for name in ("linear", "base"))
    assert together[0]["nDCG@10"] < best["nDCG@10"], "so it is not tried on the test queries"
    assert not found("several-linear", "avx512f")
    assert f"two seeds have {listed(together, 'nDCG@10')} on the development queries" in text
    assert f"gives {best['nDCG@10']:.3f} in {best['training']['steps']} steps" in text
    assert f"rather than {together[0]['training']['steps']} (" in text
    assert f"Drawn at 0.6 they have {listed(cool, 'nDCG@10')}, and" in text
    assert same[0]["nDCG@10"] == first["nDCG@10"], "two processors, the same figures"
    both = [*found("base"), *found("base", "avx512f")]
    assert f"development queries, and {listed(both, 'nDCG@10', '.4f')} on the test queries" in text


def test_the_pages_say_what_each_method_found():
    rows, text, online = measured(), prose("expander_training"), prose("online")
    (base,), grpo = map(found, ("base", "grpo"))
    assert f"the gain is {listed(grpo, 'gain')} (p = {listed(grpo, 'gain p')})" in text
    names = {"near": "dpo", "best-gold": "sft-best", "online-dpo": "online-dpo", "grpo": "grpo"}
    seeds = {name: found(name) for name in names}
    assert all(len(own) == 3 and all(row["to query alone"] < 0 for row in own) for own in seeds.values())
    for name, called in names.items():
        assert f"`{called}` {listed(seeds[name], 'gain')} (p = {listed(seeds[name], 'gain p')})" in online
    mean = {row["attempt"]: row for row in rows if row["queries"] == "SciFact" and "seeds" in row}
    assert f"`dpo` gains {mean['near']['gain']:.3f} (p = {mean['near']['gain p']:.3f})" in online
    for name in ("best-gold", "online-dpo", "grpo"):
        own, over = mean[name], mean[name]["over"]
        less = f"{-over['gain']:.3f} less than `dpo`, p = {over['p']:.3f}"
        assert f"`{names[name]}` {own['gain']:.3f} (p = {own['gain p']:.3f}; {less})" in online
        assert over["gain"] < 0, "no method beats DPO"
    repeated = listed([{"%": 100 * row["as query"]} for row in grpo], "%", ".0f")
    assert f"{repeated} of 100 passages have no word that the query lacks ({100 * base['as query']:.0f} before" in text
    equal = grpo[0]["equal lengths"]
    assert f"its gain grows to {equal['gain']:.3f} (p = {equal['p']:.4f})" in text


def test_the_page_says_what_the_models_find_elsewhere():
    rows, text = measured(), prose("expander_training")
    (elsewhere,), (before,) = (found(name, "avx512f", "PubMedQA") for name in ("linear", "base"))
    gained = f"it has {elsewhere['nDCG@10']:.3f} there, where the untrained model has {before['nDCG@10']:.3f} (p = "
    assert gained in text
    moved = {name: found(name, queries="Vaswani") for name in ("grpo", "near")}
    for name, said in (("grpo", "GRPO gains {} in three seeds "), ("near", "the same reward gains {} ")):
        gains, tests = (listed(moved[name], key) for key in ("gain", "gain p"))
        assert f"{said.format(gains)}(p = {tests})" in text
    (mean,) = (row for row in rows if (row["queries"], row["attempt"]) == ("Vaswani", "grpo") and "seeds" in row)
    assert f"its mean is {mean['over']['gain']:.3f} above DPO's (p = {mean['over']['p']:.3f})" in text
    assert f"and {-mean['to query alone']:.3f} below the query alone" in text
    repeated = listed([{"%": 100 * row["as query"]} for row in moved["grpo"]], "%", ".0f")
    assert f"there: {repeated} of 100 passages" in text
