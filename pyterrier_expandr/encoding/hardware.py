"""What computes the vectors: the backend, and half precision (bfloat16) on hardware that computes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from ..common.hardware import has_bfloat16

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Backend = Literal["torch", "openvino"]
DType = Literal["float32", "bfloat16"]


def check_backend(backend: str, device: str | None, by_name: bool) -> None:
    """Raise ValueError if the backend is unknown or cannot compute the model on the device.

    Example:
        >>> check_backend("openvino", "cpu", by_name=True)
    """
    if backend not in ("torch", "openvino"):
        raise ValueError(f'backend must be "torch" or "openvino", got {backend!r}')
    if backend == "openvino" and device not in (None, "cpu"):
        raise ValueError(f"the backend openvino computes on the CPU, not on {device!r}: leave out device=")
    if backend == "openvino" and not by_name:
        raise ValueError("the backend openvino needs files: save the model (save_pretrained) and pass its folder")


def check_dtype(dtype: str, device: str) -> DType:
    """`dtype`, if the device computes with it.

    Raises:
        ValueError: an unknown dtype, or a device without arithmetic in bfloat16, where it would be slower.

    Example:
        >>> check_dtype("float32", "cpu")
        'float32'
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f'dtype must be "float32" or "bfloat16", got {dtype!r}')
    if dtype == "bfloat16" and not has_bfloat16(device):
        raise ValueError(f"this {device!r} has no arithmetic in bfloat16, so it would be slower: leave out dtype=")
    return "bfloat16" if dtype == "bfloat16" else "float32"


def use_bfloat16(model: SentenceTransformer) -> None:
    """Let the transformers in `model` compute in bfloat16, in place; pooling and what follows stay in float32.

    Raises:
        ValueError: `model` has none (AnchorDR, DPR).
    """
    from .models.library import Transformer
    from .models.openvino import OpenVINOTransformer

    found = False
    for module in model.modules():
        if isinstance(module, OpenVINOTransformer):
            module.precision, found = "bf16", True
        elif isinstance(module, Transformer):
            module.auto_model.to(torch.bfloat16)
            module.register_forward_hook(_in_float32)
            found = True
    if not found:
        raise ValueError(f"a model of {type(model[0]).__name__} computes only in float32: leave out dtype=")


def _in_float32(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    half = {n: v.float() for n, v in features.items() if isinstance(v, torch.Tensor) and v.dtype == torch.bfloat16}
    return {**features, **half}
