"""A collection by the name that a user gives, and its queries whatever their column is called."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyterrier as pt


def open_collection(name: str, split: str = "test") -> Any:
    """The PyTerrier dataset that a name means: "pocket", "irds:NAME", or a folder in BEIR format.

    Raises:
        ValueError: ir-datasets knows no such name, or the folder has no such split. FileNotFoundError: it is no such
            folder.

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
    """`[qid, query]` of a collection; ir-datasets with several query fields give their `text`, `query` or `title`.

    `text` goes first: it is the query wherever a collection of ir-datasets has such a field, also in BEIR's TREC-COVID,
    whose field `query` holds keywords that BEIR does not use.

    Raises:
        ValueError: there is none of these fields.
    """
    topics = collection.get_topics()
    for field in ("text", "query", "title"):
        if field in topics:
            return pd.DataFrame({"qid": topics["qid"].astype(str), "query": topics[field]})
    raise ValueError(f"the collection's topics have no query, text or title column, only {list(topics.columns)}")
