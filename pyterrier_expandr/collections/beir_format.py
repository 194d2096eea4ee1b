"""A folder in BEIR format as a PyTerrier dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..common.files import path_of
from ..common.frames import without_surrogates
from ..common.jsonl import read_jsonl
from .qrels import read_qrels


class BeirFolder(pt.datasets.Dataset):
    """One split of a folder in BEIR format; the corpus is streamed.

    Args:
        path: a folder with corpus.jsonl (`_id`, `title`, `text`), queries.jsonl (`_id`, `text`) and qrels/SPLIT.tsv
            (query-id, corpus-id, score; or TREC's four columns).
        split: which qrels to use; only queries judged in them are topics.

    Raises:
        FileNotFoundError: the folder or one of its files is missing. ValueError: the split does not exist.
    """

    def __init__(self, path: str | Path, split: str = "test") -> None:
        self.path, self.split = path_of(path), split
        for name in ("corpus.jsonl", "queries.jsonl", "qrels"):
            if not (self.path / name).exists():
                raise FileNotFoundError(f"{str(self.path)!r} is not a folder in BEIR format: it has no {name}")
        if not self._qrels_file.is_file():
            splits = sorted(file.stem for file in (self.path / "qrels").glob("*.tsv"))
            raise ValueError(f"{str(self.path)!r} has no split {split!r}: choose one of {splits}")

    @property
    def _qrels_file(self) -> Path:
        return self.path / "qrels" / f"{self.split}.tsv"

    def get_corpus_iter(self, verbose: bool = False) -> Iterator[dict[str, Any]]:
        """Yield `{"docno", "title", "text"}` for each document, in file order."""
        corpus = self.path / "corpus.jsonl"
        rows, total = read_jsonl(corpus, ("_id", "text")), None
        if verbose:  # counted first, so that the time left is shown
            with open(corpus, "rb") as file:
                total = sum(1 for _ in file)
        for _, row in pt.tqdm(rows, desc=self.path.name, unit="doc", total=total, disable=not verbose):
            yield {"docno": str(row["_id"]), "title": row.get("title") or "", "text": row["text"]}

    def get_queries(self, skipped: Counter[str] | None = None) -> Iterator[tuple[str, str]]:
        """Yield (qid, text) of all queries, judged or not, in file order; `skipped` as in `read_jsonl`."""
        for _, row in read_jsonl(self.path / "queries.jsonl", ("_id", "text"), skipped=skipped):
            text = row["text"]
            yield str(row["_id"]), without_surrogates(text) if isinstance(text, str) else text

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """`[qid, query]` of the queries that are judged in this split, in file order.

        Raises:
            ValueError: the qrels contain a query that is missing in queries.jsonl.
        """
        judged = set(self.get_qrels()["qid"])
        topics = pd.DataFrame([row for row in self.get_queries() if row[0] in judged], columns=["qid", "query"])
        if unknown := sorted(judged - set(topics["qid"])):
            raise ValueError(f"{self._qrels_file} judges queries that are not in queries.jsonl: {unknown[:5]}")
        return topics

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """`[qid, docno, label]` with int labels. Raises ValueError under the same conditions as `read_qrels`."""
        return read_qrels(self._qrels_file)

    def __repr__(self) -> str:
        return f"beir_folder({str(self.path)!r}, {self.split!r})"
