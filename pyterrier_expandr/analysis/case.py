"""One query under several systems, with the phrases that its expansions share with the gold document (Table 10)."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..common.files import path_of
from ..common.frames import expansion_lists
from .phrases import highlighted, shared_phrases
from .texts import gold_documents

STYLE = """
.expandr-case {font: 14px/1.45 sans-serif; color: #111; background: #fff; max-width: 60em}
.expandr-case table {border-collapse: collapse; width: 100%}
.expandr-case th, .expandr-case td {border-top: 1px solid #999; padding: .4em .6em}
.expandr-case th, .expandr-case td {text-align: left; vertical-align: top}
.expandr-case td.number {text-align: right; white-space: nowrap}
.expandr-case mark {background: #ffe7a8; color: inherit; font-weight: bold; text-decoration: underline}
"""


@dataclass(frozen=True)
class CasePart:
    """One system's part of a case: its score, the rank (from 1) of the gold document or None, and its expansions."""

    system: str
    score: float
    gold_rank: int | None
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseStudy:
    """One query under several systems; displays itself in Jupyter.

    Attributes:
        query: the query's text.
        gold: the document judged best, as (docno, title, text).
        measure: the name of the score.
        parts: one per system.
        min_words: how many consecutive words make a shared phrase.
    """

    query: str
    gold: tuple[str, str, str]
    measure: str
    parts: tuple[CasePart, ...]
    min_words: int = 2

    def to_html(self) -> str:
        """The case as one HTML element with its style; all text in it is escaped."""
        docno, title, text = self.gold
        rows = [self._row(part) for part in self.parts]
        said = " ".join(passage for part in self.parts for passage in part.passages)
        title, document = (highlighted(part, shared_phrases(part, said, self.min_words)) for part in (title, text))
        return (
            f'<div class="expandr-case"><style>{STYLE}</style>'
            f"<p><b>Query:</b> {html.escape(self.query)}</p>"
            f"<table><thead><tr><th>system</th><th>{html.escape(self.measure)}</th><th>rank of the gold document</th>"
            f"<th>expansion</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<p><b>Gold document {html.escape(docno)}:</b> <i>{title}</i> {document}</p>"
            f"<p>Marked: phrases of {self.min_words} words or more that an expansion shares with the gold document.</p>"
            "</div>"
        )

    def _row(self, part: CasePart) -> str:
        gold = f"{self.gold[1]} {self.gold[2]}"
        passages = "<br><br>".join(
            highlighted(passage, shared_phrases(passage, gold, self.min_words)) for passage in part.passages
        )
        rank = "not retrieved" if part.gold_rank is None else str(part.gold_rank)
        return (
            f"<tr><td>{html.escape(part.system)}</td><td class='number'>{part.score:.3f}</td>"
            f"<td class='number'>{rank}</td><td>{passages or '(none)'}</td></tr>"
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def save(self, path: str | Path) -> None:
        """Write the case as a standalone HTML page."""
        title = html.escape(self.query)
        head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        target = path_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{head}<body>{self.to_html()}</body></html>\n", encoding="utf-8")


def case_study(
    query: str,
    systems: Mapping[str, pt.Transformer],
    dataset: Any,
    *,
    measure: str = "nDCG@10",
    min_words: int = 2,
) -> CaseStudy:
    """Each system on one query: its expansions, its score, and where it ranks the gold document (Table 10).

    Args:
        query: the qid of a topic of `dataset`, or its text.
        systems: name -> pipeline `[qid, query]` -> results; expansions are read from the column `query_expansions`
            if the pipeline adds one.
        dataset: a PyTerrier dataset with topics, qrels and a corpus. The gold document is the best-judged one, the
            first of several.
        measure: any ir-measures measure.
        min_words: how many consecutive words make a shared phrase.

    Raises:
        ValueError: there is no such topic, or it has no relevant document.

    Example:
        >>> case_study("q01", {"query alone": dense, "ExpandR": expander >> dense}, pocket())  # doctest: +SKIP
    """
    import ir_measures

    gold = gold_documents(dataset)
    chosen = gold[(gold["qid"] == query) | (gold["query"] == query)]
    if chosen.empty:
        raise ValueError(
            f"{dataset} has no query {query!r} with a relevant document: give a qid or a query's whole text"
        )
    best = chosen.iloc[0]
    qrels = dataset.get_qrels()
    qrels = qrels[qrels["qid"] == best["qid"]]
    parsed = ir_measures.parse_measure(measure)
    parts = []
    for name, system in systems.items():
        ranking = system.transform(chosen[["qid", "query"]].head(1))
        run = ranking.rename(columns={"qid": "query_id", "docno": "doc_id"})[["query_id", "doc_id", "score"]]
        judged = qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
        score = parsed.calc_aggregate(judged[["query_id", "doc_id", "relevance"]], run)
        parts.append(CasePart(name, float(score), _rank(ranking, best["docno"]), _passages(ranking)))
    return CaseStudy(best["query"], (best["docno"], best["title"], best["text"]), measure, tuple(parts), min_words)


def _rank(ranking: pd.DataFrame, docno: str) -> int | None:
    ordered = ranking.sort_values("score", ascending=False, kind="stable")["docno"].tolist()
    return ordered.index(docno) + 1 if docno in ordered else None


def _passages(ranking: pd.DataFrame) -> tuple[str, ...]:
    return tuple(expansion_lists(ranking.head(1))[0]) if len(ranking) else ()
