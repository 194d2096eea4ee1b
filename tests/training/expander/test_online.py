"""GRPO and online DPO: TRL's trainers, rewarded by what retrieval reads."""

import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import GRPOConfig
from typer.testing import CliRunner

from pyterrier_expandr import ExpandREncoder, FaissIndex, HuggingFaceBackend
from pyterrier_expandr.cli import app
from pyterrier_expandr.cli.train.online import online
from pyterrier_expandr.encoding.fusion import fuse
from pyterrier_expandr.expansion.backends.base import Request
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.training.expander.config import NOT_ONLINE, ExpanderTrainingConfig
from pyterrier_expandr.training.expander.methods import method_of
from pyterrier_expandr.training.expander.online.engine import VARIABLES, engine_arguments, keep_base, released
from pyterrier_expandr.training.expander.online.method import own_device
from pyterrier_expandr.training.expander.online.queries import read_queries
from pyterrier_expandr.training.expander.online.report import training_report
from pyterrier_expandr.training.expander.online.reward import GroupReward, Scorer, passage
from pyterrier_expandr.training.expander.online.settings import OnlineSettings
from pyterrier_expandr.training.expander.online.signs import Written, collapse, distinct_2, text_figures
from pyterrier_expandr.training.expander.online.trainers import OnlineDPOConfig
from pyterrier_expandr.training.expander.online.watch import Watch, read_tokens
from pyterrier_expandr.training.expander.train import train_expander
from pyterrier_expandr.training.preferences.rewards import MeasureGain, retriever_reward
from tests.encoders_tiny import build_bert
from tests.tiny import TEMPLATE, build_tiny_llama

DOCUMENTS = {f"d{i}": f"why is the sky {word}" for i, word in enumerate(("blue", "scattered", "light", "air"))}
QUERIES = [
    {"query_id": f"q{i}", "query": f"question {i} of the sky", "positive": text, "positive_id": name, "answer": "blue"}
    for i, (name, text) in enumerate(list(DOCUMENTS.items()) * 4)
]
QRELS = [(row["query_id"], row["positive_id"], 1) for row in QUERIES]
METHODS = ("grpo", "online-dpo")


def brevity(candidates):
    """A toy: the fewer characters the better."""
    return np.array([[-len(text) / 10 for text in row] for row in candidates.texts])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with queries, judgments, an encoder and its index."""
    folder = tmp_path_factory.mktemp("online")
    build_bert(folder / "encoder")
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    (folder / "qrels.tsv").write_text("".join(f"{q}\t{d}\t{label}\n" for q, d, label in QRELS))
    encoder, index = ExpandREncoder(folder / "encoder", device="cpu"), FaissIndex(folder / "index")
    (encoder.doc_encoder() >> index).index([{"docno": name, "text": text} for name, text in DOCUMENTS.items()])
    return folder


@pytest.fixture(scope="module")
def config(tiny_llama, work) -> ExpanderTrainingConfig:
    online = OnlineSettings(
        str(work / "encoder"),
        rewards=(brevity,),
        index=str(work / "index"),
        qrels=str(work / "qrels.tsv"),
        group_size=4,
        max_new_tokens=10,
    )
    return ExpanderTrainingConfig(
        base=tiny_llama,
        pairs=str(work / "queries.jsonl"),
        out=str(work / "adapter"),
        method="grpo",
        online=online,
        beta=0.01,
        learning_rate=2e-2,
        epochs=4,
        batch_size=16,
        device_batch_size=8,
        eval_fraction=0.25,
        evaluations=4,
        report_prompts=0,
    )


def of_method(config, method, **changes):
    if method == "grpo":
        return replace(config, **changes)
    online = replace(config.online, group_size=None)
    return replace(config, **{"method": method, "online": online, "batch_size": 4, "device_batch_size": 4} | changes)


@pytest.fixture(scope="module", params=METHODS)
def trained(request, config, work):
    """(configuration, folder, record, evaluations) of a run by each method."""
    own = of_method(config, request.param, out=str(work / request.param))
    folder = train_expander(own)
    record, rows = (json.loads((folder / name).read_text()) for name in ("expander.json", "evaluations.json"))
    return own, folder, record, rows


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


# --- training


def test_a_toy_reward_goes_up_and_every_weight_moves(trained):
    config, folder, record, rows = trained
    assert record["after"]["reward"] > record["before"]["reward"] + 0.3
    assert record["after"]["words"] <= record["before"]["words"]
    assert all(weight.abs().max() > 0 for weight in weights(folder).values()), "LoRA's B begins at 0"
    assert record["before"]["kl"] == pytest.approx(0, abs=1e-6) and record["after"]["kl"] > 0.01
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 12]
    assert rows[0]["tokens"] == 0 < rows[1]["tokens"] < rows[-1]["tokens"]
    assert rows[0]["reward"] == rows[0]["reward/brevity"] and "measure" in rows[0]
    best = max(rows[1:], key=lambda row: row["reward"])
    assert record["kept_step"] == best["step"], "the checkpoint with the highest held-out reward"
    steps = json.loads((folder / "steps.json").read_text())
    assert len(steps) == record["steps"] == 12 and all({"loss", "reward", "kl"} <= row.keys() for row in steps)
    card = (folder / "README.md").read_text()
    assert "on texts that it wrote itself (rewards: brevity)" in card and "| on held-out queries | before |" in card
    assert f"- {config.method}\n" in card and "- dpo\n" not in card and "Eq. 10-17" not in card
    assert record["settings"]["online"]["group_size"] == config.group_size and "losses" not in record["settings"]
    reason = record["collapse"]
    assert reason == collapse([row for row in rows if row["step"] <= record["kept_step"]])
    assert (f"shows a collapse: {reason}." in card) == (reason is not None)


def test_an_evaluation_reads_what_the_adapter_writes_at_inference(trained):
    config, folder, record, _ = trained
    method = method_of(config)
    base, adapted = (HuggingFaceBackend(config.base, adapter=adapter, device="cpu") for adapter in (None, folder))
    from pyterrier_expandr.training.expander.pair_tokens import held_out

    apart = held_out(method.tokens(base), config.eval_fraction, config.seed)[1]
    assert len(apart.rows) == record["pairs"]["held out"] == 4
    requests = [Request(prompt, config.online.sampling(config.seed)) for prompt in apart.prompts]
    texts = [passage(g.text, p) for (g,), p in zip(adapted.generate(requests), apart.prompts, strict=True)]
    assert record["after"]["reward"] == pytest.approx(np.mean([-len(text) / 10 for text in texts]))
    gain = method.reward.measured([row["query_id"] for row in apart.rows], texts)
    assert record["after"]["measure"] == pytest.approx(gain.mean())
    untrained = [passage(g.text, p) for (g,), p in zip(base.generate(requests), apart.prompts, strict=True)]
    difference = gain - method.reward.measured([row["query_id"] for row in apart.rows], untrained)
    assert record["after"]["measure_error"] == pytest.approx(difference.std(ddof=1) / 2), "of four queries"


def test_a_killed_run_ends_in_the_same_adapter(trained, tmp_path):
    config, folder, record, rows = trained
    if config.method != "grpo":
        pytest.skip("the slow test below")
    killed_and_resumed(config, folder, record, rows, tmp_path)


@pytest.mark.slow
def test_a_killed_run_of_online_dpo_ends_in_the_same_adapter(trained, tmp_path):
    config, folder, record, rows = trained
    if config.method != "online-dpo":
        pytest.skip("the test above")
    killed_and_resumed(config, folder, record, rows, tmp_path)


def killed_and_resumed(config, folder, record, rows, tmp_path):
    """Kill a run of its own behind its first checkpoint, let it go on, and compare."""
    out = tmp_path / "adapter"
    code = (
        "import sys\nfrom dataclasses import replace\n"
        "from tests.training.expander import test_online as t\n"
        "from pyterrier_expandr.training.expander.train import train_expander\n"
        "values, online = eval(sys.argv[1])\n"
        "online = t.OnlineSettings(**online | {'rewards': (t.brevity,)})\n"
        "train_expander(t.ExpanderTrainingConfig(**values | {'online': online}))\n"
    )
    online = {name: value for name, value in vars(config.online).items() if name != "rewards"}
    values = {name: value for name, value in vars(config).items() if name != "online"} | {"out": str(out)}
    process = subprocess.Popen([sys.executable, "-c", code, repr((values, online))], stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "adapter.work" / "checkpoints" / "checkpoint-3" / "trainer_state.json"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not out.exists(), "killed at another moment than meant"
    train_expander(replace(config, out=str(out)))
    for name, weight in weights(folder).items():
        assert torch.equal(weight, weights(out)[name]), name
    again, said = (json.loads((out / name).read_text()) for name in ("expander.json", "evaluations.json"))
    assert said == rows and again["after"] == record["after"]


@pytest.mark.slow
def test_two_processes_learn_the_same_reward(trained, tmp_path):
    """torchrun with two gloo processes, half of the texts in each: other texts are drawn, and as many of them."""
    config, _, record, rows = trained
    script = tmp_path / "train.py"
    script.write_text(
        "import pickle, sys\n"
        "from pyterrier_expandr.training.expander import train_expander\n"
        "train_expander(pickle.load(open(sys.argv[1], 'rb')))\n"
    )
    (tmp_path / "config").write_bytes(
        pickle.dumps(replace(config, device_batch_size=config.device_batch_size // 2, out=str(tmp_path / "both")))
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, str(script), str(tmp_path / "config")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    both, two = (json.loads((tmp_path / "both" / name).read_text()) for name in ("expander.json", "evaluations.json"))
    assert [row["step"] for row in two] == [row["step"] for row in rows] and both["steps"] == record["steps"]
    assert two[0] == rows[0], "the same held-out texts before training"
    assert both["after"]["reward"] > both["before"]["reward"] + 0.3
    assert all(weight.abs().max() > 0 for weight in weights(tmp_path / "both").values())
    most = config.online.max_new_tokens * (16 if config.method == "grpo" else 8) * 3
    for one, other in zip(rows[1:], two[1:], strict=True):
        assert 0.7 * one["tokens"] < other["tokens"] < 1.4 * one["tokens"], "the tokens of both processes"
    assert two[1]["tokens"] <= most


def test_a_run_is_reported_as_a_table_and_as_curves(trained, tmp_path):
    _, folder, _, rows = trained
    said = CliRunner().invoke(app, ["report", str(folder)])
    lines = said.output.splitlines()
    assert said.exit_code == 0 and lines[0].startswith("| step | reward | reward/brevity | measure | measure_error |")
    assert [line.split(" | ")[0] for line in lines[2:7]] == [f"| {row['step']}" for row in rows]
    drawn = tmp_path / "run.svg"
    assert CliRunner().invoke(app, ["report", str(folder), "--out", str(drawn)]).exit_code == 0
    picture = drawn.read_text()
    assert (
        picture.startswith("<?xml") and "<!-- On held-out queries -->" in picture and "<!-- distinct_2 -->" in picture
    )
    refused = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "run.html")])
    assert isinstance(refused.exception, ValueError) or "a table (.md) or a picture" in refused.output
    other = CliRunner().invoke(app, ["report", str(folder), "--format", "html", "--baseline", "BM25", "--title", "T"])
    assert "a training run, whose report has no --baseline, --format, --title" in str(other.exception) + other.output


def test_the_end_of_a_text_is_scored_where_it_was_written(tiny_llama):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    ids = backend.text_ids("air scatters light")
    assert read_tokens(backend, Written("air scatters light", False), 2) == [*ids, 2] != ids
    assert read_tokens(backend, Written("air scatters light", True), 2) == ids
    assert read_tokens(backend, Written("", True), 2) == [2], "there is nothing else to score"


def test_a_collapse_is_warned_of_once_in_a_run_and_its_rows_are_kept(tmp_path, caplog):
    watch = Watch.__new__(Watch)
    watch.folder, watch._warned = tmp_path, False
    history = [{"step": 0, "eval_reward": 0.3, "eval_distinct_2": 0.8, "eval_empty": 0.0, "eval_as_query": 0.0}]
    for step, empty in ((2, 0.1), (4, 0.6), (6, 0.7)):
        history.append(history[0] | {"step": step, "eval_empty": empty})
        assert watch.record(history) == json.loads((tmp_path / "evaluations.json").read_text())
    (warning,) = [r.getMessage() for r in caplog.records if "collapsing" in r.getMessage()]
    assert "at step 4: 60 % of the texts" in warning


@pytest.mark.parametrize(("rank", "gpu", "device"), [("1", True, "cuda:1"), (None, True, None), ("1", False, None)])
def test_the_reward_s_encoder_is_on_the_gpu_of_its_process(rank, gpu, device, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert own_device() == device
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert own_device() == (device and "cuda:0"), "a process that sees one GPU"


def test_a_run_that_began_before_a_figure_existed_has_a_card():
    from pyterrier_expandr.training.expander.model_card import _held_out

    lines = _held_out({"reward": 0.25}, {"reward": 0.5, "measure_error": 0.1})
    assert any("| reward | 0.2500 | 0.5000 |" in line for line in lines)
    assert not any("measure_error" in line for line in lines)


def test_the_report_names_the_steps_of_a_collapse():
    rows = [{"step": 0} | HEALTHY, {"step": 4} | HEALTHY, {"step": 8} | HEALTHY | {"empty": 0.7}]
    said = training_report(rows)
    assert said.endswith("- step 8: 70 % of the texts for held-out queries are empty or repeat the query\n")
    assert said.count("- step") == 1


# --- prompts


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("{{ bos_token }}", ""), None])
@pytest.mark.parametrize("method", METHODS)
def test_the_prompts_tokens_are_those_of_inference(method, template, config, tmp_path):
    build_tiny_llama(tmp_path / "base", template=template)
    own = of_method(config, method, base=str(tmp_path / "base"))
    backend, asked = HuggingFaceBackend(own.base, device="cpu"), method_of(own)
    tokens = asked.tokens(backend)
    trainer = asked.trainer(backend, tokens, tokens.select([0, 1]), tmp_path / "checkpoints")
    prompts, asked_for = trainer.train_dataset[:3]["prompt"], trainer.train_dataset[:3]["query_id"]
    query = {row["query_id"]: row["query"] for row in QUERIES}
    expected = [backend.prompt_ids(render(PROMPTS["q2d"], query=query[name])) for name in asked_for]
    assert all(ids.count(backend.tokenizer.bos_token_id) == 1 for ids in expected)
    if method == "grpo":
        assert trainer._tokenize_prompts(prompts)[0] == expected
        return
    whole = []  # a slice makes the head's product hundreds of times slower
    head = trainer.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: whole.append(given[0].is_contiguous()))
    ids, mask, *_ = trainer._generate(trainer.model, prompts)
    assert whole and all(whole)
    assert [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)] == expected * 2


def test_queries_too_long_are_left_out_and_counted(config):
    long = replace(config, max_length=30)
    backend = HuggingFaceBackend(config.base, device="cpu")
    with pytest.warns(UserWarning, match="of 16 queries 16 exceed max_length=30 with max_new_tokens=10 and were dr"):
        assert method_of(long).tokens(backend).dropped == {"too long": 16}


# --- what the reward sees


class Seen:
    """A reward that keeps what it is given."""

    __name__ = "seen"

    def __call__(self, candidates):
        self.given = candidates
        return retriever_reward(candidates.to_gold)


def scored(work, backend, texts, query_ids, seen, ends="<|eot_id|>", **settings):
    """The rewards of raw texts by a scorer, as TRL would ask for them."""
    reward = GroupReward(
        OnlineSettings(str(work / "encoder"), rewards=(seen,), **settings),
        read_queries(work / "queries.jsonl", answers=True),
        device="cpu",
    )
    prompts = {row["query_id"]: render(PROMPTS["q2d"], query=row["query"]) for row in QUERIES}
    end = backend.tokenizer.convert_tokens_to_ids(ends)
    scorer = Scorer(reward, backend, prompts, [end])
    ids = [[*backend.text_ids(text), end, end] for text in texts]
    return scorer, scorer(prompts=None, completions=None, completion_ids=ids, query_id=query_ids)


def test_the_reward_sees_the_text_that_retrieval_sees(work, tiny_llama):
    seen, backend = Seen(), HuggingFaceBackend(tiny_llama, device="cpu")
    texts = ["Sure! Here is a passage: the sky is blue.", "  ", "I'm sorry, but I can't help with that.", "light"]
    scorer, rewards = scored(work, backend, texts, ["q0"] * 4, seen)
    assert seen.given.texts == [("the sky is blue.", "", "", "light")]
    encoder = ExpandREncoder(work / "encoder", device="cpu")
    alone, expected = encoder.encode_queries([QUERIES[0]["query"]]), encoder.encode_docs(["the sky is blue.", "light"])
    np.testing.assert_allclose(seen.given.vectors[0, [0, 3]], expected, atol=1e-5)
    np.testing.assert_allclose(seen.given.vectors[0, [1, 2]], np.repeat(alone, 2, 0), atol=1e-5)
    fused = fuse(alone[0], np.asarray(seen.given.vectors[0, 1])[None])
    np.testing.assert_allclose(fused, alone[0], atol=1e-5)  # an empty text leaves the query as it is
    assert rewards[1] == rewards[2], "ranks would tell two texts that are equal apart"
    assert sum(rewards) == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4) and len(set(rewards)) == 3
    assert scorer.written("q0", backend.text_ids("no end")).truncated


@pytest.mark.parametrize("order", [["q0", "q0", "q1", "q1"], ["q0", "q1", "q0", "q1"]], ids=["grpo", "online-dpo"])
def test_texts_are_ranked_among_those_of_their_query(work, tiny_llama, order):
    seen, backend = Seen(), HuggingFaceBackend(tiny_llama, device="cpu")
    worth = {"q0": ["why is the sky blue", "air"], "q1": ["air", "why is the sky scattered"]}
    texts = [worth[name].pop(0) for name in order]
    _, rewards = scored(work, backend, texts, order, seen)
    gold = {"q0": "why is the sky blue", "q1": "why is the sky scattered"}
    assert rewards == [1.0 if text == gold[name] else 0.5 for text, name in zip(texts, order, strict=True)]


def test_rewards_by_name_are_summed_with_their_weights(work):
    queries = read_queries(work / "queries.jsonl", answers=True)
    places = {"index": str(work / "index"), "qrels": str(work / "qrels.tsv"), "measure": "RR"}
    settings = OnlineSettings(
        str(work / "encoder"), ("retriever", "measure", "length:2"), weights=(1, 2, 0.5), **places
    )
    reward = GroupReward(settings, queries, device="cpu")
    parts = reward.parts(["q1"], [["why is the sky scattered", "air", ""]])
    gain = MeasureGain(
        FaissIndex(work / "index").retriever(100), pd.DataFrame(QRELS, columns=["qid", "docno", "label"])
    )
    gain = replace(gain, measure="RR")(reward.candidates(["q1"], [["why is the sky scattered", "air", ""]]))
    np.testing.assert_array_equal(parts["measure"], gain)
    assert gain[0, 2] == 0, "an empty text changes nothing"
    np.testing.assert_array_equal(parts["length:2"], [[-1.5, 0, 0]])
    np.testing.assert_allclose(reward.total(parts), parts["retriever"] + 2 * gain + 0.5 * parts["length:2"])


# --- bad input


def broken(kind):
    def reward(candidates):
        values = np.zeros((len(candidates.query_ids), len(candidates.texts[0])))
        if kind == "raises":
            raise RuntimeError("no space left")
        values[-1, 0] = np.nan
        return values[:, :1] if kind == "shape" else values

    return reward


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"reward 'reward' is NaN or infinite for the queries \['q1'\]"),
        ("shape", r"numbers of shape \(2, 2\) .* for the queries \['q0', 'q1'\] it returned the shape \(2, 1\)"),
        ("raises", r"failed for the queries \['q0', 'q1'\] \(RuntimeError: no space left\)"),
    ],
)
def test_a_broken_reward_names_the_queries(work, tiny_llama, kind, message):
    with pytest.raises(ValueError, match=f"{message}; nothing was trained on them, and the last checkpoint, if"):
        scored(work, HuggingFaceBackend(tiny_llama, device="cpu"), ["a", "b", "c", "d"], ["q0", "q0", "q1", "q1"],
               broken(kind))  # fmt: skip


def test_a_reward_that_fails_leaves_the_last_checkpoint_from_which_a_rerun_goes_on(config, trained, tmp_path):
    if trained[0].method != "grpo":
        pytest.skip("the same for both")
    steps = []

    def failing(candidates):
        steps.append(len(candidates.query_ids))
        return brevity(candidates) * (np.nan if len(steps) > 8 and len(candidates.texts[0]) == 4 else 1)

    failing.__name__ = "brevity"
    out = tmp_path / "adapter"
    with pytest.raises(ValueError, match="reward 'brevity' is NaN or infinite for the queries"):
        train_expander(replace(config, out=str(out), online=replace(config.online, rewards=(failing,))))
    kept = sorted(path.name for path in (tmp_path / "adapter.work" / "checkpoints").iterdir() if path.is_dir())
    assert kept and not out.exists()
    train_expander(replace(config, out=str(out)))
    assert all(torch.equal(weight, weights(out)[name]) for name, weight in weights(trained[1]).items())


@pytest.mark.parametrize(
    ("online", "changes", "message"),
    [
        (
            {"index": "other"},
            {},
            "was made by '.*other_encoder', but the reward encoder is '.*encoder': use one encoder",
        ),
        ({"index": "elsewhere"}, {}, "elsewhere' holds none of the 16 documents that the judgments call relevant"),
        ({"qrels": "few.tsv"}, {}, r"no relevant document for 15 of the 16 training queries, such as \['q1', 'q2'"),
        ({"group_size": 1}, {}, "group_size must be 2 or more"),
        ({}, {"batch_size": 18, "device_batch_size": 9}, "batch_size 18 must be a multiple of group_size 4"),
        ({"vllm": "gpu"}, {}, 'vllm must be "colocate" or the address'),
        ({"vllm": "colocate"}, {"load_in_4bit": True}, "which it cannot take in 4 bits"),
        ({"vllm": "colocate"}, {"revision": "main"}, "vLLM opens the base by itself, without revision"),
        ({"vllm": "colocate"}, {"trust_remote_code": True}, "without revision and trust_remote_code"),
        ({"vllm": "http://x", "group_size": None}, {"method": "online-dpo"}, "online-dpo takes no server of vLLM"),
        ({"index": None}, {}, "index and qrels belong together"),
        ({"rewards": ("measure",), "index": None, "qrels": None}, {}, "needs an index and qrels"),
        ({"rewards": ("best",)}, {}, "reward 'best' is unknown"),
        ({"rewards": ("length:0",)}, {}, "reward 'length:0' is unknown"),
        ({"max_new_tokens": 612}, {}, "leave no room for a prompt"),
        ({}, {"method": "online-dpo"}, "online-dpo compares 2 texts of a query, got group_size 4"),
        ({}, {"method": "dpo"}, "method 'dpo' takes no online settings"),
        ({}, {"losses": {"sft": 1}}, 'losses belong to method "dpo"'),
        ({}, {"precompute_reference": True}, "precompute_reference belongs to given pairs"),
        ({"rewards": (lambda given: 1, lambda given: 2)}, {}, "give each function its own `__name__`"),
        ({"rewards": ("self", "self", retriever_reward)}, {}, r"differ from one another, got .*retriever_reward'\]$"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(work, config, online, changes, message):
    if not (work / "other").exists():
        build_bert(work / "other_encoder", seed=1)
        other = ExpandREncoder(work / "other_encoder", device="cpu")
        (other.doc_encoder() >> FaissIndex(work / "other")).index([{"docno": "d0", "text": "sky"}])
        own = ExpandREncoder(work / "encoder", device="cpu")
        (own.doc_encoder() >> FaissIndex(work / "elsewhere")).index([{"docno": "x0", "text": "sky"}])
        (work / "few.tsv").write_text("q0\td0\t1\n")
    places = {name: str(work / online[name]) for name in ("index", "qrels") if online.get(name)}
    with pytest.raises(ValueError, match=message):
        own = replace(config, base="no/such-model", online=replace(config.online, **online | places), **changes)
        train_expander(own)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is refused where there is no CUDA device")
def test_a_server_that_would_need_a_gpu_is_refused_before_the_model_is_loaded(config):
    served = replace(config.online, vllm="http://localhost:8000")
    with pytest.raises(ValueError, match="gets the weights from GPU to GPU .* no CUDA device here"):
        train_expander(replace(config, base="no/such-model", online=served))


def test_vllm_writes_for_every_method_with_options_of_its_own(config):
    def options(method, vllm):
        own = of_method(config, method)
        return engine_arguments(replace(own, online=replace(own.online, vllm=vllm)))

    by_token = {"vllm_importance_sampling_mode": "token_truncate", "vllm_max_model_length": config.max_length}
    assert options("grpo", None) == options("online-dpo", None) == {}
    assert options("grpo", "colocate") == {"use_vllm": True, "vllm_mode": "colocate", **by_token}
    assert options("online-dpo", "colocate") == {"use_vllm": True, "vllm_mode": "colocate"}
    served = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://localhost:8000", **by_token}
    assert options("grpo", "http://localhost:8000") == served
    for method, of_trl in (("grpo", GRPOConfig), ("online-dpo", OnlineDPOConfig)):
        assert {*options(method, "colocate")} <= {one.name for one in fields(of_trl)}
    assert {*served} <= {one.name for one in fields(GRPOConfig)}


def test_what_vllm_sets_is_put_back_where_this_process_stands_alone(config, monkeypatch):
    cleaned = []
    fake = SimpleNamespace(cleanup_dist_env_and_memory=lambda: cleaned.append(1) or 1 / 0)  # and it fails
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(distributed=fake))
    monkeypatch.setitem(sys.modules, "vllm.distributed", fake)
    own = replace(config, online=replace(config.online, vllm="colocate"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "mine")

    with released(own):  # no engine was started
        pass
    with pytest.raises(OSError, match="full"), released(own):
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost")
        raise OSError("the disk is full")
    assert cleaned == [1] and not {"RANK", "WORLD_SIZE"} & {*os.environ} and os.environ["MASTER_ADDR"] == "mine"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with released(own):
        pass
    assert cleaned == [1] and os.environ["RANK"] == "1", "a launcher's"


@pytest.mark.parametrize("method", METHODS)
def test_the_base_is_as_before_after_an_update_of_vllms_weights(tiny_llama, method):
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    model = get_peft_model(base, LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    before = {name: weight.clone() for name, weight in model.named_parameters()}

    def changed():
        return [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]

    def update():
        model.merge_adapter()
        model.unmerge_adapter()

    trainer = SimpleNamespace(model=model, _move_model_to_vllm=update)
    trainer.vllm_generation = SimpleNamespace(sync_weights=update)
    keep_base(trainer, method)
    (trainer.vllm_generation.sync_weights if method == "grpo" else trainer._move_model_to_vllm)()
    assert not changed()
    update()
    assert changed() and all("base_layer" in name for name in changed()), "what rounding leaves"


class Shortest:
    """A reward with settings of its own, whose `repr` tells an address."""

    def __call__(self, candidates):
        return brevity(candidates)


def test_a_run_that_was_killed_knows_its_reward_again_in_another_process(config):
    def recorded(reward):
        return replace(config.online, rewards=(reward,), fusion=lambda query, texts: query).recorded()

    assert recorded(Shortest()) == recorded(Shortest())
    assert recorded(brevity)["rewards"] == ["brevity"] and recorded(Shortest())["rewards"][0].endswith(
        "Shortest object>"
    )


def test_grpo_may_do_without_a_reference(config):
    assert replace(config, beta=0).beta == 0
    with pytest.raises(ValueError, match="beta must be above 0"):
        of_method(config, "online-dpo", beta=0)


def test_a_reward_that_reads_answers_is_refused_where_there_are_none(work, tiny_llama):
    queries = [replace(one, answer="") for one in read_queries(work / "queries.jsonl", answers=False)]
    settings = OnlineSettings(str(work / "encoder"), rewards=(lambda candidates: candidates.to_answer,))
    reward = GroupReward(settings, queries, device="cpu")
    for texts in (["air", "sky"], ["air", ""]):
        with pytest.raises(ValueError, match=r"is NaN or infinite for the queries \['q0'\]"):
            reward.parts(["q0"], [texts])


def test_answers_and_ids_are_checked(work, tmp_path):
    rows = [row | {"answer": "" if i < 2 else "air"} for i, row in enumerate(QUERIES)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r'reward "self" compares .* 2 queries have none, such as \[\'q0\', \'q1\'\]'):
        read_queries(tmp_path / "q.jsonl", answers=True)
    assert len(read_queries(tmp_path / "q.jsonl", answers=False)) == 16
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1] * 2))
    with pytest.raises(ValueError, match=r"query ids \['q0'\] are repeated"):
        read_queries(tmp_path / "q.jsonl", answers=False)


# --- collapse


def test_figures_of_texts():
    texts = [Written("The sky?", False), Written("", True), Written("blue air blue air", False)]
    found = text_figures(texts, ["the sky", "iron", "bread"])
    assert found == {
        "distinct_2": pytest.approx(3 / 4),
        "words": 2.0,
        "truncated": pytest.approx(1 / 3),
        "empty": pytest.approx(1 / 3),
        "as_query": pytest.approx(1 / 3),
    }
    assert distinct_2([]) == distinct_2(["one", "two"]) == 0
    repeated = ["**The sky**, the sky!", '"sky"', "the sky is blue", "?"]
    assert text_figures([Written(text, False) for text in repeated], ["the sky"] * 4)["as_query"] == 1 / 2


HEALTHY = {"reward": 0.3, "measure": 0.0, "distinct_2": 0.8, "empty": 0.0, "as_query": 0.0}


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ({"reward": 0.6, "measure": -0.01}, None),
        (
            {"reward": 0.6, "measure": -0.1},
            "reward rose from 0.300 to 0.600, but the gain of the search fell from 0.000",
        ),
        ({"reward": 0.6, "measure": -0.1, "measure_error": 0.06}, None),
        ({"reward": 0.6, "measure": -0.1, "measure_error": 0.04}, "the gain of the search fell from 0.000 to -0.100"),
        ({"reward": 0.2, "measure": -0.1}, None),
        ({"empty": 0.3, "as_query": 0.3}, "60 % of the texts for held-out queries are empty or repeat the query"),
        ({"distinct_2": 0.3}, "the texts repeat themselves: of neighbouring words 0.30"),
    ],
)
def test_a_collapse_is_told_from_two_evaluations(last, reason):
    found = collapse([HEALTHY, HEALTHY | last])
    assert found is None if reason is None else reason in found
    assert collapse([HEALTHY | last]) is None, "a model that begins like this has not collapsed"


# --- by name


def test_a_method_is_named_in_one_way():
    offline = {"base": "b", "pairs": "p", "out": "o"}
    named, by_loss = (
        ExpanderTrainingConfig(**offline, method="sft-best"),
        ExpanderTrainingConfig(**offline, losses={"sft": 1}),
    )
    assert named == by_loss and named.recorded() == by_loss.recorded() and named.losses == {"sft": 1.0}
    assert "method" not in named.recorded() and "method" not in ExpanderTrainingConfig(**offline).recorded()
    with pytest.raises(ValueError, match="method must be one of"):
        ExpanderTrainingConfig(**offline, method="ppo")
    with pytest.raises(ValueError, match="method 'grpo' needs online settings"):
        ExpanderTrainingConfig(**offline, method="grpo")


def test_the_command_trains_online(config, work, tmp_path):
    given = {"method": "grpo", "base": config.base, "queries": config.pairs, "out": tmp_path / "out", "epochs": 0.3}
    given |= {"encoder": work / "encoder", "reward": "retriever=1", "group-size": 2, "batch-size": 8}
    given |= {"evaluations": 1, "max-new-tokens": 5}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    done = CliRunner().invoke(app, ["train", "online", *words, "--reward", "length:3=0.5"])
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out" / "expander.json").read_text())["settings"]
    assert settings["method"] == "grpo" and settings["online"]["rewards"] == ["retriever", "length:3"]
    assert settings["online"]["weights"] == [1.0, 0.5] and settings["online"]["max_new_tokens"] == 5
    renamed = {"target_module": "target_modules", "queries": "pairs", "reward": "rewards"}
    options = {renamed.get(name, name) for name in inspect.signature(online).parameters}
    settings = {field.name for kind in (ExpanderTrainingConfig, OnlineSettings) for field in fields(kind)}
    of_pairs = {"report_prompts", "report_tokens"} | NOT_ONLINE
    assert options == settings - {"online", "weights"} - of_pairs
