"""A model that is being trained, lent to a backend: it writes as it would at inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .prefill import shares_prefill

if TYPE_CHECKING:
    from ..huggingface import HuggingFaceBackend


@contextmanager
def lent(model: Any, backend: HuggingFaceBackend) -> Iterator[HuggingFaceBackend]:
    """`backend`, generating with `model` instead of its own; afterwards both are as before, also dropout.

    Args:
        model: the backend's model, with or without an adapter on it.
        backend: the backend whose tokenizer belongs to the model.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend
        >>> backend = HuggingFaceBackend("Qwen/Qwen2.5-0.5B-Instruct")
        >>> with lent(backend.load(), backend) as writer:  # doctest: +SKIP
        ...     writer.generate([])
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, own_prefill = backend._model, backend._shares_prefill
    configurations, training = (model.generation_config, plain.generation_config), model.training
    backend._model, backend._shares_prefill = model.eval(), shares_prefill(plain)
    model.generation_config = plain.generation_config = backend.generation_config(plain)
    try:
        yield backend
    finally:
        backend._model, backend._shares_prefill = own, own_prefill
        model.generation_config, plain.generation_config = configurations
        model.train(training)
