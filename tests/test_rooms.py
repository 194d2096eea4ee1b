"""The rooms stand above one another: each imports only what is below it, lazy imports counted, annotations not."""

import ast
import shutil
import sys
from pathlib import Path

import grimp
import pytest

import pyterrier_expandr

ROOT = Path(__file__).parent.parent

#: from the top down; rooms in one line know nothing of one another
ORDER = [
    "cli",
    "training",
    "systems",
    "reports | analysis",
    "evaluation",
    "retrieval",
    "encoding",
    "expansion",
    "collections",
    "common",
]
TRAINING = [
    "recipe",
    "expander | retriever | smalllm",
    "preferences",
    "data",
    "stage | run_folder | checkpoints | progress | setting_checks | identity",
]


def graph(folder, monkeypatch, extra=None):
    """The imports of the package as it is installed: the folder `training` lies in it there. `extra` adds lines."""
    package = folder / "rooms_of_expandr"
    shutil.copytree(ROOT / "pyterrier_expandr", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "training", package / "training", ignore=shutil.ignore_patterns("__pycache__"))
    for file, line in (extra or {}).items():
        with open(package / file, "a") as module:
            module.write(f"\n{line}\n")
    monkeypatch.syspath_prepend(str(folder))
    try:
        return grimp.build_graph(package.name, exclude_type_checking_imports=True, cache_dir=None)
    finally:
        sys.modules.pop(package.name, None)


def wrong_arrows(imports):
    """Imports that go up or sideways between rooms, and between the rooms of training."""
    found = []
    for within, order in (("rooms_of_expandr", ORDER), ("rooms_of_expandr.training", TRAINING)):
        layers = [grimp.Layer(*map(str.strip, line.split("|")), independent=True) for line in order]
        broken = imports.find_illegal_dependencies_for_layers(layers=layers, containers={within})
        found += [f"{dependency.importer} -> {dependency.imported}" for dependency in broken]
    return sorted(found)


def circles(imports):
    """Modules that import one another, over however many others."""
    below = {module: imports.find_upstream_modules(module) for module in imports.modules}
    return sorted(module for module, reached in below.items() if module in {m for r in reached for m in below[r]})


def test_each_room_imports_only_what_is_below_it(tmp_path, monkeypatch):
    imports = graph(tmp_path, monkeypatch)
    assert wrong_arrows(imports) == []
    assert circles(imports) == []
    rooms = {module.split(".")[1] for module in imports.modules if module.count(".")}
    named = {room.strip() for line in ORDER for room in line.split("|")}
    assert rooms == named | {"_moved"}


@pytest.mark.parametrize(
    ("file", "line", "arrow"),
    [
        ("encoding/fusion.py", "from ..retrieval import spool", "encoding -> rooms_of_expandr.retrieval"),
        (
            "expansion/cache.py",
            "def f():\n    from ..systems.names import GRAMMAR",
            "expansion -> rooms_of_expandr.systems",
        ),
        ("training/data/chunks.py", "from ..recipe import plan", "data -> rooms_of_expandr.training.recipe"),
        ("reports/tables.py", "from ..analysis import figures", "reports -> rooms_of_expandr.analysis"),
    ],
    ids=["up", "up, in a function", "up within training", "sideways"],
)
def test_a_wrong_arrow_is_seen(file, line, arrow, tmp_path, monkeypatch):
    assert any(arrow in found for found in wrong_arrows(graph(tmp_path, monkeypatch, {file: line})))


def test_a_circle_is_seen(tmp_path, monkeypatch):
    imports = graph(tmp_path, monkeypatch, {"retrieval/spool.py": "def f():\n    from . import faiss_build"})
    assert {"rooms_of_expandr.retrieval.spool", "rooms_of_expandr.retrieval.faiss_build"} <= set(circles(imports))


def test_rooms_are_small_and_say_what_they_are():
    for package in {path.parent for top in ("pyterrier_expandr", "training") for path in (ROOT / top).rglob("*.py")}:
        doc = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
        assert doc, f"{package} says nothing"
        lines = doc.splitlines()
        assert len(lines) >= 3 or package.name == "training", f"{package}: what goes in, what comes out?"
        modules = [path for path in package.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
        assert len(modules) <= 13, f"{package} has {len(modules)} modules"


def test_files_and_functions_stay_readable():
    for path in (path for top in ("pyterrier_expandr", "training") for path in (ROOT / top).rglob("*.py")):
        text = path.read_text()
        assert text.count("\n") <= 320, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                code = node.end_lineno - node.lineno + 1 - docstring
                assert code <= 60, f"{path}:{node.lineno} {node.name} has {code} lines"


def test_moved_paths_work_for_one_release_and_say_so():
    for old, new in pyterrier_expandr._moved.MOVED.items():
        with pytest.warns(DeprecationWarning, match=f"is pyterrier_expandr.{new} now"):
            sys.modules.pop(f"pyterrier_expandr.{old}", None)
            moved = __import__(f"pyterrier_expandr.{old}", fromlist=["_"])
        assert moved is sys.modules[f"pyterrier_expandr.{new}"]
        assert moved.__spec__.name == f"pyterrier_expandr.{new}"
