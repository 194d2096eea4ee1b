"""Opens a collection by name, and reads its queries whatever their column is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..common.files import with_home


def is_collection(name: str) -> bool:
    """Whether a name means a collection with documents, which `open_collection` opens, rather than rows of JSONL.

    Example:
        >>> is_collection("irds:beir/scifact/test"), is_collection("rows.jsonl")
        (True, False)
    """
    return name == "pocket" or name.startswith("irds:") or (Path(with_home(name)) / "corpus.jsonl").is_file()


def open_collection(name: str, split: str = "test") -> Any:
    """The PyTerrier dataset that a name refers to: "pocket", "irds:NAME", or a folder in BEIR format.

    Raises:
        ValueError: ir-datasets does not know the name, or the folder has no such split. FileNotFoundError: the folder
            does not exist.

    Example:
        >>> open_collection("pocket")
        pocket('test')
    """
    from . import beir_folder, pocket

    if name == "pocket":
        return pocket(split)
    if name.startswith("irds:"):
        try:
            return pt.get_dataset(name)
        except KeyError as error:
            raise ValueError(
                f"ir-datasets has no dataset {name.removeprefix('irds:')!r}; its catalogue is at ir-datasets.com"
            ) from error
    return beir_folder(name, split)


def topics_of(collection: Any) -> pd.DataFrame:
    """`[qid, query]` of a collection; if ir-datasets has several query fields, `text`, `query` or `title` is used.

    `text` comes first: it is the query in every collection of ir-datasets that has such a field, including BEIR's
    TREC-COVID, whose field `query` holds keywords that BEIR does not use.

    Raises:
        ValueError: the collection has none of these fields.
    """
    topics = collection.get_topics()
    for field in ("text", "query", "title"):
        if field in topics:
            return pd.DataFrame({"qid": topics["qid"].astype(str), "query": topics[field]})
    raise ValueError(f"the collection's topics have no query, text or title column, only {list(topics.columns)}")
