"""Names of a package that are imported on first use, so that importing the package loads nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public names are defined in its modules.

    Args:
        package: the package's `__name__`.
        home: name -> the module below `package` that defines it; if the module's path ends in the name, the name is the
            module itself.

    Example:
        >>> get, _ = lazy_names("pyterrier_expandr.common", {"read_jsonl": "jsonl"})
        >>> get("read_jsonl").__name__
        'read_jsonl'
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{home[name]}")
        return module if home[name].rpartition(".")[2] == name else getattr(module, name)

    return get, lambda: sorted(home)
