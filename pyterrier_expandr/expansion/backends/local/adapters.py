"""A LoRA adapter put on a language model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ....common.extras import needed_for


def with_adapter(model: Any, adapter: str | None) -> Any:
    """`model` with the adapter in a folder; `model` itself if there is none.

    Raises:
        ImportError: peft is missing. ValueError: the adapter cannot be opened, or does not suit the model.

    Example:
        >>> with_adapter("a model", None)
        'a model'
    """
    if adapter is None:
        return model
    with needed_for("an adapter", "train"):
        from peft import PeftModel
    try:
        with without_renaming_warnings():
            return PeftModel.from_pretrained(model, adapter)
    except Exception as error:  # PEFT answers a wrong configuration with errors of many types
        raise ValueError(
            f"cannot open the adapter {adapter!r} on this model ({type(error).__name__}: {error}): train it again on "
            "this model, or copy it again"
        ) from error


@contextmanager
def without_renaming_warnings() -> Iterator[None]:
    """Silence what is not the user's to mend: TRL and PEFT use a name that works in every transformers 5 release.

    Example:
        >>> with without_renaming_warnings():
        ...     pass
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
        yield
