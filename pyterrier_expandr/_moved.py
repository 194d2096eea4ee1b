"""Module paths of the first release's documentation that moved into rooms; they work until release 0.2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: old path -> new path, both below `pyterrier_expandr`
MOVED = {
    "backends": "expansion.backends",
    "backends.base": "expansion.backends.base",
    "backends.engines": "expansion.backends.opening",
    "backends.huggingface": "expansion.backends.huggingface",
    "backends.openai": "expansion.backends.openai",
    "backends.vllm": "expansion.backends.vllm",
    "demo": "cli.demo",
    "fusion": "encoding.fusion",
    "models": "encoding.models",
    "models.anchordr": "encoding.models.anchordr",
    "models.catalogue": "encoding.models.catalogue",
    "models.dpr": "encoding.models.dpr",
    "models.registry": "encoding.registry",
    "paper": "reports.paper",
    "report": "reports.page",
    "results": "evaluation.results",
    "significance": "evaluation.significance",
    "sparse": "retrieval.sparse",
    "training.candidates": "training.preferences.candidates",
    "training.examples": "training.data.examples",
    "training.merge": "training.expander.merge",
    "training.pair_files": "training.preferences.pair_files",
    "training.pairs": "training.preferences.pairs",
    "training.recipe_plan": "training.recipe.plan",
    "training.recipe_stages": "training.recipe.stages",
    "training.stages": "training.stage",
}
#: a second path that stays: experiments are documented as `pyterrier_expandr.beir`
KEPT = {"beir": "evaluation.beir"}

PACKAGE = __name__.rpartition(".")[0]


class _Alias(Loader):
    """Gives the module of another name, and leaves it as it is."""

    def __init__(self, name: str) -> None:
        self._module = import_module(name)
        self._spec = self._module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the alias's there


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        new = (MOVED | KEPT).get(old) if package == PACKAGE else None
        if new is None:
            return None
        if old in MOVED:
            message = f"{fullname} has moved to {PACKAGE}.{new}; the old path will be removed in release 0.2"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Alias(f"{PACKAGE}.{new}"))


def install() -> None:
    """Let the old paths be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # before a folder that an older version left behind
