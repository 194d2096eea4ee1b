"""The checks of `benchmarks.gpu`: on a CPU against itself wherever there is one, and on a GPU where there is one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import gpu


def run(**environment):
    command = [sys.executable, "-m", "benchmarks.gpu"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_without_a_gpu_it_says_so():
    done = run(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0 and "There is no CUDA device here" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both sides leave, when the side of the GPU is computed by the CPU too."""
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("gpu")
    gpu.prepare(folder)
    for side in ("cpu", "gpu"):
        gpu.run_side(folder, side, "cpu", reduced=side == "gpu")
    return folder


@pytest.mark.slow  # a minute; every check, of the CPU with itself
def test_each_check_runs_and_agrees_with_itself(folder):
    rows = gpu.compare(folder)
    assert {row["check"] for row in rows} == set(gpu.CHECKS) and len(rows) == 9
    assert [row["result"] for row in rows] == ["OK"] * 9, rows
    difference = {(row["check"], row["compared"]): row["difference"] for row in rows}
    assert difference["encoder in bfloat16", "documents"] > 1e-6  # it was not float32 on both sides
    assert difference["DPO step", "adapter"] < 1e-6 and difference["generation", "texts"] == 0


def test_what_was_compared_says_something(folder):
    """The steps moved the weights, and texts and documents are many different ones."""
    arrays = {name: np.load(folder / "gpu" / name / "arrays.npz") for name in gpu.CHECKS}
    assert (arrays["contrastive step"]["change of weights"] != 0).mean() > 0.1
    assert (arrays["DPO step"]["adapter"] != 0).all()
    assert len(set(arrays["generation"]["texts"])) == 32
    assert len(np.unique(arrays["exact search"]["documents"])) > 1000


def test_another_result_fails(folder):
    place = folder / "gpu" / "DPO step" / "arrays.npz"
    wrong = {name: -array for name, array in np.load(place).items()}
    np.savez(place, **wrong)
    said = folder / "gpu" / "generation" / "said.json"
    said.write_text(json.dumps({"error": "OutOfMemoryError: CUDA"}))
    verdicts = {(row["check"], row["compared"]): row for row in gpu.compare(folder)}
    assert verdicts["DPO step", "adapter"]["result"] == "FAIL"
    assert verdicts["generation", "texts"] | {"tolerance": 0} == {
        "check": "generation",
        "compared": "texts",
        "measure": "unequal",
        "difference": None,
        "tolerance": 0,
        "result": "FAIL",
        "error": "gpu: OutOfMemoryError: CUDA",
    }


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_computes():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    done = run()
    assert done.returncode == 0 and "OK" in done.stdout, done.stdout + done.stderr
