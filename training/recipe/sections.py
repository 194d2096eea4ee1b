"""A section of a recipe becomes the settings that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def section(
    kind: Any, name: str, values: Any, places: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Any:
    """A dataclass filled from `values`; `places` always override them, and `defaults` fill the gaps.

    Raises:
        ValueError: unknown fields (the known ones are listed), values that the recipe sets itself, or invalid ones; the
            section is named.
    """
    known = {item.name for item in fields(kind)} - places.keys()
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be a mapping of names to values, got {values!r}")
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{name}: unknown fields {unknown}, the fields are {sorted(known)}")
    try:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return kind(**{**(defaults or {}), **given, **places})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
