import json
import shutil
import weakref

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from pyterrier_expandr import HuggingFaceBackend, LLMExpander
from pyterrier_expandr.expansion.backends.gguf import SMOLLM2, SMOLLM2_HUB
from pyterrier_expandr.training.expander.merge import merge_adapter
from tests.tiny import TEMPLATE, build_tiny_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    build_tiny_llama(folder)
    GenerationConfig(temperature=0.6, top_p=0.9, do_sample=True, eos_token_id=[1]).save_pretrained(folder)
    return folder


def make_adapter(base, folder, **settings):
    """A LoRA adapter that changes the model a good deal."""
    torch.manual_seed(0)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def merged(adapter, tmp_path_factory):
    return merge_adapter(adapter, tmp_path_factory.mktemp("merged") / "model", device="cpu")


def logits(model, ids):
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits


def test_merged_is_base_plus_adapter(base, adapter, merged):
    ids = torch.arange(5, 60)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    without = logits(plain, ids)
    expected = logits(PeftModel.from_pretrained(plain, adapter), ids)
    found = logits(AutoModelForCausalLM.from_pretrained(merged), ids)
    assert (found - expected).abs().max() < 1e-4
    assert (found - without).abs().max() > 0.1, "the adapter must change something for this to mean anything"
    record = json.loads((merged / "merge.json").read_text())
    assert record["error"] < 1e-5 < 0.1 < record["effect"]
    assert record["dtype"] == "float32" and record["prompts"] == 4


def test_the_backend_writes_the_same_texts(base, adapter, merged):
    texts = []
    for backend in (
        HuggingFaceBackend(base, adapter=adapter, device="cpu"),
        HuggingFaceBackend(merged, device="cpu"),
        HuggingFaceBackend(base, device="cpu"),
    ):
        with pytest.warns(UserWarning, match="truncated"):
            expander = LLMExpander(backend, n=2, max_new_tokens=12)
            texts.append(expander.search("why is the sky blue")["query_expansions"][0])
    assert texts[0] == texts[1] != texts[2]


def test_it_stands_alone(base, merged, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(merged, moved)
    assert not (moved / "adapter_config.json").exists()
    assert (moved / "chat_template.jinja").read_text() == TEMPLATE
    assert HuggingFaceBackend(moved, device="cpu").prompt_ids(
        [{"role": "user", "content": "tides"}]
    ) == HuggingFaceBackend(base, device="cpu").prompt_ids([{"role": "user", "content": "tides"}])
    generation = GenerationConfig.from_pretrained(moved)
    assert generation.temperature == 0.6 and generation.eos_token_id == [1], "the base's own settings are kept"
    assert "merged into its" in (moved / "README.md").read_text()


def test_in_bfloat16_rounding_is_allowed_for(adapter, tmp_path):
    folder = merge_adapter(adapter, tmp_path / "model", dtype="bfloat16", device="cpu")
    assert 1e-4 < json.loads((folder / "merge.json").read_text())["error"] < 5e-2
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning")
def test_what_cannot_be_merged_is_refused(base, tmp_path):
    tied = AutoModelForCausalLM.from_pretrained(base)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    shutil.copytree(base, tmp_path / "tied")
    tied.save_pretrained(tmp_path / "tied")
    adapter = make_adapter(tmp_path / "tied", tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(ValueError, match="logits differ .* 0.0001 is allowed .weights shared by several modules"):
        merge_adapter(adapter, tmp_path / "model", device="cpu")
    assert not (tmp_path / "model").exists() and not (tmp_path / "model.merging").exists()


@pytest.fixture(scope="module")
def rounded_base(base, tmp_path_factory):
    """The base as most models are published: its weights are numbers of bfloat16."""
    folder = tmp_path_factory.mktemp("rounded")
    shutil.copytree(base, folder, dirs_exist_ok=True)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def test_an_adapter_that_rounding_would_swallow_is_refused(rounded_base, tmp_path):
    weak = make_adapter(rounded_base, tmp_path / "adapter", lora_alpha=0.01)
    with pytest.raises(ValueError, match="in bfloat16: rounding .* more than half .*: merge and serve in float32"):
        merge_adapter(weak, tmp_path / "model", dtype="bfloat16", device="cpu")
    assert merge_adapter(weak, tmp_path / "model", dtype="float32", device="cpu").is_dir()


def test_only_the_rounding_of_what_the_adapter_changed_counts(rounded_base, tmp_path):
    """What computing in bfloat16 adds, and what the base has lost already, is no fault of the merge."""
    found = []
    for alpha in (0.3, 3.0):
        adapter = make_adapter(rounded_base, tmp_path / f"adapter-{alpha}", lora_alpha=alpha)
        folder = merge_adapter(adapter, tmp_path / f"model-{alpha}", dtype="bfloat16", device="cpu")
        record = json.loads((folder / "merge.json").read_text())
        found.append(record["error"] / record["effect"])
    assert 0.1 > found[0] > 3 * found[1], found  # the stronger the adapter, the less is lost


def test_one_model_is_held_at_a_time(adapter, tmp_path, monkeypatch):
    models, load = [], HuggingFaceBackend.load

    def watched(backend):
        first = backend._model is None
        alive = sum(model() is not None for model in models)
        model = load(backend)
        if first:
            assert not alive, "the model before this one is still in memory"
            models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(HuggingFaceBackend, "load", watched)
    merge_adapter(adapter, tmp_path / "model", device="cpu")
    assert len(models) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of .'bfloat16', 'float16', 'float32'., got 'int8'"),
        ({"prompts": []}, "prompts must contain at least one conversation"),
        ({"tolerance": -1}, "tolerance must be 0 or more"),
    ],
)
def test_arguments_that_cannot_be_meant_block_nothing(adapter, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        merge_adapter(adapter, tmp_path / "model", device="cpu", **values)
    assert not list(tmp_path.iterdir())


def test_the_revision_is_that_of_the_training(base, adapter, tmp_path, monkeypatch):
    ours, asked, opened = tmp_path / "adapter", [], HuggingFaceBackend._open
    shutil.copytree(adapter, ours)
    settings = {"revision": "v1", "trust_remote_code": True, "base_fingerprint": {}}
    (ours / "expander.json").write_text(json.dumps({"base": str(base), "settings": settings}))

    def watched(backend, *args, **options):
        asked.append((backend.model, backend.revision, backend.trust_remote_code))
        return opened(backend, *args, **options)

    monkeypatch.setattr(HuggingFaceBackend, "_open", watched)
    merge_adapter(ours, tmp_path / "model", device="cpu")
    assert asked[0] == (str(base), "v1", False), "an adapter must not decide that foreign code is run"
    asked.clear()
    merge_adapter(ours, tmp_path / "model2", device="cpu", revision="v2", trust_remote_code=True)
    assert asked[0] == (str(base), "v2", True)
    asked.clear()
    monkeypatch.setattr("pyterrier_expandr.expansion.backends.gguf.find_spec", lambda name: None)
    (ours / "expander.json").write_text(json.dumps({"base": SMOLLM2, "settings": settings}))
    named = json.loads((ours / "adapter_config.json").read_text()) | {"base_model_name_or_path": SMOLLM2_HUB}
    (ours / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(ValueError, match="cannot open the language model"):
        merge_adapter(ours, tmp_path / "model3", device="cpu")
    assert asked[0] == (SMOLLM2_HUB, "v1", False), "the short name stands for the same model"


def test_a_base_that_has_moved_is_named_in_the_adapters_own_configuration(base, adapter, tmp_path):
    ours, moved = tmp_path / "adapter", tmp_path / "moved"
    shutil.copytree(adapter, ours)
    shutil.copytree(base, moved)
    (ours / "expander.json").write_text(json.dumps({"base": "/gone", "settings": {}}))
    named = json.loads((ours / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(moved)}
    (ours / "adapter_config.json").write_text(json.dumps(named))
    merged = merge_adapter(ours, tmp_path / "model", device="cpu")
    assert json.loads((merged / "merge.json").read_text())["base"] == str(moved)


def test_a_tolerance_of_ones_own(adapter, tmp_path):
    with pytest.raises(ValueError, match="1e-12 is allowed"):
        merge_adapter(adapter, tmp_path / "model", tolerance=1e-12, device="cpu")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_merge_is_done_again(adapter, merged, tmp_path):
    out, half = tmp_path / "model", tmp_path / "model.merging"
    half.mkdir()
    (half / "model-00001-of-00002.safetensors").write_bytes(b"half a file")
    assert merge_adapter(adapter, out, device="cpu") == out
    assert not half.exists() and not list(out.glob("model-*"))
    assert (out / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()


def test_a_finished_merge_is_given_back_and_another_refused(adapter, merged):
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert merge_adapter(adapter, merged, device="cpu") == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was made with different settings.*bfloat16.*choose another folder"):
        merge_adapter(adapter, merged, dtype="bfloat16", device="cpu")


def test_another_base_is_refused(base, adapter, tmp_path):
    ours = tmp_path / "adapter"
    shutil.copytree(adapter, ours)
    trained_on = HuggingFaceBackend(base, device="cpu").fingerprint()
    (ours / "expander.json").write_text(json.dumps({"settings": {"base_fingerprint": trained_on}}))
    build_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="was trained on another base model .sha256"):
        merge_adapter(ours, tmp_path / "model", base=str(tmp_path / "other"), device="cpu")
    assert merge_adapter(ours, tmp_path / "model", base=str(base), device="cpu").is_dir()


def test_no_adapter(base, tmp_path):
    with pytest.raises(ValueError, match="is not an adapter"):
        merge_adapter(base, tmp_path / "model")
    with pytest.raises(ValueError, match="holds no adapter"):
        HuggingFaceBackend(base, adapter=tmp_path)


def test_an_adapter_decides_the_texts_address(base, adapter):
    plain, adapted = HuggingFaceBackend(base), HuggingFaceBackend(base, adapter=adapter)
    assert plain != adapted and plain.fingerprint() != adapted.fingerprint()
    assert "adapter" not in plain.fingerprint()


def test_commands_train_and_merge(base, tmp_path):
    from tests.command import expandr
    from tests.training.expander.test_train import PAIRS, write

    pairs, adapter = write(tmp_path / "pairs.jsonl", PAIRS), tmp_path / "adapter"
    options = ["--epochs", 1, "--learning-rate", 2e-3, "--batch-size", 4, "--report-prompts", 0]
    out = expandr("train", "expander", "--base", base, "--pairs", pairs, "--out", adapter, *options)
    assert '"training": 18' in out and f"in {adapter}" in out
    out = expandr("train", "merge", "--adapter", adapter, "--out", tmp_path / "merged", "--device", "cpu")
    assert "logits differ by" in out and (tmp_path / "merged" / "model.safetensors").is_file()
    refused = expandr("train", "expander", "--base", base, "--pairs", pairs, "--out", adapter, status=2)
    assert "expandr: error:" in refused and "--learning-rate: 0.002 there, 2e-05 here" in refused
