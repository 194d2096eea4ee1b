"""Which queries a page shows, with their scores: all of them, or those whose scores differ most between systems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...evaluation.results import Results
from .sources import Source

#: a collection and a query id in it
Key = tuple[str, str]


@dataclass(frozen=True)
class Questions:
    """The queries of a page.

    Attributes:
        keys: (collection, qid) of each query shown, in the order of the experiment.
        texts: of each, "" where it is not known.
        scores: (measures, systems, queries), NaN where a system has no score.
        spread: by how much the first measure differs between the systems, of each query.
        total: how many queries the experiment has.
    """

    keys: list[Key]
    texts: list[str]
    scores: np.ndarray
    spread: np.ndarray
    total: int


def choose_questions(
    results: Results, measures: list[str], sources: dict[str, Source], *, limit: int, only: Iterable[Key] | None = None
) -> Questions:
    """At most `limit` queries of an experiment, those whose first measure differs most between the systems.

    Args:
        results: the experiment.
        measures: names; the first decides.
        sources: the collections that could be opened, for the texts.
        limit: how many queries.
        only: choose from these.

    Raises:
        ValueError: the experiment has no query with a score.
    """
    values = results.per_query
    values = values[values["measure"].isin(measures)]
    if only is not None:
        wanted = set(only)
        values = values[[key in wanted for key in zip(values["collection"], values["qid"], strict=True)]]
    if values.empty:
        raise ValueError(f"no query has a score in {str(results.folder)!r}, so there is nothing to show")
    table = values.pivot_table(index=["collection", "qid"], columns=["measure", "system"], values="value", sort=False)
    wide = table.reindex(columns=pd.MultiIndex.from_product([measures, results.systems]))
    scores = wide.to_numpy(float).T.reshape(len(measures), len(results.systems), len(wide))
    spread = np.nan_to_num(np.fmax.reduce(scores[0]) - np.fmin.reduce(scores[0]))
    known = [(str(name), str(qid)) for name, qid in wide.index]
    order = _order(known, sources)
    chosen = sorted(np.argsort(-spread, kind="stable")[:limit].tolist(), key=lambda place: order[place])
    keys = [known[place] for place in chosen]
    texts = [sources[name].queries.get(qid, "") if name in sources else "" for name, qid in keys]
    return Questions(keys, texts, scores[:, :, chosen], spread[chosen], len(wide))


def _order(keys: list[Key], sources: dict[str, Source]) -> list[tuple[int, int]]:
    """The place of each query: collections as they come, and in each the order of its own queries, if that is known."""
    collections = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in keys))}
    own = {(name, qid): at for name, source in sources.items() for at, qid in enumerate(source.queries)}
    return [(collections[key[0]], own.get(key, number)) for number, key in enumerate(keys)]
