"""A constructed `SentenceTransformer`: what it is, how it pools and normalises, and how to change that."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import normalize as l2_normalize

from ...common.weights import explained

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@contextmanager
def opening(name: object) -> Iterator[None]:
    """Turn any error while a model is opened into one ValueError that names the model and says what to do."""
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"cannot open the encoder {str(name)!r}: {explained(error)}\nGive a folder that contains a model, or the "
            "name of a model on the hub (offline, only one that was downloaded before)."
        ) from error


def copy_of(model: SentenceTransformer, device: str, *, share: bool = True) -> SentenceTransformer:
    """A copy of `model` on `device` that can be changed without affecting it; with `share`, weights are shared if they
    are on that device already.

    Raises:
        ValueError: the model cannot be copied (its weights are stored outside PyTorch).
    """
    shared: dict[int, Any] = {}
    if (
        share and torch.device(device).type == model.device.type
    ):  # moving shared weights would also move those of `model`
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        return copy.deepcopy(model, shared).to(device)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the given model cannot be copied, and must not be changed in place ({error}): save it with "
            "save_pretrained and pass the folder"
        ) from error


def apply_overrides(
    model: SentenceTransformer,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    truncate_dim: int | None = None,
) -> None:
    """Change the pooling, normalisation, length or size of `model` in place; None keeps what the model has.

    Raises:
        ValueError: `pooling` is unknown, or `max_length` or `truncate_dim` is below 1 or above what the model supports.
    """
    from .library import Normalize, Pooling, size_of

    modules = list(model.children())
    if pooling is not None:
        first = modules[0]
        replaced = Pooling(size_of(first), pooling_mode=pooling)
        modules = [first, replaced, *(m for m in modules[1:] if not isinstance(m, Pooling))]
    if normalize is not None:
        modules = [m for m in modules if not isinstance(m, Normalize)]
        if normalize:
            modules.append(Normalize())
    if modules != list(model.children()):
        device = model.device
        for key in list(model._modules):
            del model._modules[key]
        for number, module in enumerate(modules):
            model.add_module(str(number), module.to(device))
    if max_length is not None:
        limit = position_limit(model)
        if max_length < 1 or (limit is not None and max_length > limit):
            raise ValueError(f"max_length must be between 1 and {limit or 'the model length'}, got {max_length}")
        for module in model.modules():  # all of them, because nothing reads a router's own length
            if module is not model and hasattr(module, "max_seq_length"):
                module.max_seq_length = max_length  # type: ignore[assignment]  # a property, not a tensor
    if truncate_dim is not None:
        model.truncate_dim = None  # so that the model reports the size of its full vectors
        whole = size_of(model)
        if truncate_dim < 1 or (whole is not None and truncate_dim > whole):
            raise ValueError(f"truncate_dim must be between 1 and {whole or 'the model size'}, got {truncate_dim}")
        model.truncate_dim = truncate_dim


def position_limit(model: SentenceTransformer) -> int | None:
    """The longest input that the model's position embeddings allow, or None if that is not known."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return getattr(config, "max_position_embeddings", None)


def pooling_of(model: SentenceTransformer) -> str | None:
    """The name of the model's pooling ("mean", "cls" ...), or None if none of its modules pools."""
    from .library import pooling_mode

    for module in model.children():
        if (mode := pooling_mode(module)) is not None:
            return mode
    return None


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the model's last step is L2 normalisation."""
    from .library import Normalize

    return any(isinstance(module, Normalize) for module in model.children())


def normalizes_again(model: SentenceTransformer) -> bool:
    """Whether the model's vectors are truncated after it has normalised them, and must be normalised again."""
    return model.truncate_dim is not None and normalizes(model)


def prompt_of(model: SentenceTransformer, side: str, given: str | None) -> str:
    """The text put before each input of `side` ("query" or "document"): the given one, else the model's own.

    The model's own is the one that its `encode_query` and `encode_document` use: an empty prompt counts if it is
    defined, and the default prompt is used only if none of the side's names is defined.
    """
    if given is not None:
        return given
    names = ["query"] if side == "query" else ["document", "passage", "corpus"]
    name = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return (model.prompts.get(name) if name is not None else None) or ""


def name_of(model: SentenceTransformer) -> str:
    """The name that a constructed model was opened by, or "SentenceTransformer" if that is not known."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((name for config in configs if (name := getattr(config, "name_or_path", ""))), type(model).__name__)


def portable_name(name: str) -> str:
    """The absolute path of a folder or file, so that a record of it is valid from anywhere; hub names are unchanged."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def weights_fingerprint(model: SentenceTransformer) -> dict[str, Any]:
    """A hash over all weights of a constructed model, as JSON values."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return {"model": name_of(model), "weights_sha256": digest.hexdigest()}


def forward(model: SentenceTransformer, texts: list[str], side: str, prompt: str, batch_size: int) -> torch.Tensor:
    """Embeddings (n, d) with gradients, in the order of `texts`, encoded by `side` ("query" or "document")."""
    from .library import preprocess, size_of

    parts = []
    for start in range(0, len(texts), batch_size):
        features = preprocess(model, texts[start : start + batch_size], prompt, side)
        features = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        vectors = model(features, task=side)["sentence_embedding"][:, : model.truncate_dim]
        parts.append(l2_normalize(vectors, dim=1) if normalizes_again(model) else vectors)
    return torch.cat(parts) if parts else torch.empty(0, size_of(model) or 0, device=model.device)
