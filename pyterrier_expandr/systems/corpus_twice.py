"""A corpus that is read once and indexed twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Documents = Iterable[dict[str, Any]]

#: the fields of a document that are indexed
FIELDS = ("docno", "title", "text")


@contextmanager
def read_once(corpus: Documents, folder: Path) -> Iterator[tuple[Documents, Callable[[], Documents]]]:
    """The corpus, and a function that returns again what was read from it.

    What is read is kept in an unnamed file in `folder`, so that nothing is left behind, even after `kill -9`.

    Example:
        >>> with read_once(iter([{"docno": "a", "text": "b"}]), Path(".")) as (first, again):
        ...     list(first) == list(again())
        True
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder) as file:

        def reading() -> Documents:
            for document in corpus:
                yield document  # first, so that the reader can report what is wrong with it
                file.write(json.dumps({name: document[name] for name in FIELDS if name in document}) + "\n")

        def again() -> Documents:
            file.seek(0)
            return map(json.loads, file)

        yield reading(), again
