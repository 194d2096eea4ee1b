"""Which hardware computes in bfloat16."""

from __future__ import annotations

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

#: where Linux lists what a processor can do, and the names there of arithmetic with bfloat16
PROCESSOR = Path("/proc/cpuinfo")
FLAGS = re.compile(r"^(?:flags|Features)\s*:.*\b(avx512_bf16|amx_bf16|bf16)\b", re.M)


def has_bfloat16(device: str) -> bool:
    """Whether a device has arithmetic in bfloat16: NVIDIA GPUs since Ampere; CPUs by what Linux says of them."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return kind == "cpu" and PROCESSOR.is_file() and FLAGS.search(PROCESSOR.read_text(encoding="utf-8")) is not None


def warn_of_slow_dtype(dtype: str, device: str) -> None:
    """Log a warning if a language model would compute in bfloat16 on a CPU that has no arithmetic for it.

    torch then imitates it, number by number: a product of matrices took 50 times as long as in float32.

    Example:
        >>> warn_of_slow_dtype("float32", "cpu")
    """
    if dtype == "bfloat16" and device == "cpu" and PROCESSOR.is_file() and not has_bfloat16(device):
        logger.warning("this CPU has no arithmetic in bfloat16, so float32 is many times as fast: leave out dtype")
