"""What `expandr doctor` tells: versions, devices, extras, models at hand, and how to mend each problem."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import distributions, version
from pathlib import Path

import typer

from ..common.extras import INSTEAD, extras, install_line, required
from ..common.files import cache_folder
from .common import app


@app.command(epilog="Example: expandr doctor")
def doctor() -> None:
    """Print versions, devices, extras and models at hand, and how to mend each problem (exit status 1)."""
    problems = list(run_doctor(typer.echo))
    typer.echo("\nNo problem was found." if not problems else "\nProblems")
    for problem in problems:
        typer.echo(f"  {problem}")
    if problems:
        raise typer.Exit(1)


def run_doctor(say: Callable[[str], None]) -> Iterator[str]:
    """Say what is there, and yield each problem with its mend."""
    say(
        f"pyterrier_expandr {version('pyterrier_expandr')} on Python {platform.python_version()}, {platform.platform()}"
    )
    for part in (_packages, _extras, _devices, _models):
        say(f"\n{part.__name__.strip('_').capitalize()}")
        yield from part(lambda line: say(f"  {line}"))


def _packages(say: Callable[[str], None]) -> Iterator[str]:
    for package in required():
        say(str(package))
        if not package.fits:
            yield f'{package}: pip install "{package.name}{package.needed}"'
    names = {(own.metadata["Name"] or "").lower() for own in distributions()}
    builds = sorted(names & {"faiss-cpu", *INSTEAD["faiss-cpu"]})
    if len(builds) > 1:
        yield (
            f"{' and '.join(builds)} overwrite each other's files: pip uninstall -y {' '.join(builds)} && "
            f"pip install {builds[-1]}"
        )


def _extras(say: Callable[[str], None]) -> Iterator[str]:
    for extra in extras():
        packages = required(extra)
        if not packages:
            say(f"{extra:<12} has no package for this platform")
            continue
        lacking = [package for package in packages if not package.fits]
        line = f": {install_line(extra)}" if lacking else ""
        say(f"{extra:<12} {'lacks ' if lacking else ''}{', '.join(map(str, lacking or packages))}{line}")
    yield from ()  # nobody needs all extras, and each line says how to get one


def _devices(say: Callable[[str], None]) -> Iterator[str]:
    say(f"CPU with {os.cpu_count()} cores")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield f"torch cannot be imported ({error}): pip install --force-reinstall torch"
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        say(f"cuda:{number}, {device.name}, {device.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        say(f"no GPU that torch {torch.__version__} can use")
        if shutil.which("nvidia-smi"):
            yield "there is a GPU that torch cannot use: install torch as https://pytorch.org/get-started/locally says"
    try:
        import faiss
    except (ImportError, OSError) as error:
        yield f"FAISS cannot be imported ({error}): pip install --force-reinstall faiss-cpu"
    else:
        say(f"FAISS {faiss.__version__}, which searches on the CPU")


def _models(say: Callable[[str], None]) -> Iterator[str]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from ..encoding.models.catalogue import ENCODERS, LLMS
    from ..encoding.registry import demo_encoder_folder
    from ..expansion.backends.gguf import INSTALL_SMOLLM2, SMOLLM2, SMOLLM2_HUB, resolve_llm

    try:
        say(f"all-MiniLM-L6-v2, the encoder of the demo: {demo_encoder_folder()}")
    except ImportError as error:
        say(str(error))
    if (file := resolve_llm(SMOLLM2)) == SMOLLM2_HUB:
        say(f"smollm2, the LLM of the demo, is not installed: {INSTALL_SMOLLM2}")
    else:
        say(f"smollm2, the LLM of the demo: {file}")
    try:
        cached = {repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model"}
    except CacheNotFound:
        cached = set()
    short = {entry.model: name for name, entry in ENCODERS.items()}
    short |= {entry.model: name for name, entry in LLMS.items()}
    for name in sorted(cached):
        say(f"{name}{f' ({short[name]})' if name in short else ''}, downloaded from the hub")
    if not cached:
        say("no model was downloaded from the hub")
    folder = cache_folder()
    say(f"converted models and what is known of servers: {folder}")
    if not _writable(folder):
        yield f"{folder} is not writable: name another folder in the environment variable EXPANDR_CACHE"


def _writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK)
