"""Scores many settings of a system on a set of queries, encoding each text and searching each query only once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import Measure

from ..evaluation.cells import evaluate
from ..expansion.lexical import LexicalExpander, Repeats
from ..retrieval.list_fusion import NORMALISERS, Method, best_of_each
from ..retrieval.two_lists import COLUMNS, run_starts, side_by_side
from .expandr import ExpandR
from .settings import with_n

#: depth of the evaluated ranking for measures without a cutoff
DEPTH = 1000


class Setting(NamedTuple):
    """Tunable parameters of a system; `repeats` and `weight` are None without a lexical index."""

    n: int
    fusion: float
    repeats: Repeats | None = None
    weight: float | None = None


class Lists:
    """Searches once per distinct query with one retriever, and stores the results as numbers.

    Args:
        retriever: `[qid, ...]` -> R.
        places: each docno's position in docno order, so that ties are ordered as in a hybrid.
    """

    def __init__(self, retriever: pt.Transformer, places: pd.Index) -> None:
        self._retriever, self._places = retriever, places
        self._known: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}
        self.searched = 0

    def __call__(self, frame: pd.DataFrame, keys: Sequence[Hashable]) -> pd.DataFrame:
        """`[qid (row number), docno (position), score]` for `frame`'s rows; equal `keys` get equal results."""
        fresh = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._known}
        if fresh:
            self._search(frame.iloc[list(fresh.values())], list(fresh))
        found = [self._known[key] for key in keys]
        return pd.DataFrame(
            {
                "qid": np.repeat(np.arange(len(keys)), [len(codes) for codes, _ in found]),
                "docno": np.concatenate([codes for codes, _ in found]),
                "score": np.concatenate([scores for _, scores in found]),
            }
        )

    def _search(self, frame: pd.DataFrame, keys: list[Hashable]) -> None:
        numbers = [str(number) for number in range(len(keys))]
        found = self._retriever.transform(frame.assign(qid=numbers).reset_index(drop=True))
        self.searched += len(keys)
        codes = self._places.get_indexer(pd.Index(found["docno"])).astype(np.int32)
        scores = found["score"].to_numpy(np.float64)
        rows = found["qid"].astype(int).to_numpy()
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], np.arange(len(keys) + 1))
        for number, key in enumerate(keys):
            mine = order[ends[number] : ends[number + 1]]
            self._known[key] = (codes[mine], scores[mine])


class Trials:
    """Scores settings of a system on training queries.

    Args:
        system: a system with its index, plus a lexical one if it is a hybrid.
        topics: `[qid, query]`.
        qrels: `[qid, docno, label]`.
        measure: an ir-measures measure.
    """

    def __init__(self, system: ExpandR, topics: pd.DataFrame, qrels: pd.DataFrame, measure: Measure) -> None:
        self.topics = topics.reset_index(drop=True)
        self.system, self.measure = system, measure
        self.qrels = qrels[qrels["qid"].isin(self.topics["qid"])]
        self._cutoff = int(measure.params.get("cutoff", DEPTH))
        index = system.faiss_index
        assert index is not None
        self.docnos = np.array(sorted(index.docnos.to_pylist()), dtype=object)
        places = pd.Index(self.docnos)
        depth = system.hybrid.depth if system.hybrid is not None else self._cutoff
        self.dense = Lists(index.retriever(num_results=depth, drop_query_vec=True), places)
        lexical = system.lexical_index
        self.lexical = None if lexical is None else Lists(lexical.retriever(depth), places)
        self._expanded: dict[int, pd.DataFrame] = {0: self.topics}

    def expand(self, numbers: Sequence[int]) -> None:
        """Generate the passages, the largest number first: smaller ones are its prefixes, from the cache."""
        for n in sorted(set(numbers) - {0}, reverse=True):
            self._expanded[n] = with_n(self.system.expander, n).transform(self.topics)

    def scores(self, settings: Sequence[Setting]) -> Iterator[np.ndarray]:
        """The values (queries,) of each setting; those that differ only in weight should be adjacent."""
        for _, group in groupby(settings, key=lambda setting: setting[:3]):
            same = list(group)
            found, starts, lexical, dense = self._lists(same[0])
            for setting in same:
                fused = dense if setting.weight is None else setting.weight * lexical + (1 - setting.weight) * dense
                rows, _ = best_of_each(fused, starts, self._cutoff)
                yield self._values(found[["qid", "docno"]].take(rows).assign(score=fused[rows]))

    def _lists(self, setting: Setting) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
        """A setting's documents, where each query begins, and both lists' comparable scores."""
        frame = self._expanded[setting.n]
        encoded = self.system.encoder.query_encoder(fusion=setting.fusion).transform(frame)
        vectors = [np.asarray(vector).tobytes() for vector in encoded["query_vec"]]
        found = self.dense(encoded[["qid", "query", "query_vec"]], vectors)
        if self.lexical is None or self.system.hybrid is None:
            starts = run_starts(found["qid"])
            return found, starts, np.zeros(len(found)), found["score"].to_numpy()
        assert setting.repeats is not None
        words = LexicalExpander(setting.repeats).transform(frame)[["qid", "query"]]
        theirs = self.lexical(words, list(words["query"]))
        rows, both = side_by_side(list(range(len(self.topics))), theirs, found)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        method: Method = self.system.hybrid.method
        ours, dense = (NORMALISERS[method](both[column].to_numpy(), starts) for column in COLUMNS)
        return both[["docno"]].assign(qid=rows), starts, ours, dense

    def _values(self, found: pd.DataFrame) -> np.ndarray:
        run = pd.DataFrame(
            {
                "qid": self.topics["qid"].to_numpy()[found["qid"]],
                "docno": self.docnos[found["docno"]],
                "score": found["score"].to_numpy(),
            }
        )
        per_query, _ = evaluate(run, self.qrels, [self.measure])
        values = per_query.set_index("qid")["value"].reindex(self.topics["qid"], fill_value=0.0)
        return values.to_numpy(np.float64)
