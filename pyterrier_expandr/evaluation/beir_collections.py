"""The collections that an experiment runs on: the paper's 15 by name, and any other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..collections import BeirFolder
from ..collections.opening import open_collection, topics_of
from ..collections.qrels import distinct
from ..common.files import path_of, with_home
from ..common.fingerprint import digest, file_fingerprint, stable_repr
from .averages import AVERAGES, COLLECTIONS, FORUMS

logger = logging.getLogger(__name__)

#: name -> (folder in BEIR's own distribution, ir-datasets id, split)
SOURCES = {
    "MS MARCO": ("msmarco", "beir/msmarco/dev", "dev"),
    "TREC-COVID": ("trec-covid", "beir/trec-covid", "test"),
    "NFCorpus": ("nfcorpus", "beir/nfcorpus/test", "test"),
    "NQ": ("nq", "beir/nq", "test"),
    "HotpotQA": ("hotpotqa", "beir/hotpotqa/test", "test"),
    "FiQA": ("fiqa", "beir/fiqa/test", "test"),
    "ArguAna": ("arguana", "beir/arguana", "test"),
    "Touche-2020": ("webis-touche2020", "beir/webis-touche2020/v2", "test"),
    **{forum: (forum.lower(), f"beir/{forum.lower()}", "test") for forum in FORUMS},
    "Quora": ("quora", "beir/quora/test", "test"),
    "DBPedia": ("dbpedia-entity", "beir/dbpedia-entity/test", "test"),
    "SCIDOCS": ("scidocs", "beir/scidocs", "test"),
    "FEVER": ("fever", "beir/fever/test", "test"),
    "Climate-FEVER": ("climate-fever", "beir/climate-fever", "test"),
    "SciFact": ("scifact", "beir/scifact/test", "test"),
}

#: names for several collections at once
GROUPS = {"BEIR14": AVERAGES["Avg.BEIR14"], "All": AVERAGES["Avg.All"], "CQADupStack": FORUMS}


class Collection:
    """A test collection for an experiment: judged queries, judgments and corpus. Data is opened on first use.

    Args:
        name: its name in tables.
        source: a PyTerrier dataset, or a function that returns one.
        self_matches: whether a document with the query's id is the query itself, to be dropped (BEIR's ArguAna and
            Quora). False if ids of queries and documents are unrelated, as in Vaswani.
        num_results: number of documents evaluated per query.

    Example:
        >>> from pyterrier_expandr.collections import pocket
        >>> collection = Collection("pocket", pocket())
        >>> len(collection.topics), sorted(collection.qrels.columns)
        (37, ['docno', 'label', 'qid'])
    """

    def __init__(
        self,
        name: str,
        source: Any | Callable[[], Any],
        *,
        self_matches: bool = False,
        num_results: int = 1000,
        folder_name: str | None = None,
        place: tuple[str, str] | None = None,
    ) -> None:
        self.name, self.self_matches = name, self_matches
        self.evaluated_results = num_results
        self.folder_name = folder_name or name
        #: the name and the split under which `open_collection` finds it; None for a dataset that was given as an object
        self.place = place
        self._source = source

    @cached_property
    def dataset(self) -> Any:
        """The PyTerrier dataset."""
        return self._source() if callable(self._source) else self._source

    @property
    def num_results(self) -> int:
        """How many documents to retrieve: one more than are evaluated if the query itself may be among them."""
        return self.evaluated_results + self.self_matches

    def get_corpus_iter(self, verbose: bool = False) -> Iterator[dict[str, Any]]:
        """Yield `{"docno", "title", "text"}` of each document. Raises OSError as for `qrels`."""
        count = 0
        with self._reading():
            for count, doc in enumerate(self.dataset.get_corpus_iter(verbose=verbose), 1):  # noqa: B007
                yield doc
        self._warn_of_cut("documents", "docs", count)

    @cached_property
    def qrels(self) -> pd.DataFrame:
        """`[qid, docno, label]`.

        Raises:
            ValueError: nothing is judged relevant, or judgments of a pair conflict. OSError: the data is neither here
                nor can it be downloaded.
        """
        with self._reading():
            qrels = self.dataset.get_qrels()[["qid", "docno", "label"]]
        qrels = qrels.astype({"qid": str, "docno": str, "label": int})
        if qrels.duplicated(["qid", "docno"]).any():
            rows = zip(qrels["qid"], qrels["docno"], qrels["label"].tolist(), strict=True)
            placed = ((f"row {number} of the qrels of {self.name}", row) for number, row in enumerate(rows, 1))
            qrels = pd.DataFrame(distinct(placed, self.name), columns=["qid", "docno", "label"])
        self._warn_of_cut("judgments", "qrels", len(qrels))
        if not (qrels["label"] > 0).any():
            raise ValueError(f"{self.name}: no document is judged relevant, so nothing can be evaluated")
        return qrels

    @cached_property
    def topics(self) -> pd.DataFrame:
        """`[qid, query]` of the judged queries: unjudged queries need not be searched.

        Raises:
            ValueError: no query is judged, or one occurs twice. OSError: as for `qrels`.
        """
        judged = set(self.qrels["qid"])
        with self._reading():
            topics = topics_of(self.dataset)
        topics = topics[topics["qid"].isin(judged)].reset_index(drop=True)
        if topics.empty:
            raise ValueError(f"{self.name}: queries and judgments have no query id in common")
        if topics["qid"].duplicated().any():
            repeated = topics.loc[topics["qid"].duplicated(), "qid"].tolist()
            raise ValueError(f"{self.name}: query ids are repeated: {repeated[:5]}")
        if without := sorted(judged - set(topics["qid"])):
            logger.warning("%s: %d judged queries have no text and score 0: %s", self.name, len(without), without[:5])
        return topics

    @cached_property
    def corpus_fingerprint(self) -> str:
        """The identity of the corpus: a hash of its file, or the name under which ir-datasets provides it."""
        if isinstance(self.dataset, BeirFolder):
            return file_fingerprint(self.dataset.path / "corpus.jsonl")
        return stable_repr(self.dataset)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over queries, judgments, the corpus's fingerprint, and how results are cut."""
        frames = [self.topics.to_csv(index=False), self.qrels.to_csv(index=False)]
        return digest([*frames, self.corpus_fingerprint, self.self_matches, self.evaluated_results])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn a failed download into one error that says what to do."""
        try:
            yield
        except ConnectionError as error:  # Python's own
            raise self._missing(error) from error
        except OSError as error:
            if type(error).__module__.partition(".")[0] not in ("requests", "urllib3"):
                raise
            raise self._missing(error) from error

    def _warn_of_cut(self, what: str, part: str, count: int) -> None:
        """Log it if a folder has fewer documents or judgments than the published collection of this name."""
        known = published_count(self.name, part) if isinstance(self.dataset, BeirFolder) else None
        if known is not None and count < known:
            logger.warning(
                "%s has %d of %d %s in %r: the file is cut, or of another version", self.name, count, known, what,
                str(self.dataset.path),
            )  # fmt: skip

    def _missing(self, error: OSError) -> OSError:
        return OSError(
            f"{self.name} is not on this machine and cannot be downloaded: give a folder with data=FOLDER (--data) "
            f"that contains it in BEIR format as {self.folder_name}/ (corpus.jsonl, queries.jsonl, qrels/), or run "
            f"once with network access, so that ir-datasets downloads it; {type(error).__name__}: {error!s:.200}"
        )

    def __repr__(self) -> str:
        return f"Collection({self.name!r})"


def published_count(name: str, part: str) -> int | None:
    """The number of documents ("docs") or judgments ("qrels") of one of the paper's collections; None for any other.

    Example:
        >>> published_count("SciFact", "docs"), published_count("SciFact", "qrels"), published_count("pocket", "docs")
        (5183, 339, None)
    """
    if name not in SOURCES:
        return None
    import ir_datasets

    return int(ir_datasets.load(SOURCES[name][1]).metadata()[part]["count"])


def resolve(
    collections: str | Collection | Iterable[str | Collection],
    *,
    data: str | Path | None = None,
    split: str = "test",
    num_results: int = 1000,
) -> list[Collection]:
    """The collections with these names, without duplicates; the sub-forums of CQADupStack are separate collections.

    Args:
        collections: `Collection` objects; names from the paper ("SciFact") or BEIR's folders ("scifact"), in any case;
            "CQADupStack" for its 12 sub-forums, "BEIR14", "All"; the name of a folder in `data`; "pocket"; "irds:NAME";
            a folder in BEIR format.
        data: a folder of folders in BEIR format. Any that are missing come from ir-datasets.
        split: the split of the queries, for collections other than the 15.
        num_results: number of documents evaluated per query.

    Raises:
        ValueError: no collection, an unknown name, or two collections with the same name.

    Example:
        >>> [c.name for c in resolve(["scifact", "CQADupStack"])][:2]
        ['SciFact', 'CQADupStack/android']
    """
    given = [collections] if isinstance(collections, (str, Collection)) else list(collections)
    single: list[str | Collection] = []
    for item in given:
        single += [item] if isinstance(item, Collection) else _members(item)
    found = [
        item if isinstance(item, Collection) else _named(item, data, split, num_results)
        for item in dict.fromkeys(single)
    ]
    names = [collection.name for collection in found]
    if not names:
        raise ValueError("name at least one collection")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two collections are named {repeated[0]!r}: give each its own name")
    return found


def _members(name: str) -> list[str]:
    """The single collections that a name from the paper or a group stands for; any other name unchanged."""
    for group, members in GROUPS.items():
        if name.lower() == group.lower():
            return [single for member in members for single in _members(member)]
    for known, (folder, _, _) in SOURCES.items():
        if name.lower() in (known.lower(), folder):
            return [known]
    return [name]


def _named(name: str, data: str | Path | None, split: str, num_results: int) -> Collection:
    data, name = None if data is None else path_of(data), with_home(name)
    if name in SOURCES:
        folder, irds, split = SOURCES[name]
        here = data is not None and (Path(data) / folder).is_dir()
        where = str(Path(data or "") / folder) if here else f"irds:{irds}"
        self_matches = True  # as BEIR's own evaluation does for all of its collections
    else:
        folder, self_matches = name, False
        where = str(Path(data) / name) if data is not None and (Path(data) / name).is_dir() else name
        if where == name and not name.startswith("irds:") and name != "pocket" and not Path(name).is_dir():
            raise ValueError(
                f"unknown collection {name!r}: use one of {', '.join(COLLECTIONS)}, pocket, irds:NAME, or a folder in "
                f"BEIR format{'' if data is None else f' (and {str(data)!r} has no folder of this name)'}"
            )
    return Collection(
        name,
        lambda: open_collection(where, split),
        self_matches=self_matches,
        num_results=num_results,
        folder_name=folder,
        place=(str(Path(where).resolve()) if Path(where).is_dir() else where, split),
    )
