"""How long a step of DPO takes on a CPU: our trainer, and TRL's as it comes, with SmolLM2-135M-Instruct and LoRA.

    EXPANDR_DATA=FOLDER python -m benchmarks.dpo_step [--dtype bfloat16] [--steps N] [--json FILE]

Each trains in a process of its own, on the same pairs (sentences of SciFact's documents, 30 to 100 words), in batches
of 8 pairs. `TRL` lets its head score every position; everything else is the same: model, adapter, tokens, loss. Seconds
are those of the processor, since other work on the machine changes them less, without the first step. The losses show
that both compute the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import machine
from pyterrier_expandr.common.jsonl import read_jsonl, write_jsonl
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.training.expander import trainer_setup
from pyterrier_expandr.training.expander.train import ExpanderTrainingConfig, train_expander

PAIRS = 8
TRAINERS = ("TRL", "pyterrier_expandr")


def write_pairs(path: Path, number: int) -> None:
    """Pairs of text that is about as long as a passage: what they say does not matter to the time."""
    corpus = [row for _, row in read_jsonl(Path(os.environ["EXPANDR_DATA"]) / "scifact" / "corpus.jsonl")]

    def text(place: int) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": " ".join(corpus[place]["text"].split()[: 30 + 70 * place % 71])}]

    rows = [
        {
            "query_id": str(place),
            "prompt": list(render(PROMPTS["q2d"], query=corpus[place]["title"])),
            "chosen": text(place),
            "rejected": text(place + number),
        }
        for place in range(number)
    ]
    write_jsonl(path, rows)


def trained(name: str, steps: int, dtype: str, folder: Path) -> dict[str, Any]:
    """Seconds of the processor for a step, and the losses."""
    from pyterrier_expandr.training.expander.dpo import TokenizedDPOTrainer

    if name == "TRL":
        trainer_setup.score_only_what_counts = lambda: None
    write_pairs(folder / "pairs.jsonl", PAIRS * (steps + 2))
    moments, step = [], TokenizedDPOTrainer.training_step

    def training_step(*arguments: Any, **options: Any) -> Any:
        moments.append(time.process_time())
        return step(*arguments, **options)

    TokenizedDPOTrainer.training_step = training_step  # type: ignore[method-assign]
    config = ExpanderTrainingConfig(
        "smollm2", str(folder / "pairs.jsonl"), str(folder / "adapter"), dtype=dtype, batch_size=PAIRS,
        device_batch_size=PAIRS, epochs=1, eval_fraction=0, report_prompts=0, lora_dropout=0.0,
    )  # fmt: skip
    adapter = train_expander(config)
    losses = [row["loss"] for row in json.loads((adapter / "steps.json").read_text())]
    return {"seconds": (moments[-1] - moments[1]) / steps, "losses": losses}


def main() -> int:
    """Train with both, print seconds and their ratio, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", help="bfloat16 is fast on a CPU that has arithmetic for it")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--only", choices=TRAINERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(trained(given.only, given.steps, given.dtype, Path(folder))))
        return 0
    found = {}
    for name in TRAINERS:
        command = [sys.executable, "-m", "benchmarks.dpo_step", "--only", name]
        command += ["--dtype", given.dtype, "--steps", str(given.steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]['seconds']:.1f} s a step, losses {found[name]['losses']}", flush=True)
    ratio = found["pyterrier_expandr"]["seconds"] / found["TRL"]["seconds"]
    print(f"ours takes {ratio:.2f} of TRL's time")
    if given.json:
        result = {"machine": machine(), "dtype": given.dtype, "pairs": PAIRS, "ratio": ratio, "trainers": found}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
