"""Reads AnchorDR checkpoints, and rejects anything that merely looks like one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...common.files import path_of
from ...common.weights import refuse_pickle

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: the fields of a T5 configuration that affect the numbers; the rest of the file is about generation
FIELDS = (
    "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads relative_attention_num_buckets dropout_rate "
    "layer_norm_epsilon feed_forward_proj pad_token_id eos_token_id decoder_start_token_id initializer_factor"
).split()
#: tied to `shared.weight`, or part of a language-model head: checkpoints may have them, but they are not read here
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")

Kind = Literal["anchordr", "t5", "encoder-only"]


def find_file(name: str, filename: str, revision: str | None = None) -> Path | None:
    """The local path of a file of a folder or hub model (downloaded if necessary), or None if it has no such file.

    Raises:
        ValueError: the folder or hub model does not exist.
    """
    folder = path_of(name)
    if folder.is_dir():
        return folder / filename if (folder / filename).is_file() else None
    from transformers.utils.hub import cached_file

    from .sentence_transformer import opening

    with opening(name):
        found = cached_file(name, filename, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def read_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """The fields of config.json that affect the numbers. Raises ValueError if it is missing or of another model."""
    path = find_file(name, "config.json", revision)
    if path is None:
        raise ValueError(
            f"{name!r} has no config.json: it is neither a model folder nor a model that can be found on the hub (or "
            "offline, among those downloaded before)"
        )
    config = read_json(path)
    if config.get("model_type") not in ("t5", "anchordr"):
        raise ValueError(
            f"{name!r} is a {config.get('model_type')!r} model, not AnchorDR, whose config.json says 't5' "
            "(as the reference writes it) or 'anchordr'"
        )
    return {field: config[field] for field in FIELDS if field in config}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object, not a {type(content).__name__}")
    return content


def weights_file(name: str, revision: str | None = None) -> Path:
    """The path of the weights, preferring safetensors. Raises ValueError if there are none."""
    for filename in WEIGHTS:
        if path := find_file(name, filename, revision):
            return path
    raise ValueError(f"{name!r} has no weights: neither {' nor '.join(WEIGHTS)}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a PyTorch zip if the user allows pickles, on the CPU.

    Raises:
        ValueError: the file is damaged; it is a pickle, and `EXPANDR_ALLOW_PICKLE` is not set; or the pickle contains
            more than tensors (it is not executed).
    """
    refuse_pickle(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or contains Python objects as well as tensors, which could run code: "
            "it was not opened. Save the weights as model.safetensors."
        ) from error
    except Exception as error:  # safetensors and the zip reader raise their own types for damaged files
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            f"{path} must contain a state dict, not a {type(weights).__name__}: save model.state_dict() only"
        )
    return dict(weights)


def weight_names(path: Path) -> list[str]:
    """The names in a weights file; for a safetensors file, only the header is read."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except Exception as error:
            raise ValueError(f"{path} cannot be read as weights: {error}") from error
    return list(read_weights(path))


def kind_of(names: Iterable[str]) -> Kind:
    """The kind of a T5-like state dict, judged by its names: AnchorDR, stock T5, or AnchorDR without its decoder."""
    own = {name for name in names if "pos_embed." in name or "first_layer_norm." in name}  # T5 has neither
    if not own:
        return "t5"
    return "anchordr" if any(name.startswith("decoder.") for name in own) else "encoder-only"


def refuse_t5(weights: Mapping[str, Tensor], source: object) -> None:
    """Raise ValueError if `weights` are those of a stock T5."""
    if kind_of(weights) == "t5":
        raise ValueError(
            f"{source} is not an AnchorDR checkpoint: it has plain T5 weights, without AnchorDR's position tables and "
            "first norms. Open it with ExpandREncoder or SentenceTransformer."
        )


def is_anchordr(name: str, revision: str | None = None) -> bool:
    """Whether a folder or hub model has AnchorDR's weights (or only its encoder's), which T5 classes open wrongly.

    If config.json does not say "t5", nothing else is read. False if there is no such file.
    """
    path = find_file(name, "config.json", revision)
    if path is None:
        return False
    try:
        model_type = read_json(path).get("model_type")
    except ValueError:
        return False
    if model_type != "t5":
        return model_type == "anchordr"
    files = (find_file(name, filename, revision) for filename in WEIGHTS)
    weights = next(filter(None, files), None)
    return weights is not None and kind_of(weight_names(weights)) != "t5"


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: object) -> None:
    """Do nothing if `weights` has exactly the names and shapes of `expected`, apart from tied copies.

    Raises:
        ValueError: lists all missing and unknown names and wrong shapes, and says what the checkpoint seems to be.
    """
    missing = [name for name in expected if name not in weights and name not in COPIES]
    unknown = [name for name in weights if name not in expected and name not in COPIES]
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if not (missing or unknown or wrong):
        return
    lines = [f"{source} is not a complete AnchorDR checkpoint."]
    if kind_of(weights) == "encoder-only":
        lines.append(
            "Its decoder is missing: the reference training script saves the encoder alone over the full model when it "
            "re-saves the folder through sentence-transformers. The embedding is a decoder state, so it cannot "
            "be replaced: use a checkpoint written before that."
        )
    for title, names in (("Missing", missing), ("Unknown", unknown), ("Wrong shape", wrong)):
        if names:
            lines.append(f"{title} ({len(names)}): {', '.join(names)}")
    raise ValueError("\n".join(lines))
