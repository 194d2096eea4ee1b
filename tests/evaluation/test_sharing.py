"""Two experiments in one folder at once."""

import json
import subprocess
import sys
from pathlib import Path

from pyterrier_expandr.evaluation.results import Results

SHARING = """
import sys, time
import pandas as pd
import pyterrier as pt
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.evaluation.beir import Collection, experiment

folder, names = sys.argv[1], sys.argv[2].split(",")
log = open(folder + ".log", "a", buffering=1)

class Slow(pt.Transformer):
    def __init__(self, name):
        self.name = name
    def transform(self, inp):
        log.write(f"{self.name}\\n")
        time.sleep(0.3)
        return inp.assign(docno="sky01", score=1.0, rank=0)
    def __repr__(self):
        return f"Slow({self.name})"

systems = {name: (lambda _, name=name: Slow(name)) for name in names}
print("ready", flush=True)
sys.stdin.readline()
found = experiment(systems, [Collection("pocket", pocket())], folder, verbose=False)
assert (found.cells["state"] == "done").all() and found.systems == names
"""


def test_each_cell_is_computed_once_and_the_record_names_all(tmp_path):
    folder = tmp_path / "results"
    lists = ["a,b,c,d,e", "c,d,e,f,g"]
    command = [sys.executable, "-c", SHARING, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, names], cwd=Path(__file__).parents[2], **pipes) for names in lists]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert sorted((tmp_path / "results.log").read_text().split()) == list("abcdefg")
    record = json.loads((folder / "experiment.json").read_text())
    assert sorted(record["systems"]) == list("abcdefg") and {cell["state"] for cell in record["cells"]} == {"done"}
    assert (Results.load(folder).cells["state"] == "done").all()
    assert not list(folder.rglob(".*.lock"))
