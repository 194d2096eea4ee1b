"""Packages that only some features need: each comes with an extra of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec


@contextmanager
def needed_for(purpose: str, extra: str) -> Iterator[None]:
    """Turn an ImportError of the block into one that names the package, the extra and the line to type.

    Args:
        purpose: what the block is for, as the subject of a sentence.
        extra: the extra of this package that brings what the block imports.

    Raises:
        ImportError: the block imports something that is not installed, or that the installed version does not have.

    Example:
        >>> with needed_for("plotting", "viz"):
        ...     import no_such_package
        Traceback (most recent call last):
        ImportError: plotting needs the package no_such_package: pip install "pyterrier_expandr[viz]"
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{purpose} needs {_lacking(error)}: {install_line(extra)}") from error


def check_installed(purpose: str, extra: str, *packages: str) -> None:
    """Raise the error of `needed_for` if one of `packages` is not installed, without importing any of them.

    Example:
        >>> check_installed("plotting", "viz", "json", "no_such_package")
        Traceback (most recent call last):
        ImportError: plotting needs the package no_such_package: pip install "pyterrier_expandr[viz]"
    """
    with needed_for(purpose, extra):
        for name in packages:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name, name=name)


def install_line(extra: str) -> str:
    """The line to type for an extra.

    Example:
        >>> install_line("openai")
        'pip install "pyterrier_expandr[openai]"'
    """
    return f'pip install "pyterrier_expandr[{extra}]"'


def _lacking(error: ImportError) -> str:
    """The package that is missing, or whose installed version lacks something."""
    package = (error.name or "").partition(".")[0]
    if not package or find_spec(package) is None:
        return f"the package {package}" if package else f"more ({error})"
    found = [f"{name} {version(name)}" for name in packages_distributions().get(package, [])]
    return f"another version than {' and '.join(found) or package} ({error})"
