import inspect
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from trl.trainer import utils
from typer.testing import CliRunner

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.cli import app
from pyterrier_expandr.cli.train.expander import expander
from pyterrier_expandr.expansion.backends.base import Request, Sampling
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.training.expander import trainer_setup
from pyterrier_expandr.training.expander.merge import merge_adapter
from pyterrier_expandr.training.expander.pair_tokens import end_of_turn, held_out, tokenize_pairs
from pyterrier_expandr.training.expander.report import generation_lengths
from pyterrier_expandr.training.expander.train import ExpanderTrainingConfig, train_expander
from tests.tiny import TEMPLATE, build_tiny_llama
from tests.tiny_gguf import write_gguf

QWEN_LIKE = (
    "{% if messages[0]['role'] != 'system' %}<|start_header_id|>system<|end_header_id|>Be helpful.<|eot_id|>\n{% endif %}"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)


def pair(query: str, chosen: str, rejected: str) -> dict:
    return {
        "query_id": query,
        "prompt": list(render(PROMPTS["q2d"], query=query)),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


PAIRS = [pair(f"question {i}", f"Short waves of light are scattered, {i}.", f"sky why {i} sky") for i in range(20)]


def write(path, pairs) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return str(path)


@pytest.fixture(scope="module")
def config(tiny_llama, tmp_path_factory) -> ExpanderTrainingConfig:
    folder = tmp_path_factory.mktemp("dpo")
    return ExpanderTrainingConfig(
        base=tiny_llama,
        pairs=write(folder / "pairs.jsonl", PAIRS),
        out=str(folder / "adapter"),
        learning_rate=2e-3,
        batch_size=4,
        evaluations=5,
        report_prompts=2,
        report_tokens=8,
    )


@pytest.fixture(scope="module")
def trained(config):
    folder = train_expander(config)
    return folder, json.loads((folder / "expander.json").read_text()), json.loads((folder / "steps.json").read_text())


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def with_tokenizer(base, folder, **changes) -> str:
    """A copy of the model whose tokenizer has other settings; None takes one away."""
    shutil.copytree(base, folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    return str(folder)


def with_template(folder, template) -> str:
    build_tiny_llama(folder, template=template)
    return str(folder)


# --- tokens


def test_a_pair_is_what_the_model_reads_and_writes(tiny_llama):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    row = tokenize_pairs(PAIRS[:1], backend, max_length=200).rows[0]
    tokenizer = backend.tokenizer
    assert row["prompt_ids"] == backend.prompt_ids(PAIRS[0]["prompt"])
    assert row["prompt_ids"].count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(row["prompt_ids"]).endswith(
        "Passage:<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    for side, text in (("chosen_ids", "Short waves of light are scattered, 0."), ("rejected_ids", "sky why 0 sky")):
        assert tokenizer.decode(row[side]) == text + "<|eot_id|>"
        assert row[side].count(tokenizer.eos_token_id) == 1 and row[side][-1] == tokenizer.eos_token_id


def test_the_loss_covers_the_completion_with_its_end_of_turn_and_nothing_else(tiny_llama):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    row = tokenize_pairs(PAIRS[:1], HuggingFaceBackend(tiny_llama, device="cpu"), max_length=200).rows[0]
    batch = DataCollatorForPreference(pad_token_id=0, max_length=200)([row])
    for i, side in enumerate(("chosen_ids", "rejected_ids")):
        assert batch["input_ids"][i][batch["completion_mask"][i].bool()].tolist() == row[side]


def test_nothing_is_taught_behind_the_end_of_turn(tmp_path):
    backend = HuggingFaceBackend(with_template(tmp_path / "qwen", QWEN_LIKE), device="cpu")
    row = tokenize_pairs(PAIRS[:1], backend, max_length=200).rows[0]
    assert backend.tokenizer.decode(row["chosen_ids"]).endswith("scattered, 0.<|eot_id|>")  # no line break
    assert backend.tokenizer.decode(row["prompt_ids"]).count("Be helpful.") == 1


def test_a_text_cannot_spell_an_end_of_turn(tiny_llama):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    row = tokenize_pairs([pair("what is <|eot_id|>", "An <|eot_id|> token.", "b")], backend, max_length=300).rows[0]
    eos = backend.tokenizer.eos_token_id
    assert row["chosen_ids"].count(eos) == 1
    assert row["prompt_ids"].count(eos) == backend.prompt_ids(PAIRS[0]["prompt"]).count(eos)


def test_the_end_of_turn_is_the_templates_even_where_eos_is_another_token(tmp_path):
    template = TEMPLATE.replace("<|eot_id|>{% endfor %}", "<|pad|>{% endfor %}")
    backend = HuggingFaceBackend(with_template(tmp_path / "other", template), device="cpu")
    assert end_of_turn(backend) == backend.tokenizer.convert_tokens_to_ids("<|pad|>")


def test_a_model_without_template_learns_plain_text_and_eos(tmp_path):
    backend = HuggingFaceBackend(with_template(tmp_path / "plain", None), device="cpu")
    row = tokenize_pairs(PAIRS[:1], backend, max_length=200).rows[0]
    assert backend.tokenizer.decode(row["prompt_ids"]) == "<|begin_of_text|>" + PAIRS[0]["prompt"][0]["content"]
    assert row["chosen_ids"][-1] == backend.tokenizer.eos_token_id


def test_a_template_without_generation_prompt_is_refused(tmp_path):
    template = TEMPLATE[: TEMPLATE.index("{% if add_generation_prompt %}")]
    backend = HuggingFaceBackend(with_template(tmp_path / "mute", template), device="cpu")
    with pytest.raises(ValueError, match="starts an answer with .*assistant.* but has no generation prompt.*append "):
        tokenize_pairs(PAIRS, backend, max_length=200)


def test_a_template_that_needs_no_generation_prompt_is_accepted(tmp_path):
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] }}]"
        "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    backend = HuggingFaceBackend(with_template(tmp_path / "brackets", template), device="cpu")
    row = tokenize_pairs(PAIRS[:1], backend, max_length=200).rows[0]
    assert backend.tokenizer.decode(row["prompt_ids"]).endswith("Passage:]")


def test_overlong_pairs_are_dropped_or_cut_and_prompts_never(tiny_llama):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    prompt = len(backend.prompt_ids(PAIRS[0]["prompt"]))
    pairs = [PAIRS[0], pair("question 1", "a long text " * 30, "short"), pair("long question " * 40, "a", "b")]
    dropped = tokenize_pairs(pairs, backend, max_length=prompt + 60)
    assert len(dropped.rows) == 1 and dropped.dropped == {"equal texts": 0, "too long": 2} and dropped.cut == 0
    cut = tokenize_pairs(pairs, backend, max_length=prompt + 60, overlong="cut")
    assert len(cut.rows) == 2 and cut.dropped["too long"] == 1 and cut.cut == 1
    assert cut.rows[1]["prompt_ids"] == backend.prompt_ids(pairs[1]["prompt"])
    assert len(cut.rows[1]["prompt_ids"]) + len(cut.rows[1]["chosen_ids"]) == prompt + 60
    eos = backend.tokenizer.eos_token_id
    assert eos not in cut.rows[1]["chosen_ids"], "a text that was cut must not be taught to end there"
    assert cut.rows[1]["rejected_ids"][-1] == eos


def test_equal_texts_teach_nothing(tiny_llama):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    same = pair("q", "same words", "same words")
    cut_to_same = pair("question 1", "alike " * 30 + "a", "alike " * 30 + "b")
    tokens = tokenize_pairs([same, cut_to_same], backend, max_length=120, overlong="cut")
    assert tokens.rows == [] and tokens.dropped["equal texts"] == 2


def test_pairs_of_a_query_are_held_out_together(tiny_llama):
    tokens = tokenize_pairs(PAIRS + PAIRS, HuggingFaceBackend(tiny_llama, device="cpu"), max_length=200)
    train, apart = held_out(tokens, 0.25, seed=1)
    assert len(train.rows) == 30 and len(apart.rows) == 10
    assert not {json.dumps(p) for p in train.prompts} & {json.dumps(p) for p in apart.prompts}
    assert held_out(tokens, 0.25, seed=1)[1].rows == apart.rows != held_out(tokens, 0.25, seed=2)[1].rows
    assert held_out(tokens, 0.0, seed=1)[1].rows == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a text", "chosen": [], "rejected": []}, "pairs, pair 2: prompt must be a list of chat messages"),
        (PAIRS[0] | {"prompt": ["a text", *PAIRS[0]["prompt"]]}, "pair 2: prompt must be .* with role and content"),
        (
            PAIRS[0] | {"prompt": [{"role": "system"}, *PAIRS[0]["prompt"]]},
            "pair 2: prompt must be .* with role and co",
        ),
        (
            PAIRS[0] | {"chosen": [{"role": "assistant", "content": " "}]},
            "pair 2: chosen must be .* that contains text",
        ),
        (PAIRS[0] | {"rejected": [{"role": "user", "content": "x"}]}, "pair 2: rejected must be .* assistant message"),
    ],
)
def test_broken_rows_are_named(tiny_llama, row, message):
    with pytest.raises(ValueError, match=message):
        tokenize_pairs([PAIRS[0], row], HuggingFaceBackend(tiny_llama, device="cpu"), max_length=200)


# --- training


def test_the_first_loss_is_log_2_and_the_margin_grows(trained):
    _, record, steps = trained
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert record["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert record["before"]["reward_margin"] == 0 and record["before"]["reward_accuracy"] is None
    assert steps[-1]["reward_margin"] > 0.5 and steps[-1]["reward_accuracy"] == 1
    assert record["after"]["reward_margin"] > 0.5 and record["after"]["reward_accuracy"] == 1
    assert record["steps"] == 10 and record["pairs"]["training"] == 18 and record["pairs"]["held out"] == 2


def test_only_the_adapter_moves_and_only_named_modules_carry_it(config, tmp_path):
    from pyterrier_expandr.training.expander.dpo import dpo_trainer

    config = replace(config, target_modules=["k_proj", "o_proj"], lora_r=4, lora_alpha=6, seed=7, max_grad_norm=0.5)
    backend = HuggingFaceBackend(config.base, device="cpu")
    train, apart = held_out(tokenize_pairs(PAIRS, backend, max_length=200), 0.1, seed=1)
    trainer = dpo_trainer(config, backend.tokenizer, train, apart, tmp_path)
    dropouts = {m.p for name, m in trainer.model.named_modules() if isinstance(m, torch.nn.Dropout) and "lora" in name}
    assert dropouts == {0.1}, "the adapter's dropout must be on"
    tuners = [m for m in trainer.model.modules() if isinstance(m, LoraLayer)]
    assert len(tuners) == 4 and {m.scaling["default"] for m in tuners} == {6 / 4}
    assert {m.lora_A["default"].out_features for m in tuners} == {4}
    assert trainer.args.seed == 7 and trainer.args.max_grad_norm == 0.5
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    carriers = set()
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(before[name], weight) != ("lora_" in name), name
        carriers |= {name.split(".")[-4]} if "lora_" in name else set()
    assert carriers == {"k_proj", "o_proj"}


def test_the_adapter_names_its_base_and_what_made_it(trained, config):
    folder, record, _ = trained
    keys = weights(folder)
    assert len(keys) == 2 * 2 * 2 and all(("q_proj" in key) or ("v_proj" in key) for key in keys)
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["q_proj", "v_proj"], "in an order that is the same in every process"
    assert adapter["r"] == 8 and adapter["lora_alpha"] == 32 and adapter["base_model_name_or_path"] == config.base
    assert record["settings"]["learning_rate"] == 2e-3 and record["versions"]["trl"]
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card and "| reward margin | 0.0000 |" in card and "| learning_rate | 0.002 |" in card
    assert "| reward accuracy | - | 1.0000 |" in card and "did not fall" not in card


def test_a_card_names_a_base_as_the_hub_knows_it():
    from pyterrier_expandr.training.expander.model_card import _front_matter

    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in _front_matter("smollm2", "peft")


def test_an_adapter_on_a_gguf_model_is_merged_where_its_conversion_is_elsewhere(config, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    file = write_gguf(config.base, tmp_path / "tiny.gguf")
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "cache"))
    adapter = train_expander(replace(config, base=str(file), out=str(tmp_path / "adapter"), report_prompts=0))
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "another"))
    merged = merge_adapter(adapter, tmp_path / "merged", device="cpu")
    record = json.loads((merged / "merge.json").read_text())
    assert record["base"] == str(file) and record["error"] < 1e-4 < record["effect"]


def test_lengths_of_generations_are_reported(trained, config):
    folder, record, _ = trained
    pairs = tokenize_pairs(PAIRS, HuggingFaceBackend(config.base, device="cpu"), max_length=200)
    prompts = held_out(pairs, config.eval_fraction, config.seed)[1].prompts
    requests = [Request(prompt, Sampling(max_new_tokens=8, seed=config.seed)) for prompt in prompts]
    said = record["generation_words"]
    texts = {}
    for when, adapter in (("before", None), ("after", folder)):
        texts[when] = [g for (g,) in HuggingFaceBackend(config.base, adapter=adapter, device="cpu").generate(requests)]
        assert said[when]["mean"] == sum(len(g.text.split()) for g in texts[when]) / 2
        assert said[when]["truncated"] == sum(g.truncated for g in texts[when]) / 2
    assert texts["before"] != texts["after"] and said["before"] != said["after"]
    assert (said["of"], said["prompts"], said["max_tokens"]) == ("held-out", 2, 8)
    assert "| generations for 2 held-out prompts, at most 8 tokens |" in (folder / "README.md").read_text()


def log_ps(backend, row, side):
    """(tokens of the completion,) log-probabilities, one sequence by itself."""
    ids = torch.tensor([row["prompt_ids"] + row[side]])
    with torch.no_grad():
        found = backend.load()(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return found[len(row["prompt_ids"]) - 1 :]


@pytest.mark.parametrize(
    ("losses", "dpo", "card"),
    [({"sft": 1}, 0, "Fine-tuned on the chosen passages"), ({"sft": 0.5, "sigmoid": 2}, 2, "with a supervised loss")],
)
def test_the_supervised_loss_is_that_of_the_chosen_texts(config, tmp_path, losses, dpo, card):
    config = replace(config, losses=losses, eval_fraction=0.15, report_prompts=0, epochs=2, out=str(tmp_path / "out"))
    folder = train_expander(config)
    record = json.loads((folder / "expander.json").read_text())
    base, adapted = (HuggingFaceBackend(config.base, adapter=adapter, device="cpu") for adapter in (None, folder))
    rows = held_out(tokenize_pairs(PAIRS, base, max_length=200), 0.15, config.seed)[1].rows
    before, after = (
        torch.stack([-log_ps(model, row, "chosen_ids").mean() for row in rows]).mean() for model in (base, adapted)
    )
    weight = losses["sft"]
    assert record["before"]["loss"] == pytest.approx(float(weight * before) + dpo * math.log(2), abs=1e-4)
    assert after < before - 0.05, "the chosen texts are likelier"
    if not dpo:
        assert record["after"] == {"loss": pytest.approx(float(after), abs=1e-4)}
    assert all(weight.abs().max() > 0 for weight in weights(folder).values()), "LoRA's B begins at 0"
    assert record["settings"]["losses"] == {name: float(weight) for name, weight in losses.items()}
    said = (folder / "README.md").read_text()
    assert card in said and "- sft\n" in said and ("- dpo\n" in said) == ("Eq. 10-17" in said) == bool(dpo)


@pytest.mark.parametrize("options", [{"losses": {"robust": 1}, "label_smoothing": 0.2}, {"ld_alpha": 0.3}])
def test_the_variants_of_dpo_have_their_own_losses(config, tmp_path, options):
    config = replace(config, **options, eval_fraction=0.15, lora_dropout=0.0, report_prompts=0, epochs=1)
    folder = train_expander(replace(config, out=str(tmp_path / "out")))
    record = json.loads((folder / "expander.json").read_text())
    base, adapted = (HuggingFaceBackend(config.base, adapter=adapter, device="cpu") for adapter in (None, folder))
    expected = []
    for row in held_out(tokenize_pairs(PAIRS, base, max_length=200), 0.15, config.seed)[1].rows:
        shared, gains = min(len(row["chosen_ids"]), len(row["rejected_ids"])), []
        for side in ("chosen_ids", "rejected_ids"):
            gain = log_ps(adapted, row, side) - log_ps(base, row, side)
            gains.append(gain[:shared].sum() + config.ld_alpha * gain[shared:].sum())
        assert len(row["chosen_ids"]) != len(row["rejected_ids"]), "or ld_alpha would change nothing"
        margin, wrong = config.beta * (gains[0] - gains[1]), config.label_smoothing
        right, swapped = torch.nn.functional.logsigmoid(torch.stack([margin, -margin]))
        expected.append((-(1 - wrong) * right + wrong * swapped) / (1 - 2 * wrong))
    assert record["before"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert record["after"]["loss"] == pytest.approx(float(torch.stack(expected).mean()), abs=1e-4)
    assert record["after"]["loss"] < record["before"]["loss"] - 0.05
    assert all(weight.abs().max() > 0 for weight in weights(folder).values()), "LoRA's B begins at 0"
    assert options.items() <= record["settings"].items() and "- dpo\n" in (folder / "README.md").read_text()
    plain = ExpanderTrainingConfig("base", "pairs.jsonl", "out").recorded()
    assert not options.keys() & plain.keys(), "a finished run from before there were variants stays known"


def test_held_out_figures_are_means_over_pairs(config, tmp_path):
    """3 pairs, of which a device holds 2: the margin by hand, and a beta of its own in it."""
    config = replace(config, eval_fraction=0.15, lora_dropout=0.0, beta=0.4, report_prompts=0, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        folder = train_expander(replace(config, out=str(tmp_path / "adapter")))
    record = json.loads((folder / "expander.json").read_text())
    base, adapted = (HuggingFaceBackend(config.base, adapter=adapter, device="cpu") for adapter in (None, folder))
    rows = held_out(tokenize_pairs(PAIRS, base, max_length=200), 0.15, config.seed)[1].rows
    assert len(rows) == record["pairs"]["held out"] == 3

    margins = torch.stack(
        [
            0.4
            * sum(
                sign * (log_ps(adapted, row, side).sum() - log_ps(base, row, side).sum())
                for side, sign in (("chosen_ids", 1), ("rejected_ids", -1))
            )
            for row in rows
        ]
    )
    assert margins.std() > 0.01, "batches of 2 and 1 must have other means than the pairs"
    assert record["after"]["reward_margin"] == pytest.approx(float(margins.mean()), abs=1e-4)
    assert record["after"]["reward_accuracy"] == pytest.approx(float((margins > 0).float().mean()))
    assert record["after"]["loss"] == pytest.approx(float(-torch.nn.functional.logsigmoid(margins).mean()), abs=1e-4)
    assert record["generation_words"] is None and "generations for" not in (folder / "README.md").read_text()


def test_accumulated_batches_are_the_same_batch(config, tmp_path):
    config = replace(config, lora_dropout=0.0, eval_fraction=0.0, epochs=1)
    whole = train_expander(replace(config, device_batch_size=4, out=str(tmp_path / "whole")))
    parts = train_expander(replace(config, device_batch_size=1, out=str(tmp_path / "parts")))
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weight, weights(parts)[name], atol=1e-5, rtol=0)
    record = json.loads((whole / "expander.json").read_text())
    assert record["before"] is None and record["kept_step"] == record["steps"] == 5
    card = (whole / "README.md").read_text()
    assert record["generation_words"]["of"] == "training" and "held-out p" not in card and "2 training prompts" in card


def test_precomputed_reference_changes_nothing(config, trained, tmp_path):
    folder = train_expander(replace(config, precompute_reference=True, out=str(tmp_path / "adapter")))
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, weights(trained[0])[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("losses", "sides", "models"), [({"sigmoid": 1}, 2, 2), ({"sft": 1}, 1, 1)])
def test_the_head_scores_only_what_the_loss_counts(config, tmp_path, monkeypatch, losses, sides, models):
    """As on a GPU: no prompts and no padding. The weights are those of a head that scores every position."""
    scored, function = [], utils._ChunkedLogProbFunction

    def apply(hidden, *others):
        scored.append(len(hidden))
        return function.apply(hidden, *others)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=apply))
    config = replace(config, losses=losses, eval_fraction=0.0, epochs=1, report_prompts=0)
    counted = train_expander(replace(config, out=str(tmp_path / "counted")))
    rows = tokenize_pairs(PAIRS, HuggingFaceBackend(config.base, device="cpu"), max_length=200).rows
    written = sum(len(row[side]) for row in rows for side in ("chosen_ids", "rejected_ids")[:sides])
    assert sum(scored) == models * written, "by the model, and by its reference where there is one"

    monkeypatch.setattr(trainer_setup, "score_only_what_counts", lambda: None)
    monkeypatch.setattr(utils, "_use_triton", lambda device: False)
    everything = train_expander(replace(config, out=str(tmp_path / "everything")))
    assert sum(scored) > 3 * models * written
    for name, weight in weights(everything).items():
        torch.testing.assert_close(weight, weights(counted)[name], atol=1e-5, rtol=0)


def test_the_checkpoint_with_the_least_held_out_loss_is_kept(config, tmp_path, caplog):
    tokens = tokenize_pairs(PAIRS, HuggingFaceBackend(config.base, device="cpu"), max_length=200)
    apart = held_out(tokens, config.eval_fraction, config.seed)[1].prompts
    against = [
        row | {"chosen": row["rejected"], "rejected": row["chosen"]} if tuple(row["prompt"]) in apart else row
        for row in PAIRS
    ]
    folder = train_expander(replace(config, pairs=write(tmp_path / "p.jsonl", against), out=str(tmp_path / "adapter")))
    record = json.loads((folder / "expander.json").read_text())
    assert record["kept_step"] == 2 < record["steps"] == 10, "what is learned contradicts the held-out pairs"
    assert record["after"]["reward_margin"] < 0
    assert "no better than the untrained model: at its best checkpoint, step 2 of 10, the loss" in caplog.text
    assert "The loss did not fall" in (folder / "README.md").read_text()


def test_dropout_of_the_base_does_not_tell_it_from_its_reference(config, tmp_path):
    shutil.copytree(config.base, tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_dropout": 0.5}))
    folder = train_expander(replace(config, base=str(tmp_path / "base"), out=str(tmp_path / "adapter"), epochs=0.2))
    assert json.loads((folder / "steps.json").read_text())[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_tokenizer_without_padding_token_is_mended(config, trained, tmp_path, caplog):
    base = with_tokenizer(config.base, tmp_path / "base", pad_token=None)
    folder = train_expander(replace(config, base=base, out=str(tmp_path / "adapter")))
    assert caplog.text.count("has no padding token: padding with its end-of-sequence token") == 1
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, weights(trained[0])[name], atol=1e-6, rtol=0)


def test_a_tokenizer_without_end_token_is_refused(config, tmp_path):
    base = with_tokenizer(config.base, tmp_path / "base", eos_token=None)
    with pytest.raises(ValueError, match="no end-of-sequence token: set its eos_token"):
        train_expander(replace(config, base=base, out=str(tmp_path / "adapter")))
    assert not (tmp_path / "adapter.work").exists()


def test_what_is_left_out_is_said_in_one_line(config, tmp_path):
    pairs = [*PAIRS, pair("q", "same", "same"), pair("q", "long " * 2000, "short")]
    left_out = replace(config, pairs=write(tmp_path / "p.jsonl", pairs), out=str(tmp_path / "adapter"), epochs=0.2)
    with pytest.warns(UserWarning, match="of 22 preference pairs 1 exceed max_length=612 .*; 1 have equal texts"):
        folder = train_expander(left_out)
    counts = json.loads((folder / "expander.json").read_text())["pairs"]
    assert counts["read"] == 22 and counts["dropped"] == {"equal texts": 1, "too long": 1}
    with (
        pytest.warns(UserWarning, match="dropped"),
        pytest.raises(
            ValueError, match=r"no pairs of .*q.jsonl are left .*: 2 read, 1 equal texts, 1 too long dropped, 0 h"
        ),
    ):
        train_expander(replace(left_out, pairs=write(tmp_path / "q.jsonl", pairs[-2:]), out=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="1 read, .* 1 held out by eval_fraction=0.1"):
        train_expander(replace(left_out, pairs=write(tmp_path / "r.jsonl", PAIRS[:1]), out=str(tmp_path / "other")))


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_a_killed_run_ends_in_the_same_adapter(config, trained, tmp_path):
    out = tmp_path / "adapter"
    code = (
        "import sys\n"
        "from pyterrier_expandr.training.expander import ExpanderTrainingConfig, train_expander\n"
        "train_expander(ExpanderTrainingConfig(**eval(sys.argv[1])))\n"
    )
    values = repr(replace(config, out=str(out)).__dict__)
    process = subprocess.Popen([sys.executable, "-c", code, values], stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "adapter.work" / "checkpoints" / "checkpoint-4" / "trainer_state.json"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists(), "killed too late to show anything"
    train_expander(replace(config, out=str(out)))
    folder, record, _ = trained
    for name, weight in weights(folder).items():
        assert torch.equal(weight, weights(out)[name]), name
    assert json.loads((out / "expander.json").read_text()) == record
    assert (out / "steps.json").read_bytes() == (folder / "steps.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"], "checkpoints are left behind"


def test_two_processes_train_as_one(config, tmp_path):
    """torchrun with two gloo processes: 16 training and 4 held-out pairs fill every batch of both."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\n"
        "from pyterrier_expandr.training.expander import ExpanderTrainingConfig, train_expander\n"
        "print('process', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)\n"
        "train_expander(ExpanderTrainingConfig(**eval(sys.argv[1])))\n"
    )
    config = replace(config, lora_dropout=0.0, epochs=1, eval_fraction=0.2, report_prompts=1)
    alone = train_expander(replace(config, out=str(tmp_path / "alone")))
    both = tmp_path / "both"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(script), repr(replace(config, out=str(both)).__dict__)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(re.findall(r"process \d of \d", done.stdout)) == ["process 0 of 2", "process 1 of 2"]
    for name, weight in weights(alone).items():
        torch.testing.assert_close(weight, weights(both)[name], atol=1e-5, rtol=0)
    one, two = (json.loads((folder / "expander.json").read_text()) for folder in (alone, both))
    assert two["steps"] == one["steps"] == 4 and two["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert two["after"] == pytest.approx(one["after"], abs=1e-5)


# --- settings


def test_a_finished_run_is_given_back_and_another_is_refused(trained, config):
    before, left = (trained[0] / "expander.json").stat().st_mtime_ns, trained[0].with_name(f"{trained[0].name}.work")
    (left / "checkpoints").mkdir(parents=True)  # as a kill leaves it that comes after the rename
    assert train_expander(config) == trained[0] and not left.exists()
    assert train_expander(replace(config, report_prompts=9, report_tokens=3)) == trained[0], "a report decides nothing"
    assert (trained[0] / "expander.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"learning_rate: 0.002 there, 0.001 here\): choose another folder"):
        train_expander(replace(config, learning_rate=1e-3))


def test_other_pairs_and_another_base_are_named_without_their_hashes(trained, config, tmp_path):
    with pytest.raises(ValueError, match=r"different settings \(different pairs \(pairs_sha256\)\): choose"):
        train_expander(replace(config, pairs=write(tmp_path / "p.jsonl", PAIRS[1:])))
    with pytest.raises(ValueError, match=r"\(base dtype: 'float32' there, 'bfloat16' here; dtype: None there, 'bfl"):
        train_expander(replace(config, dtype="bfloat16"))
    build_tiny_llama(tmp_path / "base", seed=3)
    with pytest.raises(ValueError, match=r"settings \(different base \(base sha256\)\)"):
        train_expander(replace(config, base=str(tmp_path / "base")))


def test_lengths_are_left_out_for_a_base_in_4_bits(config, tmp_path, caplog):
    four = replace(config, load_in_4bit=True)
    assert generation_lengths(four, [tuple(PAIRS[0]["prompt"])], "held-out", tmp_path) is None
    assert "would load the base model in 16 bits" in caplog.text


def test_modules_that_do_not_exist_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"no modules named \['c_attn'\]: choose .*'k_proj'.*'q_proj'"):
        train_expander(replace(config, target_modules=("q_proj", "c_attn"), out=str(tmp_path / "adapter")))
    assert not list(tmp_path.iterdir()), "the mended command would be refused for its other settings"


def test_an_end_of_turn_at_which_generation_goes_on_is_refused(config, tmp_path):
    template = TEMPLATE.replace("<|eot_id|>{% endfor %}", "<|end_header_id|>{% endfor %}")
    base = with_template(tmp_path / "base", template)
    with pytest.raises(
        ValueError, match=r"answer with '<\|end_header_id\|>', but generation stops only at \['<\|eot_id\|>'\]"
    ):
        train_expander(replace(config, base=base, out=str(tmp_path / "adapter")))
    assert not (tmp_path / "adapter.work").exists()


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    template = (
        "{% if messages[0]['content'] != 'question' %}{{ raise_exception('no such thing') }}{% endif %}" + TEMPLATE
    )
    backend = HuggingFaceBackend(with_template(tmp_path / "base", template), device="cpu")
    with pytest.raises(ValueError, match="p.jsonl, pair 1: the chat template of .* rejects the prompt: no such thing"):
        tokenize_pairs(PAIRS, backend, max_length=200, source="p.jsonl")


def test_the_command_has_each_setting(config, tmp_path):
    given = {"max-grad-norm": 3, "report-tokens": 4, "report-prompts": 1, "dtype": "float32", "epochs": 0.2, "seed": 7}
    given |= {"base": config.base, "pairs": config.pairs, "out": tmp_path / "adapter"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    done = CliRunner().invoke(app, ["train", "expander", *words, "--trust-remote-code"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "adapter" / "expander.json").read_text())
    settings = record["settings"]
    assert (settings["max_grad_norm"], settings["dtype"], settings["trust_remote_code"]) == (3, "float32", True)
    assert record["generation_words"]["max_tokens"] == 4 and '"generation_words"' in done.output
    renamed = {"target_module": "target_modules", "loss": "losses"}
    options = {renamed.get(name, name) for name in inspect.signature(expander).parameters}
    assert options == {field.name for field in fields(ExpanderTrainingConfig)} - {"online"}


def test_a_length_beyond_the_context_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="max_length 4096 exceeds the context .* 2048 tokens"):
        train_expander(replace(config, max_length=4096, out=str(tmp_path / "adapter")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")
def test_four_bits_need_a_gpu(config, tmp_path):
    with pytest.raises(ValueError, match="load_in_4bit needs a CUDA device"):
        train_expander(replace(config, load_in_4bit=True, out=str(tmp_path / "adapter")))


def test_the_papers_values_are_the_defaults():
    config = ExpanderTrainingConfig("base", "pairs.jsonl", "out")
    assert (config.beta, config.lora_r, config.lora_alpha, config.lora_dropout) == (0.1, 8, 32, 0.1)
    assert (config.learning_rate, config.epochs, config.batch_size, config.max_grad_norm) == (2e-5, 2, 16, 10)
    assert config.max_length == 612 and config.target_modules == ("q_proj", "v_proj") and config.seed == 42
    assert config.eval_fraction == pytest.approx(3_000 / 30_000)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"learning_rate": "2e-5"}, TypeError, "learning_rate must be a number.*YAML"),
        ({"beta": 0}, ValueError, "beta must be above 0"),
        ({"lora_r": 0}, ValueError, "lora_r must be 1 or more"),
        ({"lora_r": 8.5}, TypeError, "lora_r must be a whole number"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be a whole number"),
        ({"max_length": 192.5}, TypeError, "max_length must be a whole number"),
        ({"seed": "x"}, TypeError, "seed must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"precompute_reference": "no"}, TypeError, "precompute_reference must be true or false"),
        ({"epochs": math.inf}, ValueError, "epochs must be finite"),
        ({"revision": 7}, TypeError, "revision must be a string"),
        ({"lora_dropout": 1.0}, ValueError, "lora_dropout must be below 1"),
        ({"eval_fraction": -0.1}, ValueError, "eval_fraction must be 0 or more"),
        ({"target_modules": "q_proj"}, ValueError, "must be a list of module names"),
        ({"target_modules": []}, ValueError, "must be a list of module names"),
        ({"device_batch_size": 5}, ValueError, "must be a multiple of device_batch_size 5"),
        ({"overlong": "keep"}, ValueError, '"drop" or "cut"'),
        ({"losses": {"hinge": 1}}, ValueError, "some of .*sigmoid"),
        ({"losses": {}}, ValueError, "some of .*sigmoid"),
        ({"losses": {"robust": 1}}, ValueError, "a label_smoothing above 0 belong together"),
        ({"label_smoothing": 0.1}, ValueError, "a label_smoothing above 0 belong together"),
        ({"losses": {"robust": 1}, "label_smoothing": 0.5}, ValueError, "label_smoothing must be .*below 0.5"),
        ({"precompute_reference": True, "method": "sft-best"}, ValueError, "imitation has no reference"),
        ({"label_smoothing": 0.1, "method": "sft-best"}, ValueError, "label_smoothing belongs to .*: leave it out"),
        ({"ld_alpha": 1.5}, ValueError, "ld_alpha is a weight from 0 to 1"),
        ({"ld_alpha": 0.5, "method": "sft-best"}, ValueError, "ld_alpha belongs to method .dpo.: leave it out"),
        ({"losses": {"sft": 0}}, ValueError, "weight of loss sft must be above 0"),
        ({"dtype": "int8"}, ValueError, "dtype must be"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        ExpanderTrainingConfig(**({"base": "b", "pairs": "p", "out": "o"} | values))
