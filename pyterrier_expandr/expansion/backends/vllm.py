"""The backend for large jobs on GPUs: vLLM in this process, without a server."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from itertools import count, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.extras import needed_for
from ...common.fingerprint import model_fingerprint, pinned_revision
from ...common.weights import pickles_allowed
from .base import Backend, Generation, Message, Request, Stream, check_context, complete
from .huggingface import HuggingFaceBackend

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm import LLM, SamplingParams

#: number of samples given to the engine at once; it decides how many of them it decodes together
WINDOW = 4096

#: seconds that an engine may take to shut down by itself
STOP_SECONDS = 30

#: the LoRA ranks that vLLM supports
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLMBackend(Backend):
    """Generates with vLLM in this process.

    Prompts and texts are those of `HuggingFaceBackend`: rendered by the model's chat template, exactly one
    begin-of-sequence token, control tokens in messages read as plain text, and sampling by `Sampling` alone. All
    samples of all requests are in one queue, whatever their temperatures and lengths; the engine reads a prompt once
    for all its samples. Each sample has its own seed. The same requests give the same texts again, but a text may
    depend on what is decoded with it, because vLLM's kernels round differently in batches of different sizes.
    The engine starts on first use, in separate processes, and holds its memory until `close()` or the end of a `with`
    block. A script that uses it needs `if __name__ == "__main__":`.

    Args:
        model: a hub name or a folder.
        adapter: the folder of a LoRA adapter, applied without merging.
        dtype: "float32", "bfloat16", "float16"; None lets vLLM choose for the model and device.
        revision: the model's revision on the hub.
        trust_remote_code: run Python code that comes with the model.
        tensor_parallel_size: number of GPUs that share the model.
        gpu_memory_utilization: fraction of each GPU's memory that the engine takes.
        max_model_len: maximum number of tokens of prompt and text together; None uses the model's own context. A
            smaller value saves memory.
        options: more arguments of `vllm.LLM`, e.g. `{"quantization": "fp8"}`; they are part of the cache address.

    Raises:
        ValueError: a folder contains no model or no adapter (immediately); the engine does not start, e.g. because the
            model does not fit into memory; a prompt and `max_new_tokens` together exceed the context.
        ImportError: vLLM is missing (on first use).

    Example:
        >>> backend = VLLMBackend("Qwen/Qwen2.5-7B-Instruct", max_model_len=2048)
        >>> backend.fingerprint()["engine"]
        'vllm'
    """

    samples_apart = True

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        # Names, folders, prompts and tokens mean the same in both backends; this helper never loads its weights.
        self._prompts = HuggingFaceBackend(
            model, adapter=adapter, revision=revision, trust_remote_code=trust_remote_code, device="cpu"
        )
        self.model, self.adapter = self._prompts.model, self._prompts.adapter
        self.dtype, self.revision, self.trust_remote_code = dtype, revision, trust_remote_code
        self.tensor_parallel_size, self.gpu_memory_utilization = tensor_parallel_size, gpu_memory_utilization
        self.max_model_len = max_model_len
        self.options = None if options is None else json.loads(json.dumps(options))
        self._llm: LLM | None = None
        self._processes: list[BaseProcess] = []
        self._numbers = count()

    def fingerprint(self) -> dict[str, Any]:
        """Model, the hash of its files or its commit, adapter, dtype and further options."""
        options = {} if self.options is None else {"options": self.options}
        adapted = {} if self.adapter is None else {"adapter": model_fingerprint(self.adapter)}
        model = model_fingerprint(self._prompts.place, self.revision)
        return {"engine": "vllm", "dtype": self.dtype or "auto", **model, **adapted, **options}

    @property
    def context_length(self) -> int | None:  # type: ignore[override]
        """Maximum tokens of prompt and text together: `max_model_len`, or the value in the model's configuration."""
        return self.max_model_len or self._prompts.context_length

    def template_variables(self, thinking: bool = False) -> dict[str, Any]:
        """The variables of the model's chat template besides the messages, see `templates.template_variables`."""
        return self._prompts.template_variables(thinking)

    def rendered_prompt(self, messages: Sequence[Message], thinking: bool = False) -> str:
        """The prompt's text, as the model's chat template writes it."""
        return self._prompts.rendered_prompt(messages, thinking)

    def prompt_ids(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        """The prompt's tokens, with exactly one begin-of-sequence token if the model uses one."""
        return self._prompts.prompt_ids(messages, thinking)

    def prompt_tokens(self, messages: Sequence[Message], thinking: bool = False) -> int:
        """Number of tokens of the rendered prompt."""
        return len(self.prompt_ids(messages, thinking))

    def load(self) -> LLM:
        """The engine, started on first use."""
        if self._llm is None:
            with needed_for("VLLMBackend (in an environment of its own, since vLLM pins many versions)", "vllm"):
                from vllm import LLM
            settings = {
                "dtype": self.dtype or "auto",
                "revision": pinned_revision(self._prompts.place, self.revision),
                "trust_remote_code": self.trust_remote_code,
                "tensor_parallel_size": self.tensor_parallel_size,
                "gpu_memory_utilization": self.gpu_memory_utilization,
                "max_model_len": self.max_model_len,
            }
            if not pickles_allowed() and "load_format" not in (self.options or {}):
                settings["load_format"] = "safetensors"
            older = set(multiprocessing.active_children())
            try:
                self._llm = LLM(self._prompts.opened, **settings, **self._lora(), **(self.options or {}))
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                raise ValueError(
                    f"vLLM could not start with {self.model!r}: {error}\nvLLM's own log above has the cause. If memory "
                    "is short, lower max_model_len, spread the model with tensor_parallel_size, or change "
                    "gpu_memory_utilization."
                ) from error
            self._processes = [p for p in multiprocessing.active_children() if p not in older]
            _wake_at_death(self._llm, self._processes)
        return self._llm

    def _lora(self) -> dict[str, Any]:
        if self.adapter is None:
            return {}
        rank = json.loads((Path(self.adapter) / "adapter_config.json").read_text())["r"]
        return {"enable_lora": True, "max_lora_rank": next((r for r in LORA_RANKS if r >= rank), rank)}

    def close(self) -> None:
        """Stop the engine and free its memory; it is started again when needed."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            for process in self._processes:  # its memory is only free once the process is gone
                process.join(STOP_SECONDS)
                if process.is_alive():
                    process.kill()
                    process.join()

    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index, one Generation per sample)` as they become ready."""
        yield from complete(requests, self._samples(requests))

    def _samples(self, requests: Sequence[Request]) -> Generator[tuple[int, int, Generation], None, None]:
        """Yield `(index of the request, sample, text)` once ready; stopping midway makes the engine drop the rest."""
        if not requests:
            return
        prompts = self._checked_prompts(requests)
        engine, adapter = self.load().llm_engine, self._lora_request()
        waiting = iter([(i, s) for i, request in enumerate(requests) for s in dict.fromkeys(request.samples)])
        running: dict[str, tuple[int, int]] = {}
        try:
            while True:
                for i, sample in islice(waiting, WINDOW - len(running)):
                    name = str(next(self._numbers))
                    prompt = {"prompt_token_ids": prompts[_key(requests[i])]}
                    engine.add_request(name, prompt, _parameters(requests[i], sample), lora_request=adapter)
                    running[name] = (i, sample)
                if not running:
                    return
                for output in engine.step():
                    if output.finished:
                        i, sample = running.pop(output.request_id)
                        yield i, sample, self._generation(output.outputs[0], len(prompts[_key(requests[i])]))
        except Exception as error:
            self.close()
            raise ChildProcessError(
                f"vLLM's engine failed: {error}\nIts own log above has the cause. It is started anew when used again."
            ) from error
        finally:
            if running and self._llm is not None:
                with suppress(Exception):  # Ctrl-C reaches the engine too, which may exit before this
                    engine.abort_request(list(running))

    def _checked_prompts(self, requests: Sequence[Request]) -> dict[tuple[Any, ...], list[int]]:
        """The tokens of each distinct prompt. Raises ValueError if one is too long, before anything is generated."""
        prompts: dict[tuple[Any, ...], list[int]] = {}
        for request in requests:
            key = _key(request)
            if key not in prompts:
                prompts[key] = self.prompt_ids(request.messages, request.thinking)
            check_context(request, len(prompts[key]), self.context_length)
        return prompts

    def _lora_request(self) -> Any:
        if self.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self.adapter)

    def _generation(self, output: Any, prompt_tokens: int) -> Generation:
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"a text ended with {output.finish_reason!r}")
        truncated = output.finish_reason == "length"
        # Decoded as in HuggingFaceBackend: the engine's own token-by-token decoding drops an unfinished character.
        ids = list(output.token_ids)
        text = self._prompts.text_of(ids if truncated else ids[:-1])
        return Generation(text, truncated, tokens=(prompt_tokens, len(ids)))

    def __repr__(self) -> str:
        return f"VLLMBackend({self.model!r})"


def _wake_at_death(llm: LLM, processes: list[BaseProcess]) -> None:
    """Make `step` fail if a process of the engine is killed; otherwise vLLM's client would wait for it forever."""
    outputs = getattr(llm.llm_engine.engine_core, "outputs_queue", None)
    if outputs is None or not processes:  # the engine has no process of its own
        return

    def watch() -> None:
        wait([process.sentinel for process in processes])
        outputs.put(ChildProcessError("its process has ended"))

    threading.Thread(target=watch, daemon=True).start()


def _key(request: Request) -> tuple[Any, ...]:
    return request.thinking, *(part for message in request.messages for part in (message["role"], message["content"]))


def _parameters(request: Request, sample: int) -> SamplingParams:
    from vllm import SamplingParams

    s = request.sampling
    return SamplingParams(
        temperature=s.temperature,
        top_p=s.top_p,
        max_tokens=s.max_new_tokens,
        seed=request.sample_seed(sample),
        detokenize=False,
    )
