"""The parts of sentence-transformers that are used here, under one name each: releases of version 5 moved them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

try:
    from sentence_transformers.base.modules import Dense, InputModule, Router
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, Transformer

    NEW_NAMES = True
except ImportError:  # sentence-transformers 5.0
    from sentence_transformers.models import (  # type: ignore[no-redef]
        Dense,
        InputModule,
        LayerNorm,
        Normalize,
        Pooling,
        Router,
        Transformer,
    )

    NEW_NAMES = False

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Dense", "LayerNorm", "Normalize", "Pooling", "Router", "TextModule", "Transformer"]


class TextModule(InputModule):
    """A first module that reads texts; subclasses define `preprocess` and `get_embedding_dimension`."""

    def tokenize(self, texts: list[str], **kwargs: Any) -> dict[str, Tensor | Any]:
        """`preprocess` under its older name."""
        return self.preprocess(texts, **kwargs)

    def get_sentence_embedding_dimension(self) -> int | None:
        """`get_embedding_dimension` under its older name."""
        return self.get_embedding_dimension()


def open_transformer(name: str, weights: Mapping[str, Any], **options: Any) -> Transformer:
    """The token states of a bare checkpoint; `options` open its files, and `weights` its weights besides."""
    model, *others = ("model_kwargs", "processor_kwargs", "config_kwargs") if NEW_NAMES else _OLDER_OPTIONS
    return Transformer(name, **{model: {**options, **weights}}, **{other: dict(options) for other in others})


_OLDER_OPTIONS = ("model_args", "tokenizer_args", "config_args")


def size_of(part: Any) -> int | None:
    """The size of the vectors that a model or one of its modules gives, or None if that is not known."""
    names = ("get_embedding_dimension", "get_sentence_embedding_dimension", "get_word_embedding_dimension")
    size: int | None = next(getattr(part, name) for name in names if hasattr(part, name))()
    return size


def pooling_mode(module: Any) -> str | None:
    """The name of a module's pooling, joined by + if there are several, or None if it does not pool."""
    if hasattr(module, "get_pooling_mode_str"):
        return str(module.get_pooling_mode_str())
    mode = getattr(module, "pooling_mode", None)
    return mode if mode is None or isinstance(mode, str) else "+".join(mode)


def preprocess(model: SentenceTransformer, texts: Sequence[str], prompt: str, side: str) -> dict[str, Any]:
    """The features of `texts`, each after `prompt`, for one side ("query" or "document") of a model."""
    if NEW_NAMES:
        return dict(model.preprocess(list(texts), prompt=prompt or None, task=side))
    older: Any = model
    length = older._get_prompt_length(prompt, task=side) if prompt else None
    marked = {} if length is None else {"prompt_length": length}
    return dict(older.tokenize([prompt + text for text in texts], task=side)) | marked
