"""The rooms stand above one another: each imports only what is below it, lazy imports counted, annotations not."""

import ast
import sys

import grimp
import pytest

import pyterrier_expandr
from tests.rooms import COPY, ORDER, ROOT, TRAINING, arrows, imports, rooms


def wrong_arrows(graph):
    """Imports that go up or sideways between rooms, and between the rooms of training."""
    found = []
    for within, order in ((COPY, ORDER), (f"{COPY}.training", TRAINING)):
        layers = [grimp.Layer(*layer, independent=True) for layer in rooms(order)]
        broken = graph.find_illegal_dependencies_for_layers(layers=layers, containers={within})
        found += [f"{dependency.importer} -> {dependency.imported}" for dependency in broken]
    return sorted(found)


def circles(graph):
    """Modules that import one another, over however many others."""
    below = {module: graph.find_upstream_modules(module) for module in graph.modules}
    return sorted(module for module, reached in below.items() if any(module in below[other] for other in reached))


def test_each_room_imports_only_what_is_below_it():
    with imports() as graph:
        assert wrong_arrows(graph) == []
        assert circles(graph) == []
        there = {module.split(".")[1] for module in graph.modules if module.count(".")}
    assert there == {room for layer in rooms(ORDER) for room in layer} | {"_moved"}


def test_the_picture_shows_the_imports():
    with imports() as graph:
        drawn = "; ".join(f"{upper} -&gt; {lower}" for upper, lower in arrows(graph))
    assert drawn in (ROOT / "docs" / "rooms.svg").read_text(), "draw it anew: python -m tests.rooms docs/rooms.svg"


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
def test_a_wrong_arrow_is_seen(file, line, arrow):
    with imports({file: line}) as graph:
        assert any(arrow in found for found in wrong_arrows(graph))


def test_a_circle_is_seen():
    with imports({"retrieval/spool.py": "def f():\n    from . import faiss_build"}) as graph:
        assert {f"{COPY}.retrieval.spool", f"{COPY}.retrieval.faiss_build"} <= set(circles(graph))


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
        with pytest.warns(DeprecationWarning, match=f"has moved to pyterrier_expandr.{new};"):
            sys.modules.pop(f"pyterrier_expandr.{old}", None)
            moved = __import__(f"pyterrier_expandr.{old}", fromlist=["_"])
        assert moved is sys.modules[f"pyterrier_expandr.{new}"]
        assert moved.__spec__.name == f"pyterrier_expandr.{new}"
