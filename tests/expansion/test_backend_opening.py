import pytest

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
from pyterrier_expandr.expansion.backends.opening import open_backend
from pyterrier_expandr.expansion.backends.vllm import VLLMBackend

URL = "http://localhost:8000/v1"
IDS = [
    "gpt2",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "meta-llama/Llama-3.1-8B_Instruct",
    "bartowski/Some.Model-GGUF:Q4_K_M.gguf",
    "llama3.1:8b",
    "ft:gpt-4o:org::id",
    "@cf/meta/llama-3.1-8b",
    "a@b",
]


@pytest.mark.parametrize("model", IDS)
def test_every_model_s_name_parses(model):
    assert open_backend(f"hf:{model}") == HuggingFaceBackend(model)
    assert open_backend(f"vllm:{model}") == VLLMBackend(model)
    assert open_backend(f"openai:{model}@{URL}") == OpenAIBackend(model, base_url=URL)


@pytest.mark.parametrize("model", [*IDS[:5], "no/such:model"])
def test_a_bare_name_is_a_model_for_transformers(model):
    assert open_backend(model) == HuggingFaceBackend(model)


def test_a_folder_may_have_any_name(tmp_path, tiny_llama):
    import shutil

    odd = shutil.copytree(tiny_llama, tmp_path / "vllm:a?b=c&d")
    assert open_backend(str(odd)) == HuggingFaceBackend(odd)
    assert open_backend(f"hf:{tiny_llama}").generate([]) == []


def test_options():
    assert open_backend("hf:m?dtype=float32&batch_size=8&trust_remote_code=true") == HuggingFaceBackend(
        "m", dtype="float32", batch_size=8, trust_remote_code=True
    )
    assert open_backend("hf:m?revision=0123456") == HuggingFaceBackend("m", revision="0123456")
    assert open_backend('vllm:m?tensor_parallel_size=2&gpu_memory_utilization=0.5&options={"quantization": "fp8"}') == (
        VLLMBackend("m", tensor_parallel_size=2, gpu_memory_utilization=0.5, options={"quantization": "fp8"})
    )
    named = open_backend(f'openai:m@{URL}?concurrency=4&extra_body={{"top_k": -1}}', timeout=3, concurrency=9)
    assert named == OpenAIBackend("m", base_url=URL, concurrency=4, extra_body={"top_k": -1}, timeout=3)


def test_the_device_is_for_transformers():
    assert open_backend("m", device="cpu") == HuggingFaceBackend("m", device="cpu")
    assert open_backend("hf:m?device=cuda", device="cpu") == HuggingFaceBackend("m", device="cuda")
    assert open_backend("vllm:m", device="cpu") == VLLMBackend("m")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vlm:Qwen/Qwen2.5-7B-Instruct", "there is no backend 'vlm'"),
        ("hf:", "needs a model"),
        ("vllm:?dtype=float32", "needs a model"),
        ("", "needs a model"),
        ("openai:gpt-4o", "MODEL@URL"),
        ("openai:@http://h/v1", "MODEL@URL"),
        ("openai:m@localhost:8000", "MODEL@URL"),
        ("hf:m?float32", "OPTION=VALUE"),
        ("hf:m?batch_size=8&", "OPTION=VALUE"),
        ("hf:m?batch=8", "no option batch: its options are .*batch_size"),
        ("hf:m?batch_size=many", "batch_size must be int"),
        ("hf:m?batch_size=0", "batch_size must be 1 or more"),
        ("vllm:m?concurrency=4", "no option concurrency"),
        ("vllm:./nowhere", "there is no folder"),
    ],
)
def test_what_is_wrong_is_said(name, said):
    with pytest.raises(ValueError, match=f"(?s){said}") as caught:
        open_backend(name)
    if any(word in said for word in ("MODEL@URL", "no engine", "needs a model", "OPTION=VALUE")):
        assert "hf:NAME_OR_FOLDER" in str(caught.value) and "openai:MODEL@URL" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "openai:m@http://user:sk-secret@h/v1",
        "openai:m@http://h/v1?api_key=sk-secret",
        "openai:m@http://h/v1?sk-secret",
        "opnai:m@http://user:sk-secret@h/v1",
    ],
)
def test_a_key_in_the_name_is_refused_and_not_repeated(name):
    with pytest.raises(ValueError) as caught:
        open_backend(name)
    assert "sk-secret" not in str(caught.value)
