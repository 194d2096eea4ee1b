"""The page of an experiment, put together from its folder: `explore`."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ... import __version__
from ...common.files import path_of, replacing
from ...common.locks import one_writer
from ...evaluation.results import Results
from ..result_tables import LEVEL, nothing_computed, result_tables
from ..tables import Layout
from .contents import details_of, texts_of
from .documents import BLOCK as DOCUMENTS_BLOCK
from .documents import CHARACTERS, fitting
from .gathering import Rankings, read_rankings
from .library import vega
from .packing import blocks_of, packed
from .questions import Key, Questions, choose_questions
from .report_tab import report_tab
from .sources import Text, open_sources
from .templates import render

#: queries whose rankings the browser decodes at once
QUERIES_BLOCK = 50

SCRIPTS = ("data.js", "state.js", "charts.js", "list.js", "passages.js", "rankings.js", "query.js", "main.js")

#: height of the page inside a notebook, in pixels
NOTEBOOK_HEIGHT = 860


class Page:
    """One self-contained HTML page; displays itself in a notebook.

    Attributes:
        html: the page's text.
        notes: what was left out of it, and why.

    Example:
        >>> Page("<!DOCTYPE html><title>empty</title>")._repr_html_().startswith("<iframe")
        True
    """

    def __init__(self, html: str, notes: Sequence[str] = ()) -> None:
        self.html, self.notes = html, list(notes)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which appears only once complete, and return its path.

        Raises:
            InUseError: another process is writing that file.
        """
        target = path_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with one_writer(target), replacing(target) as part:
            part.write_text(self.html, encoding="utf-8")
        return target

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="Results" sandbox="allow-scripts" '
            f'style="width:100%;height:{NOTEBOOK_HEIGHT}px;border:1px solid #8888;border-radius:6px"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Page of {len(self.html) / 1e6:.1f} MB>"


def explore(
    results: Results,
    *,
    baseline: str | None = None,
    paper: Mapping[str, str] | None = None,
    measures: Sequence[str] | None = None,
    layout: Layout = "collections",
    title: str = "Results",
    texts: bool = True,
    data: str | Path | None = None,
    expansions: Mapping[str, str | Path] | None = None,
    only: Iterable[Key] | None = None,
    queries: int = 2_000,
    depth: int = 100,
    maps: int = 100,
    megabytes: float = 20,
    device: str | None = None,
    verbose: bool = False,
) -> Page:
    """One HTML page on an experiment, which needs neither a server nor a network.

    Its tabs are the report (tables, significance), the change of each query, and the queries one by one: text, passages
    with the words that they share with relevant documents, two rankings side by side, documents, and embeddings in two
    dimensions. Texts and judgments come from the collections, passages from the experiment, and embeddings from the
    indexes it searched; whatever cannot be had is left out, and the page says so (`Page.notes`).

    Args:
        results: `Results.load(folder)`; choose systems and collections there.
        baseline: the system that others are tested against; None means the first one.
        paper: system -> the paper's row, see `report`.
        measures: defaults to those of the experiment; queries are compared by the first at the start.
        layout: of the tables, see `report`.
        title: the heading.
        texts: False leaves out what has to be read from the collections.
        data: a folder of collections in BEIR format; None looks where the experiment found them.
        expansions: system -> JSONL file of its passages, for results that do not hold them.
        only: (collection, qid) of the queries to show, instead of all.
        queries: how many queries are shown: those whose scores differ most between the systems.
        depth: how many documents of a ranking are shown.
        maps: how many queries get a picture of embeddings, which loads the encoder; 0 loads none.
        megabytes: how large the page may be; texts of documents that do not fit are left out, lowest ranks first.
        device: of the encoder; None means cuda if available.
        verbose: show a progress bar while a corpus is read.

    Raises:
        ValueError: nothing has been computed yet; an unknown baseline, system, measure or paper row; two systems that
            were evaluated on different queries; a number below 1, or a page that is too large without any text.

    Example:
        >>> explore(Results.load("out"), baseline="dense").save("out.html")  # doctest: +SKIP
    """
    for name, value in (("queries", queries), ("depth", depth), ("megabytes", megabytes)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if unknown := sorted(set(expansions or {}) - set(results.systems)):
        raise ValueError(f"expansions are given for {unknown}, but the experiment's systems are {results.systems}")
    if results.per_query.empty:
        raise nothing_computed(results)
    baseline, compared, untested = _tests(results, baseline)
    tables, about = result_tables(
        results, compared=compared, baseline=baseline, paper=paper, measures=measures, layout=layout
    )
    shown = list(measures or results.measures)
    compared = None if compared is None else compared[compared["measure"].isin(shown)]
    chosen = None if only is None else list(only)
    done = results.cells.loc[results.cells["state"] == "done", "collection"]
    collections = [name for name in dict.fromkeys(done) if chosen is None or name in dict(chosen)]
    sources, notes = open_sources(results, collections, data=data) if texts else ({}, [])
    questions = choose_questions(results, shown, sources, limit=queries, only=chosen)
    rankings = read_rankings(results, questions, depth)
    details, without = details_of(results, questions, rankings, sources, expansions or {}, maps, device)
    core = _core(results, questions, shown, baseline, rankings.depth, only is not None)
    notes += untested + rankings.notes + without + _cut_notes(questions, shown[0], rankings.depth, depth, texts)
    parts = {
        "title": title,
        "core": packed(core),
        "blocks": blocks_of(details, QUERIES_BLOCK),
        "report": report_tab(results, tables, compared, baseline, about),
    }
    return _with_texts(parts, rankings, texts_of(rankings, sources, verbose=verbose), megabytes, notes)


def _with_texts(
    parts: dict[str, Any], rankings: Rankings, texts: list[Text | None], megabytes: float, notes: list[str]
) -> Page:
    """The page with as many texts of documents as fit."""
    room = megabytes * 1e6 - len(_page({**parts, "documents": [], "notes": notes})) - 50_000
    if room < 0:
        raise ValueError(
            f"the page would be larger than {megabytes} MB even without the texts of documents: show fewer queries "
            "(--queries) or documents (--depth), or allow more (--megabytes)"
        )
    documents, left_out = fitting([docno for _, docno in rankings.documents], texts, rankings.importance, room)
    if left_out:
        notes.append(f"The texts of {left_out} of {len(texts)} documents did not fit: those with the lowest ranks.")
    if any(text is not None and len(text[1]) > CHARACTERS for text in texts):
        notes.append(f"Texts of documents are cut after {CHARACTERS} characters.")
    return Page(_page({**parts, "documents": documents, "notes": notes}), notes)


def _tests(results: Results, baseline: str | None) -> tuple[str | None, pd.DataFrame | None, list[str]]:
    """The baseline, the tests against it, and a note if a baseline that nobody named cannot be tested against."""
    if baseline is not None:
        return baseline, results.compare(baseline, correction="holm"), []
    finished = [name for name in results.systems if name in set(results.per_query["system"])]
    try:
        return finished[0], results.compare(finished[0], correction="holm") if len(finished) > 1 else None, []
    except ValueError as error:
        return finished[0], None, [f"Differences are not tested: {error}"]


def _core(
    results: Results, questions: Questions, measures: list[str], first: str | None, depth: int, single: bool
) -> dict[str, Any]:
    """What the browser needs at once: names, queries, scores."""
    place = results.systems.index(first) if first in results.systems else 0
    means = np.nanmean(np.where(np.isnan(questions.scores[0]), -np.inf, questions.scores[0]), axis=1)
    means[place] = -np.inf
    scores = questions.scores.round(4)
    return {
        "systems": results.systems,
        "measures": measures,
        "collections": [name for name, _ in questions.keys],
        "qids": [qid for _, qid in questions.keys],
        "texts": questions.texts,
        "scores": [[[None if value != value else value for value in row] for row in each.tolist()] for each in scores],
        "pair": [place, int(means.argmax()) if len(means) > 1 else place],
        "depth": depth,
        "blocks": {"queries": QUERIES_BLOCK, "documents": DOCUMENTS_BLOCK},
        "single": single,
    }


def _cut_notes(questions: Questions, measure: str, depth: int, wanted_depth: int, texts: bool) -> list[str]:
    """Notes on what was left out by number."""
    notes = []
    if (cut := questions.total - len(questions.keys)) > 0:
        notes.append(
            f"{cut} of {questions.total} queries are left out: those whose {measure} differs least between systems. "
            "The tables of the report are over all of them; --queries shows more."
        )
    notes.append(
        f"Rankings are shown to rank {depth}"
        + (", less than asked for, since there are so many." if depth < wanted_depth else ".")
    )
    if not texts:
        notes.append("Texts, judgments and embeddings are left out: expandr explore writes a page with them.")
    return notes


def _page(parts: dict[str, Any]) -> str:
    """The filled template. Its scripts are the only ones that the browser may run, and nothing may be fetched."""
    assets = files(__package__) / "assets"
    application = "\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    scripts = [vega(), f'(() => {{\n"use strict";\n{application}\n}})();']
    return render(
        "page.html",
        **parts,
        style=(assets / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        version=__version__,
        level=LEVEL,
    )
