"""The collections of an experiment, opened again for the texts of queries and documents, and for the judgments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from ...collections.opening import open_collection
from ...common.frames import is_missing, mended
from ...evaluation.beir_collections import Collection, resolve
from ...evaluation.results import Results

#: (title, text) of a document
Text = tuple[str, str]


class Source:
    """Queries, judgments and documents of one collection.

    Args:
        collection: the collection as experiments use it.

    Raises:
        ValueError, OSError: it cannot be read.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.queries = {qid: mended(str(query)) for qid, query in collection.topics.itertuples(index=False, name=None)}

    @cached_property
    def labels(self) -> dict[str, dict[str, int]]:
        """The grades of the judged documents, by qid and docno."""
        labels: dict[str, dict[str, int]] = {}
        for qid, docno, label in self.collection.qrels.itertuples(index=False, name=None):
            labels.setdefault(qid, {})[docno] = int(label)
        return labels

    def texts(self, docnos: Iterable[str], *, verbose: bool = False) -> dict[str, Text]:
        """Title and text of these documents, from one pass over the corpus; those that it lacks are left out."""
        wanted, found = set(docnos), {}
        for document in self.collection.get_corpus_iter(verbose=verbose) if wanted else ():
            docno = str(document["docno"])
            if docno in wanted:
                title, text = (document.get(name) for name in ("title", "text"))
                found[docno] = ("" if is_missing(title) else mended(str(title)), mended(str(text or "")))
                if len(found) == len(wanted):
                    break
        return found


def open_sources(
    results: Results, names: Iterable[str], *, data: str | Path | None = None
) -> tuple[dict[str, Source], list[str]]:
    """The collections with these names that can be opened, and a note on each that cannot.

    A collection is looked for in `data`; without it, where the experiment found it; at last by its name.
    """
    sources, notes = {}, []
    for name in names:
        try:
            sources[name] = Source(_opened(results, name, data))
        except (ValueError, OSError, LookupError) as error:
            reason = str(error) or type(error).__name__
            notes.append(f"No queries, judgments and documents of {name} are shown (--data says where it is): {reason}")
    return sources, notes


def _opened(results: Results, name: str, data: str | Path | None) -> Collection:
    place = None if data is not None else place_of(results, name)
    if place is not None:
        where, split = place
        return Collection(name, lambda: open_collection(where, split), place=(where, split))
    (collection,) = resolve(name, data=data, split=results.settings.get("split", "test"))
    return collection


def place_of(results: Results, name: str) -> tuple[str, str] | None:
    """Where the experiment found a collection, as (name, split) for `open_collection`, or None if that is not known."""
    records: Iterable[Mapping] = (
        results.record(system, name)
        for system, collection, state in results.cells[["system", "collection", "state"]].itertuples(index=False)
        if collection == name and state == "done"
    )
    place = next((record["collection_place"] for record in records if record.get("collection_place")), None)
    return None if place is None else (place[0], place[1])
