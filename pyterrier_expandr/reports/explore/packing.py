"""JSON values as text that is safe inside an HTML page and small: gzip, then base64; the browser decodes it."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

#: bytes of a page for each compressed byte
BASE64 = 4 / 3


def packed(value: Any) -> str:
    """A JSON value as base64 of its gzipped text.

    Example:
        >>> json.loads(gzip.decompress(base64.b64decode(packed({"query": "</script>"}))))
        {'query': '</script>'}
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode("ascii")


def blocks_of(values: list[Any], size: int) -> list[str]:
    """The values in packed lists of `size`, so that the browser decodes only what is looked at."""
    return [packed(values[start : start + size]) for start in range(0, len(values), size)]
