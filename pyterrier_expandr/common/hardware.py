"""What the hardware has arithmetic for: bfloat16, and 8-bit integers."""

from __future__ import annotations

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

#: where Linux lists what a processor can do, and the names there of arithmetic with bfloat16 and with integers
PROCESSOR = Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
INTEGERS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def has_bfloat16(device: str) -> bool:
    """Whether a device has arithmetic in bfloat16: NVIDIA GPUs since Ampere; CPUs by what Linux says of them."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return kind == "cpu" and not processor_features().isdisjoint(BFLOAT16)


def has_integers() -> bool:
    """Whether this CPU has arithmetic for sums of products of 8-bit integers (VNNI, AMX, or Arm's), as Linux says."""
    return not processor_features().isdisjoint(INTEGERS)


def processor_features() -> set[str]:
    """What Linux says that the processor can do, in its words; nothing on other systems."""
    return set(_told("flags|Features").split())


def processor_vendor() -> str:
    """Who made the processor, as Linux says: "GenuineIntel", "AuthenticAMD"; "" on other systems, and for Arm's.

    Example:
        >>> processor_vendor() in ("GenuineIntel", "AuthenticAMD", "")
        True
    """
    return _told("vendor_id").strip()


def _told(names: str) -> str:
    """What Linux says first under one of these names (a pattern); "" if nothing."""
    text = PROCESSOR.read_text(encoding="utf-8") if PROCESSOR.is_file() else ""
    return next(iter(re.findall(rf"^(?:{names})\s*:(.*)$", text, re.M)), "")


def warn_of_slow_dtype(dtype: str, device: str) -> None:
    """Log a warning if a language model would compute in bfloat16 on a CPU that has no arithmetic for it.

    torch then imitates it, number by number: a product of matrices took 50 times as long as in float32.

    Example:
        >>> warn_of_slow_dtype("float32", "cpu")
    """
    if dtype == "bfloat16" and device == "cpu" and PROCESSOR.is_file() and not has_bfloat16(device):
        logger.warning("this CPU has no arithmetic in bfloat16, so float32 is many times as fast: leave out dtype")


def warn_of_slow_integers() -> None:
    """Log a warning if a model in int8 would be computed on a CPU that has no arithmetic for it."""
    if PROCESSOR.is_file() and not has_integers():
        logger.warning("this CPU has no arithmetic in 8-bit integers (VNNI), so a model in int8 is no faster here")
