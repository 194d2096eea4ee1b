"""GRPO and online DPO while vLLM writes in the same process. `make test-vllm` builds an environment that has it, on a CPU."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.training.expander.config import ExpanderTrainingConfig
from pyterrier_expandr.training.expander.online.engine import VARIABLES
from pyterrier_expandr.training.expander.online.settings import OnlineSettings
from pyterrier_expandr.training.expander.train import train_expander
from tests.encoders_tiny import build_bert
from tests.tiny import build_tiny_llama
from tests.training.expander.test_online import brevity, weights

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm: make test-vllm")

QUERIES = [
    {"query_id": f"q{i}", "query": f"question {i} of the sky", "positive": "why is the sky blue", "positive_id": "d"}
    for i in range(16)
]


#: texts of a step, and settings
METHODS = {
    "grpo": {"batch_size": 16, "device_batch_size": 8, "group_size": 4},
    "online-dpo": {"batch_size": 4, "device_batch_size": 4, "group_size": None},
}


def config(work: Path, method: str, name: str, vllm: str | None = "colocate") -> ExpanderTrainingConfig:
    sizes = dict(METHODS[method])
    drawn = {"group_size": sizes.pop("group_size"), "max_new_tokens": 10, "vllm": vllm}
    return ExpanderTrainingConfig(
        base=str(work / "llama"),
        pairs=str(work / "queries.jsonl"),
        out=str(work / name),
        method=method,
        online=OnlineSettings(str(work / "encoder"), rewards=(brevity,), **drawn),
        beta=0.01,
        learning_rate=2e-2,
        epochs=4,
        eval_fraction=0.25,
        evaluations=4,
        report_prompts=0,
        **sizes,
    )


def train(work: Path, method: str, name: str) -> None:
    """Train with what is in `work`, and keep what vLLM was given, TRL's importance ratios, and what was left behind."""
    import vllm
    from trl import GRPOTrainer

    prompts, ratios = [], []
    generate, log = vllm.LLM.generate, GRPOTrainer.log

    def spied(self, given, *args, **kwargs):
        prompts.extend(one["prompt_token_ids"] for one in given)
        return generate(self, given, *args, **kwargs)

    def logged(self, logs, *args, **kwargs):
        ratios.extend(value for name, value in self._metrics["train"].items() if name.endswith("_ratio/mean"))
        return log(self, logs, *args, **kwargs)

    vllm.LLM.generate, GRPOTrainer.log = spied, logged
    train_expander(config(work, method, name))
    left = [variable for variable in VARIABLES if variable in os.environ]
    seen = {"prompts": prompts, "ratios": np.ravel(ratios).tolist(), "left": left}
    seen["group"] = torch.distributed.is_initialized()
    if name == method:  # with transformers next, in the same process
        train_expander(replace(config(work, method, f"{name}-next", vllm=None), epochs=1))
    (work / f"{name}.json").write_text(json.dumps(seen))


def started(work: Path, method: str, name: str) -> subprocess.Popen:
    """A process that trains: vLLM binds its process to cores, and TRL sets its environment."""
    root = Path(__file__).parents[3]
    settings = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    return subprocess.Popen([sys.executable, "-m", __name__, str(work), method, name], cwd=root, env=settings)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with the models and the queries."""
    folder = tmp_path_factory.mktemp("online_vllm")
    build_bert(folder / "encoder")
    build_tiny_llama(folder / "llama", head_dim=32)  # vLLM's attention on a CPU takes no smaller heads
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    return folder


@pytest.fixture(scope="module", params=METHODS)
def trained(request, work):
    """The method, its adapter, and what was seen while it was trained."""
    assert started(work, request.param, request.param).wait(600) == 0
    return request.param, work / request.param, json.loads((work / f"{request.param}.json").read_text())


def test_a_toy_reward_goes_up(trained):
    record = json.loads((trained[1] / "expander.json").read_text())
    assert record["after"]["reward"] > record["before"]["reward"] + 0.3 and record["after"]["kl"] > 0.01


def test_vllm_reads_the_tokens_of_inference(work, trained):
    method, _, seen = trained
    backend = HuggingFaceBackend(str(work / "llama"), device="cpu")
    prompts = [backend.prompt_ids(render(PROMPTS["q2d"], query=row["query"])) for row in QUERIES]
    texts = 4 if method == "grpo" else 1  # online DPO asks for two texts of a prompt
    assert len(seen["prompts"]) == 4 * 12 * texts and {*map(tuple, seen["prompts"])} < {*map(tuple, prompts)}


def test_what_top_p_leaves_out_does_not_silence_a_text(trained):
    method, _, seen = trained
    if method != "grpo":
        pytest.skip("online DPO has no importance ratios")
    # By text, these ratios would be the tokens' shares of top_p multiplied: about 0.9 ** 10.
    assert 0.85 < np.mean(seen["ratios"]) < 1.05


def test_vllm_leaves_a_process_in_which_others_can_train(work, trained):
    method, _, seen = trained
    assert not seen["left"] and not seen["group"]
    assert "vllm" in json.loads((work / method / "expander.json").read_text())["versions"]
    assert json.loads((work / f"{method}-next" / "expander.json").read_text())["steps"] == 3
    own, others = weights(work / method), weights(work / f"{method}-next")
    assert all(weight.abs().max() > 0 for each in (own, others) for weight in each.values()), "LoRA's B begins at 0"
    assert not any(torch.equal(weight, others[name]) for name, weight in own.items()), "from one start"


def test_texts_that_exceed_the_context_with_what_trl_adds_are_refused(work):
    with pytest.raises(ValueError, match="max_length 2040 with the max_new_tokens 10 that TRL adds for vLLM exceeds"):
        train_expander(replace(config(work, "online-dpo", "long"), max_length=2040))


def test_a_run_that_was_killed_ends_with_the_same_weights(work, trained):
    method, folder, seen = trained
    name = f"{method}-killed"
    run, checkpoints = started(work, method, name), work / f"{name}.work" / "checkpoints"
    try:
        for _ in range(3000):
            if (checkpoints / "checkpoint-6").exists():
                break
            assert run.poll() is None
            time.sleep(0.1)
    finally:
        run.kill()
        run.wait()
    assert not (work / name).exists()
    assert started(work, method, name).wait(600) == 0
    resumed = json.loads((work / f"{name}.json").read_text())["prompts"]
    assert 0 < len(resumed) < len(seen["prompts"]), "it begins at a checkpoint"
    expected = weights(folder)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(work / name).items())


if __name__ == "__main__":
    train(Path(sys.argv[1]), *sys.argv[2:])
