"""Checks of numbers in settings, whether they come from code, the command line or YAML."""

from __future__ import annotations

import math
from typing import Any


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
) -> None:
    """Raise TypeError if `value` is not a number, ValueError if it is not finite or out of range.

    Example:
        >>> check_number("epochs", 3, above=0)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} (YAML reads 1e-5 as text: write 1.0e-5)")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if (above is not None and not value > above) or (least is not None and not value >= least):
        raise ValueError(f"{name} must be {f'above {above}' if above is not None else f'{least} or more'}, got {value}")
    if below is not None and not value < below:
        raise ValueError(f"{name} must be below {below}, got {value}")


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """Raise TypeError if `value` is not a whole number, ValueError if it is less than `least`.

    Example:
        >>> check_whole("batch_size", 16)
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}")


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError if `value` is neither True nor False.

    Example:
        >>> check_flag("bf16", True)
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r}")
