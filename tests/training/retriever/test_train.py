import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import DPRContextEncoder, DPRQuestionEncoder

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.encoding.models.dpr import open_dpr
from pyterrier_expandr.training.data.examples import TrainingExample, open_examples, split_examples, write_examples
from pyterrier_expandr.training.retriever.data import survey, training_rows
from pyterrier_expandr.training.retriever.train import RetrieverTrainingConfig, train_retriever
from tests.encoders_tiny import build_dpr
from tests.tiny_encoder import build_tiny_bert

EXPANSIONS = str(pocket().expansions_path)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("bert"), dropout=0.1)


def config(base, out, **options):
    """Pocket's 36 training pairs in batches of 8: five steps an epoch."""
    settings = {"batch_size": 8, "epochs": 2, "max_length": 64, "learning_rate": 1e-3, "dev_fraction": 0.2}
    settings |= {"expansions": EXPANSIONS, "evaluations": 3, "mini_batch_size": 5, "device": "cpu"}
    return RetrieverTrainingConfig(str(base), options.pop("data", "pocket"), str(out), **(settings | options))


def record(out):
    return json.loads((Path(out) / "retriever.json").read_text())


def losses(out):
    return [entry["loss"] for entry in json.loads((Path(out) / "steps.json").read_text()) if "loss" in entry]


def dev_scores(out):
    return {e["step"]: e["ndcg@10"] for e in json.loads((Path(out) / "steps.json").read_text()) if "ndcg@10" in e}


def weights(out):
    return load_file(Path(out) / "model.safetensors")


def assert_equal_weights(one, other, **tolerance):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerance)


@pytest.fixture(scope="module")
def trained(tiny_bert, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out"
    assert train_retriever(config(tiny_bert, out)) == out
    return out


def test_training_moves_every_weight(tiny_bert, trained):
    before, after = load_file(Path(tiny_bert) / "model.safetensors"), weights(trained)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == before.keys()
    assert len(losses(trained)) == 10
    found = record(trained)
    assert found["data"] == {"pairs": 36, "with an expansion": 36, "held-out queries": 6}
    assert found["steps"] == 10 and found["before"] is not None
    assert list(dev_scores(trained)) == [0, 4, 8, 10]
    assert not trained.with_name("out.work").exists()


def test_the_best_checkpoint_is_kept_and_patience_ends(tiny_bert, tmp_path):
    """Wrong documents are taught to a trained encoder: what is saved is an early step, and scores so again."""
    options = {"expansions": None, "stage": "ft"}
    base = train_retriever(config(tiny_bert, tmp_path / "base", epochs=12, dev_fraction=0, **options))
    good = list(open_examples("pocket", "train"))
    wrong = [replace(e, positives=f.positives, positive_ids=f.positive_ids) for e, f in pairwise(good)]
    options |= {"data": write_some(tmp_path / "wrong.jsonl", wrong), "evaluations": 10, "learning_rate": 5e-3}
    options |= {"dev_data": write_some(tmp_path / "dev.jsonl", [replace(e, query=e.query + "?") for e in good])}
    out = train_retriever(config(base, tmp_path / "out", **options))
    scores, found = dev_scores(out), record(out)
    assert found["after"] == scores[found["kept_step"]] > scores[max(scores)] + 0.05 and found["kept_step"] == 2
    again = train_retriever(config(out, tmp_path / "again", **options | {"stage": "raw"}))
    assert record(again)["before"] == pytest.approx(found["after"], abs=1e-9)
    stopped = train_retriever(config(base, tmp_path / "stopped", patience=2, **options))
    assert list(dev_scores(stopped)) == [0, 2, 4, 6] and record(stopped)["kept_step"] == 2
    assert_equal_weights(stopped, out, atol=1e-6, rtol=1e-5)


def test_a_trained_encoder_opens_in_three_ways(trained, tmp_path):
    """In a fresh process, by this package, by sentence-transformers and by pyterrier_dr: the same embeddings."""
    script = """
import sys, numpy as np, pandas as pd
from sentence_transformers import SentenceTransformer
from pyterrier_dr import SBertBiEncoder
from pyterrier_expandr import ExpandREncoder
texts = ["why is the sky blue", "air scatters short waves more than long ones " * 20]
ours = np.asarray(ExpandREncoder(sys.argv[1], device="cpu").encode_docs(texts))
theirs = SentenceTransformer(sys.argv[1], device="cpu").encode_document(texts)
third = SBertBiEncoder(sys.argv[1], device="cpu")
assert abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-6
np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)
np.testing.assert_allclose(ours, third.encode_docs(texts), atol=1e-6, rtol=0)
queries = np.asarray(ExpandREncoder(sys.argv[1], device="cpu").encode_queries(texts))
np.testing.assert_allclose(queries, SentenceTransformer(sys.argv[1]).encode_query(texts), atol=1e-6, rtol=0)
np.testing.assert_allclose(queries, third.encode_queries(texts), atol=1e-6, rtol=0)
np.save(sys.argv[2], ours)
"""
    subprocess.run([sys.executable, "-c", script, trained, tmp_path / "v.npy"], check=True, capture_output=True)
    files = {path.name for path in trained.iterdir()}
    assert {"modules.json", "1_Pooling", "2_Normalize", "README.md", "retriever.json", "steps.json"} <= files
    assert json.loads((trained / "config_sentence_transformers.json").read_text())["similarity_fn_name"] == "dot"
    assert np.load(tmp_path / "v.npy").shape == (2, 32)


def test_prompts_are_trained_with_and_saved(tiny_bert, trained, tmp_path):
    options = {"query_prompt": "query: ", "doc_prompt": "passage: "}
    out = train_retriever(config(tiny_bert, tmp_path / "out", **options))
    assert losses(out)[0] != losses(trained)[0]
    source = ExpandREncoder(out, device="cpu").source
    assert (source["query_prompt"], source["doc_prompt"]) == ("query: ", "passage: ")
    assert source["max_length"] == 64 and source["pooling"] == "mean" and source["normalize"] is True


def test_the_model_card_says_what_was_done(trained):
    card = (trained / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers")
    for text in ("Data: `pocket`: 36 pairs", "| profile | 'paper' |", "transformers 5", "fused with their expansions"):
        assert text in card, text
    assert f"| before | {record(trained)['before']:.4f} |" in card and str(trained.parent) not in card


def test_stages_differ_by_one_field(tiny_bert, trained, tmp_path):
    ft = train_retriever(config(tiny_bert, tmp_path / "ft", stage="ft"))
    raw = train_retriever(config(tiny_bert, tmp_path / "raw", stage="raw"))
    ours, theirs = record(trained), record(ft)
    differ = {name for name, value in ours["settings"].items() if theirs["settings"][name] != value}
    assert differ == {"stage", "data_sha256"}
    assert theirs["data"]["with an expansion"] == 0 and losses(ft)[0] != losses(trained)[0]
    assert torch.equal(weights(raw)["embeddings.word_embeddings.weight"], base_weight(tiny_bert))
    assert record(raw)["before"] == theirs["before"] and record(raw)["steps"] == 0


def base_weight(folder):
    return load_file(Path(folder) / "model.safetensors")["embeddings.word_embeddings.weight"]


def test_caching_and_checkpointing_change_no_number(tmp_path):
    bare = build_tiny_bert(tmp_path / "bert")  # without dropout
    plain = train_retriever(config(bare, tmp_path / "plain", mini_batch_size=None))
    cached = train_retriever(config(bare, tmp_path / "cached", mini_batch_size=3, gradient_checkpointing=True))
    np.testing.assert_allclose(losses(plain), losses(cached), atol=1e-4)
    assert record(plain)["settings"] == record(cached)["settings"]


def test_a_finished_run_is_given_back_and_others_are_refused(tiny_bert, trained, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert train_retriever(config(tiny_bert, trained, mini_batch_size=2)) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before
    with pytest.raises(ValueError, match=r"different settings \(learning_rate: 0.001 there, 0.002 here\)"):
        train_retriever(config(tiny_bert, trained, learning_rate=2e-3))
    fewer = tmp_path / "fewer.jsonl"
    lines = Path(EXPANSIONS).read_text().splitlines(keepends=True)
    fewer.write_text("".join(line for line in lines if json.loads(line)["query_id"] != trained_on()))
    with pytest.raises(ValueError, match="data_sha256"):
        train_retriever(config(tiny_bert, trained, expansions=fewer))


def trained_on():
    """The id of a query of the training split."""
    return next(iter(open_examples("pocket", "train"))).query_id


KILL = """
import os, signal, sys, resource
from pyterrier_expandr.training.retriever import trainer as retriever_trainer
from pyterrier_expandr.training.retriever import RetrieverTrainingConfig, train_retriever
from pyterrier_expandr.training.retriever.data import survey
import json
def on_step_begin(self, args, state, control, **_):
    if state.global_step == int(sys.argv[2]):
        {action}
retriever_trainer.EvaluateAtTheEnd.on_step_begin = on_step_begin
train_retriever(RetrieverTrainingConfig(**json.loads(sys.argv[1])))
"""


def run_until(step, action, settings):
    command = [sys.executable, "-c", KILL.format(action=action), json.dumps(asdict(settings)), str(step)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_after_kill_9_the_same_losses_and_weights(tiny_bert, trained, tmp_path):
    """Killed in the second epoch, three steps behind the last checkpoint; dropout is on."""
    settings = config(tiny_bert, tmp_path / "out")
    killed = run_until(7, "os.kill(os.getpid(), signal.SIGKILL)", settings)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    work = tmp_path / "out.work"
    assert not (tmp_path / "out").exists() and (work / "checkpoints" / "checkpoint-4").is_dir()
    with pytest.raises(ValueError, match="batch_size: 8 there, 16 here"):
        train_retriever(config(tiny_bert, tmp_path / "out", batch_size=16))
    out = train_retriever(settings)
    assert losses(out) == pytest.approx(losses(trained), abs=1e-6)
    assert record(out) == record(trained)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (trained / name).read_bytes()
    assert json.loads((out / "tokenizer.json").read_text())["padding"] is None, "as in the base"
    assert_equal_weights(out, trained, atol=1e-6, rtol=1e-5)


def test_a_full_disk_leaves_the_earlier_checkpoint(tiny_bert, trained, tmp_path):
    """Files may not grow beyond 50 kB from the sixth step on, so that checkpoint-8 cannot be written."""
    settings = config(tiny_bert, tmp_path / "out")
    full = run_until(6, "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))", settings)
    assert full.returncode == 1
    assert "OSError" in full.stderr and "checkpoint-8 could not be written" in full.stderr, full.stderr[-3000:]
    assert "continues from checkpoint-4, which is complete" in full.stderr
    out = train_retriever(settings)
    assert losses(out) == pytest.approx(losses(trained), abs=1e-6)
    assert_equal_weights(out, trained, atol=1e-6, rtol=1e-5)


def test_two_processes_train_as_one_does(tmp_path):
    """torchrun with two gloo processes: the same losses, scores and weights as one process with the same batch."""
    bare = build_tiny_bert(tmp_path / "bert")
    pairs = [replace(e, positives=e.positives[:1], positive_ids=e.positive_ids[:1]) for e in open_examples("pocket")]
    data = write_some(tmp_path / "train.jsonl", pairs[:18])
    dev = write_some(tmp_path / "dev.jsonl", pairs[18:])
    alone = train_retriever(config(bare, tmp_path / "alone", data=data, dev_data=dev, batch_size=6))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "pyterrier_expandr.training.retriever", "--base", bare, "--data", data, "--dev-data", dev]
    command += ["--out", tmp_path / "two", "--expansions", EXPANSIONS, "--batch-size", 6, "--epochs", 2]
    command += ["--max-length", 64, "--learning-rate", 1e-3, "--dev-fraction", 0.2, "--evaluations", 3]
    command += ["--mini-batch-size", 5, "--device", "cpu"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"before"') == 1
    assert len(losses(alone)) == 6 and losses(tmp_path / "two") == pytest.approx(losses(alone), abs=1e-4)
    assert dev_scores(tmp_path / "two") == pytest.approx(dev_scores(alone), abs=1e-6)
    two, one = weights(tmp_path / "two"), weights(alone)
    for name in one:
        if not name.endswith(
            "key.bias"
        ):  # softmax takes it out: its gradient is rounding, which Adam makes as large as any
            torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=1e-4)


def test_without_a_held_out_part_the_last_step_is_kept(tiny_bert, tmp_path):
    out = train_retriever(config(tiny_bert, tmp_path / "out", dev_fraction=0))
    found = record(out)
    assert found["data"]["held-out queries"] == 0 and found["kept_step"] == found["steps"] == len(losses(out))
    assert found["before"] is found["after"] is None and "not measured" in (out / "README.md").read_text()


# What goes wrong


def examples(path, *rows):
    write_examples(path, [TrainingExample(str(n), *row) for n, row in enumerate(rows)])
    return str(path)


def ragged(n, **options):
    texts = [row["text"] for row in pocket("train").get_corpus_iter()]
    return (
        f"question {n}",
        (f"d{n}",),
        (texts[n],),
        tuple(texts[50 + n : 50 + n + n % 4]),
        tuple(texts[100:][: n % 3]),
    )


def test_too_few_queries_to_hold_any_out(tiny_bert, tmp_path, caplog):
    data = examples(tmp_path / "data.jsonl", *(ragged(n) for n in range(4)))
    out = train_retriever(
        config(tiny_bert, tmp_path / "out", data=data, expansions=None, dev_fraction=1e-6, patience=1)
    )
    assert "too few queries to hold any out" in caplog.text and record(out)["after"] is None


def test_ragged_data_is_trained_on(tiny_bert, tmp_path, caplog):
    """Negatives and expansions of any number, expansions that are empty; a batch larger than the data."""
    rows = [ragged(n) for n in range(9)]
    rows[1] = (*rows[1][:4], ("  ",))
    data = examples(tmp_path / "data.jsonl", *rows)
    options = {"expansions": None, "dev_fraction": 0, "batch_size": None, "negatives": 2}
    settings = RetrieverTrainingConfig(tiny_bert, data, str(tmp_path / "out"), max_length=64, device="cpu", **options)
    out = train_retriever(settings)
    assert len(losses(out)) == 3 and record(out)["data"]["with an expansion"] == 5
    assert "batch_size is larger than the 9 training pairs: each step uses 9" in caplog.text
    assert "4 of 9 pairs have no expansion" in caplog.text


def test_no_positives_and_no_data(tiny_bert, tmp_path, monkeypatch):
    from pyterrier_expandr.training.retriever import data as retriever_data

    one = examples(tmp_path / "one.jsonl", ragged(2))
    with pytest.raises(ValueError, match="leaves 1 training pairs, but contrastive training needs at least two"):
        train_retriever(RetrieverTrainingConfig(tiny_bert, one, tmp_path / "out", dev_fraction=0))
    lonely = [TrainingExample("q7", "why", (), ())]
    monkeypatch.setattr(retriever_data, "open_examples", lambda *_, **__: iter(lonely))
    with pytest.raises(ValueError, match="query 'q7' has no positive"):
        train_retriever(config(tiny_bert, tmp_path / "out", dev_fraction=0))


def test_held_out_queries_that_are_trained_on(tiny_bert, tmp_path):
    dev = write_some(tmp_path / "dev.jsonl", list(open_examples("pocket", "train"))[3:5])
    with pytest.raises(ValueError, match=r"2 of the held-out queries are also trained on.*\['q0\d', 'q\d+'\]"):
        train_retriever(config(tiny_bert, tmp_path / "out", dev_data=dev))
    other = write_some(tmp_path / "other.jsonl", list(open_examples("pocket", "test"))[:5])
    out = train_retriever(config(tiny_bert, tmp_path / "out", dev_data=other))
    assert record(out)["data"]["held-out queries"] == 5


def write_some(path, found):
    write_examples(path, found)
    return str(path)


def test_a_part_of_data_is_held_out_from_like_any_data(tmp_path):
    """A recipe parts the queries by the same seed: the held-out part must not be all or nothing of what it hands over."""
    queries = [TrainingExample(str(n), f"query {n}", (f"d{n}",), (f"text {n}",)) for n in range(400)]
    for name in ("llm", "retriever"):
        own = (e for part, e in split_examples(queries, {"llm": 0.5, "retriever": 0.5}, 42) if part == name)
        count = write_examples(tmp_path / f"{name}.jsonl", own)
        held_out = survey(RetrieverTrainingConfig("b", str(tmp_path / f"{name}.jsonl"), "o", stage="ft")).dev
        assert 0.05 < len(held_out) / count < 0.15


def test_spellings_of_a_query_are_held_out_together(tmp_path):
    rows = [
        TrainingExample(f"{n}{w[0]}", f"{w} is item {n}", (f"d{n}",), (f"text {n}",))
        for n in range(40)
        for w in ("What", "what")
    ]
    write_examples(tmp_path / "rows.jsonl", rows)
    found = survey(RetrieverTrainingConfig("b", str(tmp_path / "rows.jsonl"), "o", stage="ft"))
    assert found.dev and found.rows + 2 * len(found.dev) == 80


def test_expansions_are_cleaned_as_in_retrieval(tmp_path):
    spoken = "Here is a passage that answers the question:\n\nItem 1 is a thing.\n\nI hope this helps!"
    rows = [
        TrainingExample(
            str(n), f"what is item {n}", (f"d{n}",), (f"text {n}",), expansions=(spoken, "I can't help with that.")
        )
        for n in range(4)
    ]
    write_examples(tmp_path / "rows.jsonl", rows)
    settings = RetrieverTrainingConfig("b", str(tmp_path / "rows.jsonl"), "o", dev_fraction=0)
    assert [row["expansions"] for row in training_rows(settings, survey(settings))] == [["Item 1 is a thing."]] * 4


def test_no_expansions(tiny_bert, tmp_path):
    with pytest.raises(ValueError, match=r'no query of .pocket. has an expansion.*stage="ft"'):
        train_retriever(config(tiny_bert, tmp_path / "out", expansions=None))


def test_expansions_of_another_collection(tiny_bert, tmp_path):
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"query_id": "q02", "query": "something else", "passage": "text"}\n')
    with pytest.raises(ValueError, match="recorded for query 'q02' belongs to 'something else'"):
        train_retriever(config(tiny_bert, tmp_path / "out", expansions=str(wrong)))


def test_pooling_that_contradicts_the_profile(tiny_bert, trained, tmp_path, caplog):
    cls = ExpandREncoder(tiny_bert, pooling="cls", normalize=True, device="cpu")
    cls.model.save_pretrained(str(tmp_path / "cls"))
    out = train_retriever(config(str(tmp_path / "cls"), tmp_path / "out", profile="reference-contriever"))
    assert "the profile 'reference-contriever', which pools by 'mean', overrides the pooling 'cls'" in caplog.text
    assert ExpandREncoder(out).source["pooling"] == "mean"
    own = train_retriever(config(str(tmp_path / "cls"), tmp_path / "own"))
    assert ExpandREncoder(own).source["pooling"] == "cls"
    with pytest.raises(ValueError, match="first decoder position.*does not fit .*choose another profile"):
        train_retriever(config(tiny_bert, tmp_path / "no", profile="reference-anchordr"))


@pytest.mark.usefixtures("pickles_allowed")
def test_a_profile_without_normalisation_saves_none(tmp_path):
    """AnchorDR by its own profile: the raw dot product is trained, and the saved modules say so."""
    from tests.anchordr_tiny import build_tiny_anchordr

    base = build_tiny_anchordr(tmp_path / "anchordr")
    out = train_retriever(config(str(base), tmp_path / "out", profile="reference-anchordr", learning_rate=1e-4))
    source = ExpandREncoder(out, device="cpu").source
    assert source["normalize"] is False and len(losses(out)) == 10
    before, after = ExpandREncoder(str(base), device="cpu", normalize=False), ExpandREncoder(out, device="cpu")
    assert np.abs(before.encode_docs(["light"]) - after.encode_docs(["light"])).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stage": "train"}, ValueError, "stage must be one of"),
        ({"profile": "contriever"}, ValueError, "profile must be one of .*reference-contriever"),
        ({"batch_size": 1}, ValueError, "batch_size must be 2 or more"),
        ({"learning_rate": "1e-5"}, TypeError, "write 1.0e-5"),
        ({"temperature": 0}, ValueError, "temperature must be above 0"),
        ({"epochs": 0}, ValueError, "epochs must be above 0"),
        ({"dev_fraction": 1}, ValueError, "below 1"),
        ({"patience": 2, "dev_fraction": 0}, ValueError, "patience needs held-out queries"),
        ({"fusion": max}, TypeError, "cannot be saved with the settings"),
        ({"fusion": 2.0}, ValueError, "between 0 and 1"),
        ({"batch_size": 7.5}, TypeError, "whole number"),
        ({"device": "cuda:1"}, ValueError, "with CUDA_VISIBLE_DEVICES"),
        ({"mini_batch_size": 0}, ValueError, "mini_batch_size must be 1 or more"),
    ],
)
def test_settings_that_mean_nothing(options, error, message):
    with pytest.raises(error, match=message):
        RetrieverTrainingConfig("base", "data", "out", **options)


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "fp16"}, {"precision": "fp16", "device": None}])
def test_what_needs_a_gpu_says_so(options, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a GPU, but there is none"):
        train_retriever(config("base", tmp_path / "out", **options))


def test_half_precision_on_a_cpu(tiny_bert, trained, tmp_path):
    """The products are rounded to bfloat16, the loss and the saved weights are not."""
    out = train_retriever(config(tiny_bert, tmp_path / "out", precision="bf16"))
    assert losses(out) != losses(trained) and losses(out) == pytest.approx(losses(trained), rel=0.2)
    assert {value.dtype for value in weights(out).values()} == {torch.float32}


def test_the_defaults_are_the_papers():
    found = RetrieverTrainingConfig("base", "data", "out")
    assert (found.learning_rate, found.epochs, found.max_length, found.seed) == (1e-5, 3, 512, 42)
    assert (found.profile, found.negatives, found.fusion, found.dev_fraction) == ("paper", 1, "average", 0.1)


def test_tensorboard_is_optional(tiny_bert, tmp_path):
    import importlib.util

    if importlib.util.find_spec("tensorboard"):
        out = train_retriever(config(tiny_bert, tmp_path / "out", tensorboard=True))
        assert any((out / "runs").rglob("events.out*"))
    else:
        with pytest.raises(ImportError, match=r"pyterrier_expandr\[tensorboard\]"):
            train_retriever(config(tiny_bert, tmp_path / "out", tensorboard=True))


def test_the_command(tiny_bert, trained, tmp_path):
    from typer.testing import CliRunner

    from pyterrier_expandr.cli import app
    from tests.command import expandr

    arguments = ["--base", tiny_bert, "--data", "pocket", "--out", tmp_path / "out", "--expansions", EXPANSIONS]
    arguments += ["--batch-size", 8, "--epochs", 2, "--max-length", 64, "--learning-rate", 1e-3, "--dev-fraction", 0.2]
    arguments += ["--evaluations", 3, "--mini-batch-size", 5, "--device", "cpu"]
    out = expandr("train", "retriever", *arguments)
    assert json.loads(out[: out.rindex("}") + 1])["after"] == record(trained)["after"]
    assert record(tmp_path / "out")["settings"] == record(trained)["settings"]
    assert losses(tmp_path / "out") == pytest.approx(losses(trained), abs=1e-6)
    runner = CliRunner()
    assert "Example: expandr train retriever" in runner.invoke(app, ["train", "retriever", "--help"]).output
    wrong = runner.invoke(app, ["train", "retriever", *map(str, arguments), "--stage", "best"])
    assert str(wrong.exception).startswith("--stage must be one of")


def test_minilm_learns_pocket(minilm, tmp_path):
    """A real encoder: held-out queries, fused, find their documents at least as well after training."""
    out = train_retriever(
        RetrieverTrainingConfig(
            minilm,
            "pocket",
            str(tmp_path / "out"),
            expansions=EXPANSIONS,
            batch_size=16,
            epochs=1,
            max_length=64,
            dev_fraction=0,
            device="cpu",
        )
    )
    found = losses(out)
    assert len(found) == 3 and all(np.isfinite(found))
    frame = pd.DataFrame({"qid": ["1"], "query": ["why is the sky blue"]})
    vector = ExpandREncoder(out, device="cpu").query_encoder()(frame)["query_vec"][0]
    raw = ExpandREncoder(minilm, device="cpu", max_length=64).query_encoder()(frame)["query_vec"][0]
    assert 0.9 < float(np.asarray(vector) @ np.asarray(raw)) < 1 - 1e-6


def test_two_encoders_are_trained_each_on_its_own_side(tmp_path):
    question = build_dpr(tmp_path / "question", DPRQuestionEncoder, 1)
    open_dpr(question, build_dpr(tmp_path / "context", DPRContextEncoder, 2)).save_pretrained(str(tmp_path / "dpr"))
    out = train_retriever(config(tmp_path / "dpr", tmp_path / "out", epochs=1))
    assert record(out)["before"] is not None
    encoders = [ExpandREncoder(folder, device="cpu").model[0].sub_modules for folder in (tmp_path / "dpr", out)]
    for side in ("query", "document"):
        before, after = (encoder[side].state_dict() for encoder in encoders)
        assert any(not torch.equal(value, after[name]) for name, value in before.items()), side
    with pytest.raises(ValueError, match="two encoders each set their own pooling"):
        train_retriever(config(tmp_path / "dpr", tmp_path / "other", pooling="cls"))


def test_a_base_that_cuts_its_vectors_is_trained_whole(tiny_bert, tmp_path, caplog):
    model = ExpandREncoder(tiny_bert, normalize=True, truncate_dim=8, device="cpu").model
    model.save_pretrained(str(tmp_path / "base"))
    out = train_retriever(config(tmp_path / "base", tmp_path / "out", stage="raw"))
    assert "training uses full ones" in caplog.text
    assert SentenceTransformer(str(out), device="cpu").encode("sky").shape == (32,)
