"""How fast the AnchorDR port embeds, and how much memory training it takes, beside stock models of the same size.

    python -m benchmarks.anchordr [--json FILE] [--only speed|memory] [--device cpu|cuda] [--repeats N] [--threads N]

All weights are random and of base size; texts are 128 random token ids. Speed: `AnchorDRModel.embed` against stock
`T5EncoderModel` with its mean over tokens, in turns; the figure is the median over the rounds of the ratio. Memory: one
training step (embeddings, in-batch loss, gradients, AdamW) in a process of its own, with gradient checkpointing, beside
a BERT of the same width and depth. The mini-batch's memory is the peak with the batch less the peak with one text. The
exit status is 1 if any line is not OK.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .speed import line, ratio, take_turns

WIDTH, LAYERS, HEADS, HEAD, INNER, VOCABULARY, LENGTH = 768, 12, 12, 64, 3072, 33280, 128


def t5_settings() -> dict[str, Any]:
    """The fields of a T5 configuration that both sides share."""
    return {
        "vocab_size": VOCABULARY,
        "d_model": WIDTH,
        "d_kv": HEAD,
        "d_ff": INNER,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "layer_norm_epsilon": 1e-5,
        "pad_token_id": 1,
        "feed_forward_proj": "relu",
    }


def build(name: str, device: str, dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """A random model and the function from ids and mask to embeddings."""
    torch.manual_seed(0)
    if name == "anchordr":
        from pyterrier_expandr.encoding.models.anchordr import AnchorDRConfig, AnchorDRModel

        ours = AnchorDRModel(AnchorDRConfig(**t5_settings())).to(device, dtype)
        for parameter in ours.unused_parameters().values():
            parameter.requires_grad_(False)  # as the sentence-transformers module does
        return ours, ours.embed
    if name == "t5":
        from transformers import T5Config, T5EncoderModel

        stock: Any = T5EncoderModel(T5Config(**t5_settings())).to(device, dtype)
    else:
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
        )
        stock = BertModel(config, add_pooling_layer=False).to(device, dtype)
    return stock, lambda ids, mask: stock(input_ids=ids, attention_mask=mask).last_hidden_state.mean(1)


def batch(size: int, device: str, padded: bool = False) -> tuple[Tensor, Tensor]:
    """Random ids and their mask; `padded` ends half of the rows at three quarters."""
    torch.manual_seed(1)
    ids = torch.randint(4, VOCABULARY, (size, LENGTH))
    mask = torch.ones_like(ids)
    if padded:
        mask[::2, LENGTH * 3 // 4 :] = 0
        ids[mask == 0] = 1
    return ids.to(device), mask.to(device)


def measure_speed(size: int, repeats: int, device: str, dtype: torch.dtype) -> tuple[list[dict[str, Any]], Any]:
    """Embeddings per second, of full batches and of padded ones."""
    models = {name: build(name, device, dtype) for name in ("anchordr", "t5")}
    rows, seconds = [], {}
    for what, padded in (("128 tokens each", False), ("96 or 128 tokens", True)):
        ids, mask = batch(size, device, padded)

        def run(name: str, ids: Tensor = ids, mask: Tensor = mask) -> None:
            model, embed = models[name]
            model.eval()
            with torch.inference_mode():
                embed(ids, mask)
            if device == "cuda":
                torch.cuda.synchronize()

        times = take_turns({name: (lambda name=name: run(name)) for name in models}, repeats)
        speed = {name: size / sorted(values)[len(values) // 2] for name, values in times.items()}
        value = ratio(times, "t5", "anchordr")
        rows.append(
            line(f"embed / T5EncoderModel, {what}", "texts/s", speed["anchordr"], speed["t5"], value, ">= 0.75")
        )
        seconds[what] = times
    return rows, {"batch_size": size, "device": device, "dtype": str(dtype), "seconds": seconds}


def training_step(name: str, size: int, device: str) -> float:
    """Peak memory in MiB of two training steps: of this process on a CPU, of PyTorch's tensors on a GPU."""
    model, embed = build(name, device, torch.float32)
    model.train()
    model.gradient_checkpointing_enable()  # type: ignore[operator]
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    ids, mask = batch(size, device, padded=True)
    for _ in range(2):
        embeddings = embed(ids, mask)
        scores = embeddings @ embed(ids.flip(1), mask.flip(1)).T
        torch.nn.functional.cross_entropy(scores, torch.arange(size, device=device)).backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_memory(size: int, device: str, threads: int | None) -> tuple[list[dict[str, Any]], Any]:
    """Peak memory of a training step, and what of it the mini-batch takes."""
    peak = {}
    for name in ("anchordr", "bert"):
        for number in (1, size):
            command = [sys.executable, "-m", "benchmarks.anchordr", "--step", name, str(number), "--device", device]
            command += ["--threads", str(threads)] if threads else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peak[name, number] = float(done.stdout.split()[-1])
    ours, theirs = (peak[name, size] - peak[name, 1] for name in ("anchordr", "bert"))
    whole = peak["anchordr", size], peak["bert", size]
    rows = [
        line(f"mini-batch of {size} in training / BERT", "MiB", ours, theirs, ours / theirs, "<= 2.5"),
        line("whole training step / BERT", "MiB", *whole, whole[0] / whole[1], "<= 2.5"),
    ]
    return rows, {"peak_mib": {f"{name} {number}": value for (name, number), value in peak.items()}, "device": device}


def main() -> int:
    """Measure, print the table, write JSON; 0 if every line is OK."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--only", choices=["speed", "memory"], help="one part alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", help="of the speed part")
    parser.add_argument("--batch-size", type=int, default=16, help="texts in a batch")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--step", nargs=2, metavar=("MODEL", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.step:
        print(training_step(args.step[0], int(args.step[1]), args.device))
        return 0
    parts: dict[str, Callable[[], tuple[list[dict[str, Any]], Any]]] = {
        "speed": lambda: measure_speed(args.batch_size, args.repeats, args.device, getattr(torch, args.dtype)),
        "memory": lambda: measure_memory(args.batch_size, args.device, args.threads),
    }
    measured = {name: part() for name, part in parts.items() if args.only in (None, name)}
    rows = [row for part, _ in measured.values() for row in part]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
    if args.json:
        report = {
            "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "threads": torch.get_num_threads(),
            "settings": {name: settings for name, (_, settings) in measured.items()},
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["result"] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
