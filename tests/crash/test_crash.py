"""Kills, signals and two processes at once. `make test-crash` does all of it; here is a short form.

The harness forks, so it runs in a process of its own, in which nothing has started threads.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = [
    "create HNSW16",
    "overwrite Flat",
    "overwrite Flat, names cannot be exchanged",
    "training run",
]


def trust(*arguments):
    command = [sys.executable, "-m", "benchmarks.trust", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_a_few_kills_at_a_few_calls(tmp_path):
    few = ("--every", 13, "--kills", 2, "--signals", 1, "--pairs", 1)
    said = trust(*few, "--work", tmp_path, "--only", *SHORT, "index Flat")
    assert said.count("points") >= len(SHORT) and "index Flat" in said


@pytest.mark.crash
def test_every_stage_and_every_call(tmp_path):
    trust("--kills", 20, "--signals", 2, "--pairs", 2, "--work", tmp_path, "--only", "points", "stages")
