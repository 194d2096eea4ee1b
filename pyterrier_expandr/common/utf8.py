"""Text files in UTF-8: an error names the file, the line and what was found there."""

from __future__ import annotations

from pathlib import Path

#: how files in other encodings begin
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_utf8(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ValueError: it is not UTF-8; the message has the form "FILE:LINE is not UTF-8: ...". OSError: it cannot be read.
    """
    return decoded(path.read_bytes(), str(path))


def decoded(data: bytes, source: str, line: int = 1) -> str:
    """The text of `data`, which begins at `line` of `source`. Raises ValueError as `read_utf8`.

    Example:
        >>> decoded(b"sky", "queries.tsv")
        'sky'
    """
    if line == 1 and (mark := MARKS.get(data[:2])):
        raise ValueError(f"{source}:1 is not UTF-8: it begins as {mark} does; save the file as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].rpartition(b"\n")[2][-20:].decode("utf-8", "replace")
        number = line + data[: error.start].count(b"\n")
        raise ValueError(
            f"{source}:{number} is not UTF-8: it has the byte 0x{data[error.start]:02x} after {before!r}; "
            "save the file as UTF-8"
        ) from error
    return text.removeprefix("\ufeff") if line == 1 else text
