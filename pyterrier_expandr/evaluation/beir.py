"""Experiments following the BEIR protocol: systems on collections, completed cell by cell (METHOD 5)."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pyterrier as pt
from ir_measures import Measure

from ..common.files import path_of
from ..common.locks import InUseError
from .beir_collections import Collection, resolve
from .cells import evaluate, parse_measures, search
from .provenance import describe_pipeline, digest, index_of
from .result_store import ResultStore
from .results import Results

if TYPE_CHECKING:
    from ..retrieval.faiss_index import FaissIndex

logger = logging.getLogger(__name__)

#: seconds after which cells that another process works on are tried again
PAUSE = 0.5

MEASURES = ("nDCG@10", "R@100")


@runtime_checkable
class IndexedSystem(Protocol):
    """A system with the index of one corpus, or that gets one for each collection, like `ExpandR`."""

    @property
    def faiss_index(self) -> FaissIndex | None:
        """Its index, or None if each collection is to get its own."""

    def for_collection(self, collection: Collection, indexes: Path, *, verbose: bool = False) -> IndexedSystem:
        """The same system with an index of the collection in the folder `indexes`."""

    def pipeline(self, num_results: int) -> pt.Transformer:
        """`[qid, query]` -> R."""


#: a function that makes a pipeline for a collection, or an `ExpandR`
System = Callable[[Collection], pt.Transformer] | IndexedSystem

__all__ = ["Collection", "experiment", "resolve"]


def experiment(
    systems: Mapping[str, System] | Iterable[tuple[str, System]],
    collections: str | Collection | Iterable[str | Collection],
    folder: str | Path,
    *,
    measures: Iterable[str | Measure] = MEASURES,
    num_results: int = 1000,
    data: str | Path | None = None,
    split: str = "test",
    indexes: str | Path | None = None,
    versions: Mapping[str, str] | None = None,
    verbose: bool = True,
) -> Results:
    """The results of every system on every collection, stored in `folder`.

    Each cell (one system on one collection) is written when it finishes: its ranking in TREC format, per-query values,
    and what produced it. A repeated call computes only what is missing, failed or changed; additional measures are
    computed from the stored rankings. If a cell fails, that is recorded (`Results.failures`) and the others continue;
    after Ctrl-C or a crash, finished cells are kept.

    Several processes, such as one for each GPU, may share a folder: each cell is computed by one of them. A process
    leaves out the cells and indexes that another one is working on, and waits for them only when nothing else is left,
    so that its results are complete as well. If the other process dies, this one takes over.

    Changes are detected by a fingerprint of the collection's queries, judgments and corpus, and of what
    `describe_pipeline` returns for the pipeline. For parts from other packages that is their class and `repr`: after a
    change that these do not show, set a new word in `versions`.

    Args:
        systems: name -> a function from `Collection` to pipeline (`[qid, query]` -> R), or an `ExpandR`.
            The pipeline should retrieve `collection.num_results` documents. An `ExpandR` without an index gets one for
            each collection, which systems with equal encoders share.
        collections: names and `Collection` objects, see `resolve`.
        folder: where results go; new, or that of an earlier experiment, to which they are added.
        measures: ir-measures measures.
        num_results: number of documents evaluated per query.
        data: a folder of collections in BEIR format; any that are missing come from ir-datasets.
        split: the split of the queries, for collections that are not among the paper's.
        indexes: where indexes of `ExpandR` systems go; defaults to `FOLDER/.indexes`.
        versions: name of a system -> any word; changing the word recomputes all of its cells.
        verbose: show a progress bar.

    Raises:
        ValueError: two systems with the same name, an unknown collection or measure, a folder of another version or
            with other settings. TypeError: a system is neither. FileExistsError: the folder holds other things.
            OSError: it cannot be written.

    Example:
        >>> from pyterrier_expandr.retrieval.sparse import bm25
        >>> systems = {"BM25": lambda c: bm25(c.get_corpus_iter(), f"{c.name}.pisa", num_results=c.num_results)}
        >>> experiment(systems, ["pocket", "SciFact"], "results").means()  # doctest: +SKIP
    """
    named = _named(systems)
    chosen = resolve(collections, data=data, split=split, num_results=num_results)
    wanted = parse_measures(measures)
    names = [collection.name for collection in chosen]
    settings = {"num_results": num_results, "split": split}
    store = ResultStore(folder, list(named), names, [str(measure) for measure in wanted], settings)
    place = path_of(indexes or Path(folder) / ".indexes")
    makers = {name: _maker(system, place, names, verbose) for name, system in named.items()}
    todo, failed = [(name, collection) for collection in chosen for name in named], list[str]()
    bar = {"desc": "Experiment", "unit": "cell", "delay": 1.0}  # finished cells alone draw no bar
    with pt.tqdm(total=len(todo), disable=not verbose, **bar) as progress:
        for name, collection in _those_not_in_use(todo, progress):
            try:
                with store.taken(name, collection.name):
                    _cell(store, name, makers[name], collection, wanted, (versions or {}).get(name))
            except InUseError as error:
                todo.append((name, collection))
                logger.info("later: %s", error)
                continue
            except Exception as error:
                logger.debug("%s on %s", name, collection.name, exc_info=True)
                store.fail(name, collection.name, error)
                failed.append(f"{name} on {collection.name}: {type(error).__name__}: {error}")
            progress.update()
    if failed:
        said = "\n  ".join(failed[:5])
        warnings.warn(f"{len(failed)} of {progress.total} cells failed (see .failures):\n  {said}", stacklevel=2)
    return Results.load(folder, systems=list(named), collections=names)


def _those_not_in_use(todo: list[tuple[str, Collection]], progress: pt.tqdm) -> Iterator[tuple[str, Collection]]:
    """The cells of `todo`, to whose end the caller puts back those in use; a pause after a round that finished none."""
    while todo:
        done = progress.n
        for _ in range(len(todo)):
            name, collection = todo.pop(0)
            progress.set_postfix_str(f"{name} on {collection.name}")
            yield name, collection
        if progress.n == done:
            progress.set_postfix_str("waiting for cells of other processes")
            time.sleep(PAUSE)


def _named(systems: Mapping[str, System] | Iterable[tuple[str, System]]) -> dict[str, System]:
    """The systems by name. Raises ValueError if there are none or a name is duplicated, TypeError for other objects."""
    pairs = list(systems.items() if isinstance(systems, Mapping) else systems)
    names = [name for name, _ in pairs]
    if not pairs:
        raise ValueError("name at least one system")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two systems are named {repeated[0]!r}: give each its own name")
    for name, system in pairs:
        if isinstance(system, pt.Transformer):
            raise TypeError(
                f"system {name!r} is a pipeline, which can search only one collection: pass a function of the "
                "collection, such as lambda collection: pipeline"
            )
        if not callable(system) and not isinstance(system, IndexedSystem):
            raise TypeError(f"system {name!r} must be a function of a collection or an ExpandR, got {system!r:.80}")
    return dict(pairs)


def _maker(
    system: System, indexes: Path, collections: list[str], verbose: bool
) -> Callable[[Collection], pt.Transformer]:
    """A function that makes a system's pipeline for a collection."""
    if not isinstance(system, IndexedSystem):
        return system
    if system.faiss_index is None:
        return lambda collection: system.for_collection(collection, indexes, verbose=verbose).pipeline(
            collection.num_results
        )
    if len(collections) > 1:
        raise ValueError(
            f"{system!r} has the index of one corpus, but there are {len(collections)} collections: leave out its "
            "index, and every collection gets one"
        )
    return lambda collection: _own_index(system, collection)


def _own_index(system: IndexedSystem, collection: Collection) -> pt.Transformer:
    """The pipeline of a system with its own index. Raises ValueError if it is of another corpus."""
    index = system.faiss_index
    assert index is not None
    if not collection.qrels["docno"].isin(index.docnos.to_pylist()).any():
        raise ValueError(
            f"the index {str(index.path)!r} contains none of the judged documents of {collection.name}: it was built "
            "from another corpus; pass a system without an index, and every collection gets one"
        )
    return system.pipeline(collection.num_results)


def _cell(
    store: ResultStore,
    name: str,
    make: Callable[[Collection], pt.Transformer],
    collection: Collection,
    measures: list[Measure],
    version: str | None,
) -> None:
    """Compute one cell, or the missing parts of it."""
    _ = collection.topics  # fails now, before hours of indexing, if it cannot be evaluated
    pipeline = make(collection)
    record = store.finished(name, collection.name, _fingerprint(pipeline, collection, version))
    if record is not None:
        known = parse_measures(record["means"])
        if set(measures) <= set(known):
            return
        run, seconds = store.read_run(name, collection.name), record["seconds"]
        measures = list(dict.fromkeys([*known, *measures]))
    else:
        start = time.perf_counter()
        run = search(pipeline, collection)
        seconds = time.perf_counter() - start
        store.save_run(name, collection.name, run)
    per_query, means = evaluate(run, collection.qrels, measures)
    found = {
        # Again: a model downloaded for the first search is identified by its commit only now.
        "fingerprint": _fingerprint(pipeline, collection, version),
        "means": means,
        "n_queries": int(collection.qrels["qid"].nunique()),
        "queries_without_results": len(set(collection.qrels["qid"]) - set(run["qid"])),
        "seconds": seconds,
        "pipeline": describe_pipeline(pipeline),
        "collection_place": collection.place,
        "index": index_of(pipeline),
    }
    store.commit(name, collection.name, per_query, found)


def _fingerprint(pipeline: pt.Transformer, collection: Collection, version: str | None) -> str:
    return digest([describe_pipeline(pipeline), collection.fingerprint, version])
