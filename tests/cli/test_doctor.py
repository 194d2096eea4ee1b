"""`expandr doctor` in this environment, and in ones with a fault."""

import sys
from dataclasses import replace
from importlib.metadata import version

from typer.testing import CliRunner

from pyterrier_expandr.cli import app, doctor
from pyterrier_expandr.common.extras import extras, required


def examine():
    return CliRunner().invoke(app, ["doctor"])


def test_it_tells_versions_devices_extras_and_models():
    found = examine()
    assert f"pyterrier_expandr {version('pyterrier_expandr')} on Python {sys.version.split()[0]}" in found.stdout
    for package in required():
        assert f"  {package}\n" in found.stdout
    told = {line.split()[0] for line in found.stdout.splitlines() if line.startswith("  ")}
    assert set(extras()) <= told
    for heading in ("Packages", "Extras", "Devices", "Models"):
        assert f"\n{heading}\n" in found.stdout
    assert "CPU with" in found.stdout and "FAISS" in found.stdout and "all-MiniLM-L6-v2" in found.stdout


def test_each_problem_comes_with_its_mend(monkeypatch, tmp_path):
    real = required

    def faulty(extra=""):
        packages = real(extra)
        if extra == "":
            return [replace(p, installed="1.26.4") if p.name == "pandas" else p for p in packages]
        if extra == "train":
            old = {"sentence-transformers": "5.0.0", "trl": None}
            return [replace(p, installed=old.get(p.name, p.installed or "99")) for p in packages]
        return packages

    monkeypatch.setattr(doctor, "required", faulty)
    monkeypatch.setitem(sys.modules, "faiss", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "file" / "cache"))
    found = examine()
    assert found.exit_code == 1
    said = found.stdout[found.stdout.index("\nProblems\n") :].splitlines()
    assert '  pandas 1.26.4 (needs >=2.2): pip install "pandas>=2.2"' in said
    assert any(
        "FAISS cannot be imported" in line and "pip install --force-reinstall faiss-cpu" in line for line in said
    )
    assert any("is not writable" in line and "EXPANDR_CACHE" in line for line in said)
    (train,) = (line for line in found.stdout.splitlines() if line.startswith("  train "))
    assert "lacks sentence-transformers 5.0.0 (needs >=6.0), trl (missing)" in train
    assert train.endswith(': pip install "pyterrier_expandr[train]"') and train not in said


def test_two_builds_of_faiss_are_noticed(monkeypatch):
    class Installed:
        metadata = None

        def __init__(self, name):
            self.metadata = {"Name": name}

    monkeypatch.setattr(doctor, "distributions", lambda: map(Installed, ["faiss-cpu", "faiss-gpu-cu12", "torch"]))
    found = examine()
    line = "pip uninstall -y faiss-cpu faiss-gpu-cu12 && pip install faiss-gpu-cu12"
    assert line in found.stdout and found.exit_code == 1
