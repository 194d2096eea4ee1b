import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import psutil
import pytest

from pyterrier_expandr import GenerationCache, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.common import ray_cluster
from pyterrier_expandr.common.ray_cluster import Cluster
from pyterrier_expandr.expansion.backends.ray_backend import RayBackend

pytest.importorskip("ray", reason="needs Ray: pip install 'pyterrier_expandr[ray]'")

#: eight tokens are never a whole text
pytestmark = pytest.mark.filterwarnings("ignore:of .* expansions were truncated")

SETTINGS = {"n": 2, "max_new_tokens": 8}


def topics(count):
    return pd.DataFrame({"qid": list(map(str, range(count))), "query": [f"query number {i}" for i in range(count)]})


def write(backend, cache, count):
    return LLMExpander(backend, cache=cache, **SETTINGS).transform(topics(count))


def test_a_cluster_writes_what_one_process_writes_and_shares_its_cache(tiny_llama, ray_nodes, tmp_path):
    alone = write(HuggingFaceBackend(tiny_llama), tmp_path / "alone.sqlite", 20)
    spread = RayBackend(HuggingFaceBackend(tiny_llama), requests=8)
    pd.testing.assert_frame_equal(write(spread, tmp_path / "spread.sqlite", 20), alone)
    # What the cluster wrote is there for one process: a model that cannot be opened would be asked otherwise.
    cache = GenerationCache(tmp_path / "spread.sqlite")
    assert len(cache) == 40
    again = HuggingFaceBackend(tiny_llama)
    pd.testing.assert_frame_equal(write(again, cache, 20), alone)
    assert "_model" not in vars(again) or vars(again)["_model"] is None


def test_what_a_worker_raises_is_said_here(tiny_llama, ray_nodes):
    class Broken(HuggingFaceBackend):
        def stream(self, requests):
            raise ValueError("the disk of this machine is full")

    with pytest.raises(RuntimeError, match="a Ray worker on .* failed: ValueError: the disk of this machine is full"):
        write(RayBackend(Broken(tiny_llama)), None, 2)


def test_machines_with_other_versions_are_refused_by_name(tiny_llama, ray_nodes, monkeypatch):
    there = ray_cluster.versions() | {"torch": "1.0"}
    monkeypatch.setattr(ray_cluster, "versions", lambda: there)
    with pytest.raises(RuntimeError, match=r"has other versions: torch 1\.0 there, .* here\. Install the same"):
        write(RayBackend(HuggingFaceBackend(tiny_llama)), None, 2)


def test_workers_that_fit_nowhere_are_refused_rather_than_waited_for(tiny_llama, ray_nodes):
    backend = RayBackend(HuggingFaceBackend(tiny_llama), cluster=Cluster(num_gpus=1))
    with pytest.raises(RuntimeError, match="wants 1 GPUs, but no machine .* more than 0: lower num_gpus"):
        write(backend, None, 2)


def test_a_frame_that_does_not_fit_into_memory_is_taken_in_halves():
    class Small:
        def __call__(self, frame):
            if len(frame) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            if (frame["a"] == 9).any():
                raise MemoryError("one is too much")
            return frame * 10

    worker = ray_cluster.Guarded(Small, (), ray_cluster.versions())
    assert worker(pd.DataFrame({"a": range(7)}))["a"].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert worker(pd.DataFrame({"a": [1, 9]}))["error"].iloc[0].endswith("failed: MemoryError: one is too much")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers must be 1 or more"),
        ({"num_cpus": 0}, "a worker needs CPUs or GPUs"),
        ({"num_gpus": -1}, "a worker needs CPUs or GPUs"),
    ],
)
def test_a_cluster_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Cluster(**changes)


def test_a_batch_of_no_requests_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="requests, which a worker takes at once, must be 1 or more"):
        RayBackend(HuggingFaceBackend(tiny_llama), requests=0)


def workers():
    """The processes of Ray that hold a model."""
    return [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]


@pytest.mark.slow  # 2 minutes: a node is waited for until Ray gives it up
def test_a_worker_and_a_machine_that_die_lose_nothing_and_nothing_comes_twice(tiny_llama, ray_nodes, tmp_path):
    count, killed = 400, []
    alone = write(HuggingFaceBackend(tiny_llama), None, count)
    third = ray_nodes.add_node(num_cpus=1)

    def kill():
        cache = tmp_path / "cache.sqlite"
        while not cache.exists() or len(GenerationCache(cache)) < 40:
            time.sleep(0.05)
        if found := workers():
            os.kill(found[0].pid, signal.SIGKILL)
            killed.append("worker")
        time.sleep(1)
        ray_nodes.remove_node(third, allow_graceful=False)
        killed.append("node")

    thread = threading.Thread(target=kill)
    thread.start()
    spread = write(RayBackend(HuggingFaceBackend(tiny_llama), requests=8), tmp_path / "cache.sqlite", count)
    thread.join()
    assert killed == ["worker", "node"]
    pd.testing.assert_frame_equal(spread, alone)
    assert len(GenerationCache(tmp_path / "cache.sqlite")) == 2 * count


@pytest.mark.slow  # a minute: Ray starts twice
def test_a_run_whose_own_process_dies_continues(tiny_llama, tmp_path):
    """`--ray local`: the process that is killed has started Ray itself."""
    code = "from pyterrier_expandr.cli import main; main()"
    settings = ["--collection", "pocket", "--n", "8", "--max-new-tokens", "8", "--llm", tiny_llama]

    def expand(name, *ray):
        command = [sys.executable, "-c", code, "expand", *settings, *ray, "--out", str(tmp_path / f"{name}.jsonl")]
        return subprocess.Popen(command, env={**os.environ, "RAY_worker_niceness": "0"})

    assert expand("alone").wait() == 0
    cache = tmp_path / "spread.sqlite"
    process = expand("spread", "--ray", "local")
    while process.poll() is None and (not cache.exists() or len(GenerationCache(cache)) < 64):
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = len(GenerationCache(cache))
    assert kept >= 64
    assert expand("spread", "--ray", "local").wait() == 0
    assert (tmp_path / "spread.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert len(GenerationCache(cache)) == len(GenerationCache(tmp_path / "alone.sqlite")) > kept
