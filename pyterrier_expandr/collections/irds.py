"""Registers the pocket collection with ir-datasets, so that `irds:` names work for it without a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ir_datasets
from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, GenericQuery, TrecQrel
from ir_datasets.indices import Docstore

from ..common.jsonl import read_jsonl
from .beir_format import BeirFolder

NAME = "expandr-pocket"
GRADES = {2: "answers the query", 1: "related to the query", 0: "not relevant"}


# No postponed annotations in this module: PyTerrier reads the types of the fields to find those that are text.
class PocketDoc(NamedTuple):
    """A passage."""

    doc_id: str
    text: str
    title: str

    def default_text(self) -> str:
        """`title text`."""
        return f"{self.title} {self.text}"


class PocketDocstore(Docstore):
    """All passages in memory: there are few of them, and this way nothing is written next to the package."""

    def __init__(self, docs: list[PocketDoc]) -> None:
        super().__init__(PocketDoc)
        self._docs = {doc.doc_id: doc for doc in docs}

    def get_many_iter(self, doc_ids: Any) -> Iterator[PocketDoc]:
        """Yield the passages among `doc_ids` that exist."""
        return (self._docs[doc_id] for doc_id in doc_ids if doc_id in self._docs)


class PocketDocs(BaseDocs):
    """The passages of the pocket collection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def docs_iter(self) -> Iterator[PocketDoc]:
        """All passages, in file order."""
        rows = read_jsonl(self._folder / "corpus.jsonl", ("_id", "title", "text"))
        return (PocketDoc(row["_id"], row["text"], row["title"]) for _, row in rows)

    def docs_store(self, field: str = "doc_id") -> PocketDocstore:
        """The passages by id."""
        return PocketDocstore(list(self.docs_iter()))

    def docs_cls(self) -> type[PocketDoc]:
        """The type of the passages."""
        return PocketDoc

    def docs_count(self) -> int:
        """The number of passages."""
        return len(list(self.docs_iter()))

    def docs_namespace(self) -> str:
        """The namespace in which ids are unique."""
        return NAME

    def docs_lang(self) -> str:
        """ISO code of the language."""
        return "en"


class PocketQueries(BaseQueries):
    """The queries of one split."""

    def __init__(self, folder: Path, split: str) -> None:
        self._collection = BeirFolder(folder, split)

    def queries_iter(self) -> Iterator[GenericQuery]:
        """All queries, in file order."""
        topics = self._collection.get_topics()
        return (GenericQuery(qid, query) for qid, query in zip(topics["qid"], topics["query"], strict=True))

    def queries_cls(self) -> type[GenericQuery]:
        """The type of the queries."""
        return GenericQuery

    def queries_namespace(self) -> str:
        """The namespace in which ids are unique."""
        return NAME

    def queries_lang(self) -> str:
        """ISO code of the language."""
        return "en"


class PocketQrels(BaseQrels):
    """The judgments of one split."""

    def __init__(self, folder: Path, split: str) -> None:
        self._collection = BeirFolder(folder, split)

    def qrels_iter(self) -> Iterator[TrecQrel]:
        """All judgments, in file order."""
        qrels = self._collection.get_qrels()
        return (TrecQrel(qid, docno, int(label), "0") for qid, docno, label in qrels.itertuples(index=False))

    def qrels_cls(self) -> type[TrecQrel]:
        """The type of the judgments."""
        return TrecQrel

    def qrels_defs(self) -> dict[int, str]:
        """The meaning of each grade."""
        return GRADES


def register(folder: Path) -> None:
    """Register `expandr-pocket`, `/train` and `/test` with ir-datasets; a second call does nothing."""
    if NAME in ir_datasets.registry:
        return
    docs = PocketDocs(folder)
    ir_datasets.registry.register(NAME, ir_datasets.Dataset(docs))
    for split in ("train", "test"):
        dataset = ir_datasets.Dataset(docs, PocketQueries(folder, split), PocketQrels(folder, split))
        ir_datasets.registry.register(f"{NAME}/{split}", dataset)
