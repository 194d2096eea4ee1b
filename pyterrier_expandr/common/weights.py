"""Weights are read from safetensors; a pickle, which can hold code, is refused by name unless the user allows it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: the environment variable by which a user says that the authors of the models at hand are trusted
ALLOW = "EXPANDR_ALLOW_PICKLE"
MEND = (
    "a pickle can run code when it is opened: save the weights as safetensors (save_pretrained does), or set the "
    f"environment variable {ALLOW}=1 if you trust whoever made it"
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def pickles_allowed() -> bool:
    """Whether the user has allowed pickles, by `EXPANDR_ALLOW_PICKLE=1`."""
    return os.environ.get(ALLOW, "").strip().lower() in ("1", "true", "yes")


def weights_options() -> dict[str, Any]:
    """The arguments of `from_pretrained` with which transformers opens no pickle."""
    return {} if pickles_allowed() else {"use_safetensors": True}


def refuse_pickle(file: Path) -> None:
    """Raise ValueError if `file` holds weights in another format than safetensors, and the user has not allowed that.

    Example:
        >>> refuse_pickle(Path("model.safetensors"))
    """
    if file.suffix in PICKLES and not pickles_allowed():
        raise ValueError(f"{str(file)!r} is not opened, because {MEND}")


def refuse_pickles(name: str | Path) -> None:
    """Raise ValueError if a model's folder, or one of its modules', has weights in pickles alone; the files are named.

    Anything that is not a folder is accepted: a hub model is opened with `weights_options`.
    """
    folder = Path(name)
    if folder.is_file():
        refuse_pickle(folder)
    if pickles_allowed() or not folder.is_dir():
        return
    for place in (folder, *(folder / path for path in module_folders(folder))):
        files = [file for file in place.iterdir() if file.is_file()] if place.is_dir() else []
        found = sorted(file for file in files if file.suffix in PICKLES and file.name != "training_args.bin")
        if found and not any(file.suffix == ".safetensors" for file in files):
            refuse_pickle(found[0])


def module_folders(folder: Path) -> list[str]:
    """The sub-folders that a sentence-transformers model names for its modules, also inside a router."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [str(module.get("path", "")) for module in modules]
        for path in list(paths):
            router = folder / path / "router_config.json"
            if router.is_file():
                types = json.loads(router.read_text(encoding="utf-8")).get("types", {})
                paths += [(Path(path) / name).as_posix() for name in types]
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # whoever opens the model says what is wrong with these files
    return [path for path in paths if path]


def explained(error: Exception) -> str:
    """The message of an error from transformers; if it found only a pickle, with what to do about that."""
    said = str(error)
    return f"{said}\n{MEND[0].upper()}{MEND[1:]}." if "safetensors" in said and not pickles_allowed() else said
