"""Checks that reject a language model before it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....common.fingerprint import gguf_file, is_gguf
from ....common.records.manifest import check_model_folder
from ....common.weights import refuse_pickles


def check_place(name: str, place: str, adapter: str | Path | None) -> None:
    """Raise ValueError if `place`, named `name`, or `adapter` is a folder or file without a model or adapter in it, is
    damaged, or has its weights in a pickle alone.

    Example:
        >>> check_place("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", None)
    """
    folder = Path(place)
    if folder.is_dir() and not (folder / "config.json").is_file() and gguf_file(folder) is None:
        raise ValueError(f"{name!r} holds no model: it has no config.json and no GGUF file")
    if not folder.exists() and (folder.is_absolute() or place.startswith((".", "~"))):
        raise ValueError(f"there is no folder {name!r}: name an existing folder or a model of the hub")
    if is_gguf(folder) and folder.parent.is_dir() and not folder.is_file():
        raise ValueError(f"there is no file {name!r}")
    if (folder / "config.json").is_file():
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"the config.json of {name!r} is damaged ({error}): download it again") from error
        refuse_encoder_decoder(name, config)
        check_model_folder(folder)
        refuse_pickles(folder)
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise ValueError(f"{str(adapter)!r} holds no adapter: it has no adapter_config.json")
    if adapter is not None:
        check_model_folder(Path(adapter))
        refuse_pickles(adapter)


def refuse_encoder_decoder(name: str, config: dict[str, Any]) -> None:
    """Raise ValueError if `config`, a model's configuration, is that of an encoder-decoder model.

    Example:
        >>> refuse_encoder_decoder("tiny", {"model_type": "llama"})
    """
    if config.get("is_encoder_decoder"):
        raise ValueError(
            f"{name!r} is an encoder-decoder model ({config.get('model_type')}), which this package does not decode: "
            "name a causal language model, or serve it and name the server"
        )
