"""GRPO while vLLM writes in the same process. `make test-vllm` builds an environment that has it, on a CPU."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.training.expander.config import ExpanderTrainingConfig
from pyterrier_expandr.training.expander.online.settings import OnlineSettings
from pyterrier_expandr.training.expander.train import train_expander
from tests.encoders_tiny import build_bert
from tests.tiny import build_tiny_llama

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm: make test-vllm")

QUERIES = [
    {"query_id": f"q{i}", "query": f"question {i} of the sky", "positive": "why is the sky blue", "positive_id": "d"}
    for i in range(16)
]


def brevity(candidates):
    """A toy: the fewer characters the better."""
    return np.array([[-len(text) / 10 for text in row] for row in candidates.texts])


def train(work: Path, name: str) -> None:
    """Train with what is in `work`, and keep the prompts that vLLM was given and the importance ratios TRL logged."""
    import vllm
    from trl import GRPOTrainer

    prompts, ratios = [], []
    generate, log = vllm.LLM.generate, GRPOTrainer.log

    def spied(self, given, **kwargs):
        prompts.extend(one["prompt_token_ids"] for one in given)
        return generate(self, given, **kwargs)

    def logged(self, logs, *args, **kwargs):
        ratios.extend(value for name, value in self._metrics["train"].items() if name.endswith("_ratio/mean"))
        return log(self, logs, *args, **kwargs)

    vllm.LLM.generate, GRPOTrainer.log = spied, logged
    online = OnlineSettings(str(work / "encoder"), rewards=(brevity,), group_size=4, max_new_tokens=10, vllm="colocate")
    config = ExpanderTrainingConfig(
        base=str(work / "llama"),
        pairs=str(work / "queries.jsonl"),
        out=str(work / name),
        method="grpo",
        online=online,
        beta=0.01,
        learning_rate=2e-2,
        epochs=4,
        batch_size=16,
        device_batch_size=8,
        eval_fraction=0.25,
        evaluations=4,
        report_prompts=0,
    )
    train_expander(config)
    (work / f"{name}.json").write_text(json.dumps({"prompts": prompts, "ratios": np.ravel(ratios).tolist()}))


def started(work: Path, name: str) -> subprocess.Popen:
    """A process that trains: vLLM binds its process to cores, and TRL sets its environment."""
    root = Path(__file__).parents[3]
    settings = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-m", __name__, str(work), name], cwd=root, env=settings)


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with the models and the queries, and a run."""
    folder = tmp_path_factory.mktemp("online_vllm")
    build_bert(folder / "encoder")
    build_tiny_llama(folder / "llama", head_dim=32)  # vLLM's attention on a CPU takes no smaller heads
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    assert started(folder, "adapter").wait(600) == 0
    return folder


def test_a_toy_reward_goes_up_and_every_weight_moves(work):
    record = json.loads((work / "adapter" / "expander.json").read_text())
    assert record["after"]["reward"] > record["before"]["reward"] + 0.3 and record["after"]["kl"] > 0.01
    assert all(weight.abs().max() > 0 for weight in weights(work / "adapter").values()), "LoRA's B begins at 0"


def test_vllm_reads_the_tokens_of_inference(work):
    seen = json.loads((work / "adapter.json").read_text())["prompts"]
    backend = HuggingFaceBackend(str(work / "llama"), device="cpu")
    prompts = [backend.prompt_ids(render(PROMPTS["q2d"], query=row["query"])) for row in QUERIES]
    assert len(seen) == 4 * 12 * 4 and {*map(tuple, seen)} < {*map(tuple, prompts)}


def test_what_top_p_leaves_out_does_not_silence_a_text(work):
    # By text, TRL's ratios are the tokens' shares of top_p multiplied: 0.9 to the power of ten or less.
    ratios = json.loads((work / "adapter.json").read_text())["ratios"]
    assert ratios and 0.85 < np.mean(ratios) < 1.05


def test_a_run_that_was_killed_ends_with_the_same_weights(work):
    run, last = started(work, "killed"), work / "killed.work" / "checkpoints" / "checkpoint-6"
    while not last.exists():
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (work / "killed").exists()
    assert started(work, "killed").wait(600) == 0
    assert 0 < len(json.loads((work / "killed.json").read_text())["prompts"]) <= 9 * 16, "it begins at a checkpoint"
    expected = weights(work / "adapter")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(work / "killed").items())


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2])
