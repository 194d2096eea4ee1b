"""Checks of numbers in settings, which come from code, the command line and YAML alike."""

from __future__ import annotations

from typing import Any


def check_number(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> None:
    """Raise TypeError where `value` is no number, ValueError where it is out of range.

    Example:
        >>> check_number("epochs", 3, above=0)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} (YAML reads 1e-5 as text: write 1.0e-5)")
    if (above is not None and not value > above) or (least is not None and not value >= least):
        raise ValueError(f"{name} must be {f'above {above}' if above is not None else f'{least} or more'}, got {value}")
