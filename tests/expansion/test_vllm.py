"""The contract on vLLM in process and on its server. `make test-vllm` builds an environment that has it, on a CPU."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pyterrier_expandr import GenerationCache, HuggingFaceBackend
from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
from pyterrier_expandr.expansion.backends.vllm import VLLMBackend
from pyterrier_expandr.expansion.generation import generate_cached
from pyterrier_expandr.training.expander.merge import merge_adapter
from tests.backend_contract import ANSWER, BackendContract, ask, generate_cached_until
from tests.servers import vllm_serve
from tests.tiny import build_saying_llama, build_tiny_llama

installed = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm: make test-vllm")

#: enough for the tiny models, and not compiled: vLLM's own wish is a share of the whole memory, and minutes
SMALL = {
    "dtype": "float32",
    "max_model_len": 512,
    "options": {"kv_cache_memory_bytes": 2**26, "enforce_eager": True},
}

#: the same for the server
SERVED = ("--max-model-len", "512", "--enforce-eager", "--kv-cache-memory-bytes", str(2**26))

#: vLLM's attention on a CPU takes no heads as small as those of the other tests
HEAD_DIM = 32


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_llama")
    build_tiny_llama(folder, head_dim=HEAD_DIM)
    return str(folder)


@pytest.fixture(scope="module")
def engine(tiny_llama):
    with VLLMBackend(tiny_llama, **SMALL) as backend:
        yield backend


@pytest.fixture(scope="module")
def saying_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saying")
    build_saying_llama(folder, ANSWER, head_dim=HEAD_DIM)
    return folder


@installed
class TestInProcess(BackendContract):
    @pytest.fixture
    def backend(self, engine):
        return engine

    @pytest.fixture(scope="class")
    def saying(self, saying_folder):
        with VLLMBackend(saying_folder, **SMALL) as backend:
            yield backend

    def test_a_context_that_is_exceeded_fails_before_anything_is_generated(self, engine):
        with pytest.raises(ValueError, match="exceed the model's context of 512"):
            next(engine.stream([ask("sky"), ask("word " * 600)]))

    def test_what_is_given_up_leaves_the_engine(self, engine):
        expected = engine.generate([ask("sea", max_new_tokens=40)])
        stream = engine.stream([ask("sky", max_new_tokens=1), *(ask(f"{i}", max_new_tokens=400) for i in range(4))])
        assert next(stream)[0] == 0
        stream.close()
        assert engine.load().llm_engine.get_num_unfinished_requests() == 0
        assert engine.generate([ask("sea", max_new_tokens=40)]) == expected

    def test_an_adapter_is_applied_without_merging(self, tiny_llama, tmp_path):
        pytest.importorskip("peft")
        adapter = random_adapter(tiny_llama, tmp_path)
        greedy = [ask("sky", temperature=0), ask("sea", temperature=0)]
        expected = HuggingFaceBackend(tiny_llama, adapter=adapter, device="cpu").generate(greedy)
        assert expected != HuggingFaceBackend(tiny_llama, device="cpu").generate(greedy)
        with VLLMBackend(tiny_llama, adapter=adapter, **SMALL) as backend:
            assert backend.generate(greedy) == expected
            backend.close()
            assert backend._llm is None and backend.generate(greedy) == expected  # it has started again

    def test_a_merged_model_writes_what_base_and_adapter_write(self, tiny_llama, tmp_path):
        pytest.importorskip("peft")
        adapter = random_adapter(tiny_llama, tmp_path / "adapter")
        merged = merge_adapter(adapter, tmp_path / "merged", device="cpu")
        greedy = [ask("sky", temperature=0), ask("sea", temperature=0)]
        expected = HuggingFaceBackend(tiny_llama, adapter=adapter, device="cpu").generate(greedy)
        assert HuggingFaceBackend(merged, device="cpu").generate(greedy) == expected
        assert HuggingFaceBackend(tiny_llama, device="cpu").generate(greedy) != expected
        with VLLMBackend(merged, **SMALL) as backend:
            assert backend.generate(greedy) == expected

    def test_an_engine_that_dies_is_said_and_started_anew(self, tiny_llama):
        requests, cache = [ask(f"{i}", max_new_tokens=1 if i < 3 else 300) for i in range(6)], GenerationCache()
        older = children()
        with VLLMBackend(tiny_llama, **SMALL) as backend:
            stream = generate_cached_until(backend, requests, cache, 3, lambda: kill_all_but(older))
            with pytest.raises(ChildProcessError, match="vLLM's engine failed"):
                stream()
            assert backend._llm is None and 3 <= len(cache) < 6
            texts = generate_cached(backend, requests, cache)
            assert texts[:3] == backend.generate(requests[:3])
        assert not psutil.wait_procs(children() - older, timeout=60)[1]  # the end of `with` has stopped it

    def test_ctrl_c_keeps_what_is_written_and_stops_the_engine(self, tiny_llama, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(INTERRUPTED)
        command = [sys.executable, str(script), tiny_llama, str(tmp_path / "c.sqlite")]
        here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": here}
        with subprocess.Popen(command, start_new_session=True, **pipes) as process:
            for line in process.stdout:
                if line == "stored\n":
                    break
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the engine as well
            said = process.communicate(timeout=120)[1]
        assert process.returncode and "KeyboardInterrupt" in said and "ChildProcessError" not in said, said[-2000:]
        assert not psutil.wait_procs([p for p in psutil.process_iter() if in_group(p, process.pid)], timeout=60)[1]
        assert 1 <= len(GenerationCache(tmp_path / "c.sqlite")) < 6

    def test_a_model_that_does_not_fit_is_said(self, tiny_llama):
        options = SMALL["options"] | {"kv_cache_memory_bytes": 4096}
        with pytest.raises(ValueError, match="(?s)vLLM could not start.*lower max_model_len"):
            VLLMBackend(tiny_llama, dtype="float32", options=options).generate([ask("sky")])


@installed
class TestServer(BackendContract):
    """vLLM's own server: many requests at once, each with its seed."""

    marks_cut_characters = False

    @pytest.fixture(scope="class")
    def served(self, tiny_llama, tmp_path_factory):
        with vllm_serve(tiny_llama, *SERVED, log=tmp_path_factory.mktemp("serve") / "log") as url:
            yield url

    @pytest.fixture
    def backend(self, served):
        return OpenAIBackend("tiny", base_url=served, concurrency=8)

    @pytest.fixture(scope="class")
    def saying(self, saying_folder, tmp_path_factory):
        with vllm_serve(saying_folder, *SERVED, log=tmp_path_factory.mktemp("serve") / "log") as url:
            yield OpenAIBackend("tiny", base_url=url)

    def test_an_unknown_model_and_a_context_that_is_exceeded(self, served, backend):
        with pytest.raises(ValueError, match="has no model 'other'.*does not exist"):
            OpenAIBackend("other", base_url=served).generate([ask("sky")])
        with pytest.raises(ValueError, match="(?i)refused a request.*context length"):
            backend.generate([ask("word " * 600)])

    def test_a_killed_server(self, tiny_llama, tmp_path):
        requests, cache = [ask(f"{i}", max_new_tokens=8 if i < 6 else 400) for i in range(12)], GenerationCache()
        older = children()
        with vllm_serve(tiny_llama, *SERVED, log=tmp_path / "log") as url:
            backend = OpenAIBackend("tiny", base_url=url, concurrency=3, max_retries=1)
            stream = generate_cached_until(backend, requests, cache, 6, lambda: kill_all_but(older))
            with pytest.raises(ConnectionError):
                stream()
        assert 6 <= len(cache) < 12


INTERRUPTED = f"""
import sys
from pyterrier_expandr import GenerationCache
from pyterrier_expandr.expansion.backends.vllm import VLLMBackend
from pyterrier_expandr.expansion.generation import generate_cached
from tests.backend_contract import ask
class Telling(GenerationCache):
    def put(self, *args):
        super().put(*args)
        print("stored", flush=True)
if __name__ == "__main__":
    requests = [ask(str(i), max_new_tokens=400 if i else 1) for i in range(6)]
    with VLLMBackend(sys.argv[1], **{SMALL}) as backend:
        generate_cached(backend, requests, Telling(sys.argv[2]))
"""


def in_group(process, group):
    try:
        return os.getpgid(process.pid) == group and process.status() != "zombie"
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def random_adapter(model, folder):
    """A LoRA adapter on queries and values, strong enough to change every text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def children():
    processes = psutil.Process().children(recursive=True)
    return {p for p in processes if p.status() != "zombie" and "tracker" not in " ".join(p.cmdline())}


def kill_all_but(older):
    for process in sorted(children() - older, key=lambda process: process.pid):  # the engine before its workers
        process.kill()


def test_settings_need_no_engine(tiny_llama, tmp_path):
    one = VLLMBackend(tiny_llama, max_model_len=512)
    assert one == VLLMBackend(tiny_llama, max_model_len=512) != VLLMBackend(tiny_llama)
    assert one.context_length == 512 and VLLMBackend(tiny_llama).context_length == 2048
    assert one.prompt_ids(ask("x").messages) == HuggingFaceBackend(tiny_llama).prompt_ids(ask("x").messages)
    assert one.fingerprint()["engine"] == "vllm" and one.fingerprint() != HuggingFaceBackend(tiny_llama).fingerprint()
    other = VLLMBackend(tiny_llama, options={"quantization": "fp8"})
    assert other.fingerprint()["options"] == {"quantization": "fp8"} and other != one
    assert one.generate([]) == [] and one._llm is None
    with pytest.raises(ValueError, match="no config.json"):
        VLLMBackend(tmp_path)
    with pytest.raises(ValueError, match="no adapter_config.json"):
        VLLMBackend(tiny_llama, adapter=tmp_path)


def test_the_missing_package_is_named(tiny_llama):
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from pyterrier_expandr.expansion.backends.vllm import VLLMBackend\n"
        "from tests.backend_contract import ask\n"
        f"try: VLLMBackend({tiny_llama!r}).generate([ask('x')])\n"
        "except ImportError as error: assert 'pyterrier_expandr[vllm]' in str(error); print('said')"
    )
    assert "said" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
