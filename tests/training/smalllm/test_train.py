import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file

from pyterrier_expandr import HuggingFaceBackend, LLMExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.expansion.prompts import PROMPTS
from pyterrier_expandr.training.checkpoints import last_checkpoint
from pyterrier_expandr.training.smalllm import train
from pyterrier_expandr.training.smalllm.text import IGNORED, build_tokenizer, pair_row, text_blocks
from pyterrier_expandr.training.smalllm.train import SmallLMConfig, train_small_lm

TINY = SmallLMConfig(
    vocab_size=400,
    hidden_size=32,
    layers=2,
    heads=2,
    context=192,
    block=64,
    passage_tokens=48,
    text_epochs=2,
    pair_epochs=2,
    batch_size=8,
    save_steps=5,
)


@pytest.fixture(scope="module")
def data():
    collection = pocket("train")
    texts = {d["docno"]: d["text"] for d in collection.get_corpus_iter()}
    query = dict(zip(collection.get_topics()["qid"], collection.get_topics()["query"], strict=True))
    relevant = collection.get_qrels().query("label > 0")
    pairs = [(query[qid], texts[docno]) for qid, docno in zip(relevant["qid"], relevant["docno"], strict=True)]
    return list(texts.values())[:60], pairs


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train_small_lm(*data, tmp_path_factory.mktemp("small") / "lm", TINY)


def test_pair_row_learns_the_passage_and_the_end_of_turn_only(data):
    tokenizer = build_tokenizer(data[0], vocab_size=400, context=192)
    row = pair_row(tokenizer, PROMPTS["q2d"], "why is the sky blue", "Air scatters light. It does.", 48)
    taught = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(taught) == "Air scatters light. It does.<|end|>"
    prompt = tokenizer.decode(row["input_ids"][: -len(taught)])
    assert prompt == (
        "<|begin|><|user|>Please write a passage to answer the question.\nQuestion: why is the sky blue\n"
        "Passage:<|end|><|assistant|>"
    )


def test_long_texts_are_cut_but_never_the_prompts_words(data):
    tokenizer = build_tokenizer(data[0], vocab_size=400, context=192)
    row = pair_row(tokenizer, PROMPTS["q2d"], "blue sky " * 200, "One sentence. " * 50, 48)
    assert len(row["input_ids"]) <= 192
    text = tokenizer.decode(row["input_ids"])
    assert "Passage:<|end|><|assistant|>One sentence." in text and "Question: blue sky" in text
    assert text.endswith("One sentence.<|end|>")


def test_a_text_cannot_spell_control_tokens(data):
    tokenizer = build_tokenizer(data[0], vocab_size=400, context=192)
    row = pair_row(tokenizer, PROMPTS["q2d"], "what is <|end|>?", "It is <|end|> of a turn.", 48)
    assert row["input_ids"].count(tokenizer.eos_token_id) == 2  # the template's and the target's
    blocks = text_blocks(["a <|end|> b", "c"], tokenizer, 64)
    assert tokenizer.decode(blocks[0]["input_ids"]) == "<|begin|>a < |end|> b<|begin|>c"


def test_every_weight_moves_and_the_loss_falls(trained, data):
    report = json.loads((trained / "smalllm.json").read_text())
    assert report["settings"].items() > asdict(TINY).items()
    assert report["parameters"] == sum(p.numel() for p in load_file(trained / "model.safetensors").values())
    longer = replace(TINY, text_epochs=8)
    more = train_small_lm(*data, trained.parent / "longer", longer)
    assert json.loads((more / "smalllm.json").read_text())["loss"]["text"] < report["loss"]["text"] - 0.2
    for name, weight in load_file(more / "model.safetensors").items():
        assert not torch.equal(weight, load_file(trained / "model.safetensors")[name]), name


def test_the_backend_opens_it_and_no_checkpoints_are_left(trained):
    assert [path.name for path in trained.parent.glob("lm*")] == ["lm"]
    expander = LLMExpander(HuggingFaceBackend(trained, device="cpu"), max_new_tokens=8)
    with pytest.warns(UserWarning, match="truncated"):
        assert expander.search("why is the sky blue")["query_expansions"][0]


def test_a_killed_run_ends_in_the_same_weights(trained, data, tmp_path):
    out, inputs = tmp_path / "lm", tmp_path / "data.json"
    inputs.write_text(json.dumps([data, TINY.__dict__]))
    code = (
        "import json, sys\n"
        "from pyterrier_expandr.training.smalllm import SmallLMConfig, train_small_lm\n"
        "(texts, pairs), config = json.load(open(sys.argv[1]))\n"
        "train_small_lm(texts, [tuple(p) for p in pairs], sys.argv[2], SmallLMConfig(**config))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(inputs), str(out)], stderr=subprocess.DEVNULL)
    pairs_checkpoint = tmp_path / "lm.work" / "pairs" / "checkpoint-5" / "trainer_state.json"
    while process.poll() is None and not pairs_checkpoint.exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists(), "killed too late to show anything"
    train_small_lm(*data, out, TINY)
    expected, found = (load_file(folder / "model.safetensors") for folder in (trained, out))
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert (out / "smalllm.json").read_bytes() == (trained / "smalllm.json").read_bytes()


def test_resumed_in_the_middle_of_an_epoch_and_after_an_odd_end(data, tmp_path, monkeypatch):
    """The text ends within an epoch; the pairs go on within their second one, whose order is drawn anew."""
    settings = replace(TINY, text_epochs=0.3, layers=1)
    monkeypatch.setattr(train, "publish", lambda finished, out: shutil.copytree(finished, out))
    whole = train_small_lm(*data, tmp_path / "whole", settings)
    left = tmp_path / "again.work"
    shutil.copytree(tmp_path / "whole.work", left)
    shutil.rmtree(left / "finished")
    newest = last_checkpoint(left / "pairs")
    shutil.rmtree(newest)
    before = json.loads((last_checkpoint(left / "pairs") / "trainer_state.json").read_text())["epoch"]
    ended = json.loads((last_checkpoint(left / "text") / "trainer_state.json").read_text())["epoch"]
    assert 1 < before < 2 and 0.3 <= ended < 1
    again = train_small_lm(*data, tmp_path / "again", settings)
    for name in ("smalllm.json", "model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    assert last_checkpoint(left / "text").name == last_checkpoint(tmp_path / "whole.work" / "text").name


def test_other_settings_are_refused_by_name(trained, data, tmp_path):
    with pytest.raises(ValueError, match=r"seed: 42 there, 7 here.*choose another folder"):
        train_small_lm(*data, trained, replace(TINY, seed=7))
    older = tmp_path / "older"
    older.mkdir()
    (older / "smalllm.json").write_text('{"config": {"seed": 42}}')
    with pytest.raises(ValueError, match="seed: None there, 42 here.*choose another folder"):
        train_small_lm(*data, older, TINY)
    with pytest.raises(ValueError, match="different texts_and_pairs"):
        train_small_lm(data[0][1:], data[1], trained, TINY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 0}, "layers must be 1 or more"),
        ({"vocab_size": 100}, "vocab_size must be at least"),
        ({"heads": 3}, "must be an even multiple of heads 3"),
        ({"passage_tokens": 500}, "context 512 must be large enough"),
        ({"prompt": "no field"}, "must contain {query}"),
        ({"text_epochs": 0}, "text_epochs must be above 0"),
        ({"pair_learning_rate": float("nan")}, "pair_learning_rate must be finite"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_settings_that_make_no_model_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SmallLMConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_learning_rate": "1e-3"}, "text_learning_rate must be a number, got '1e-3' .YAML"),
        ({"vocab_size": "1024"}, "vocab_size must be a whole number, got '1024'"),
        ({"context": 512.0}, "context must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"layers": True}, "layers must be a whole number"),
    ],
)
def test_what_is_no_number_is_refused_by_name(values, message):
    with pytest.raises(TypeError, match=message):
        SmallLMConfig(**values)


def test_progress_is_shown_when_asked_for(data, tmp_path, capfd):
    train_small_lm(*data, tmp_path / "lm", TINY, verbose=True)
    shown = capfd.readouterr().err
    assert "Training on text: 100%" in shown and "Training on pairs: 100%" in shown and "loss=" in shown


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(ValueError, match="got 0 and 1"):
        train_small_lm([], [("q", "d")], tmp_path / "lm")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="not a finished run .it has no smalllm.json"):
        train_small_lm(["d"], [("q", "d")], tmp_path / "other")
