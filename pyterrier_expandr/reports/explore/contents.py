"""What a page shows about each query, and the texts of the documents in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...evaluation.results import Results
from .gathering import Rankings, judged, read_passages
from .maps import add_maps
from .questions import Questions
from .sources import Source, Text


def details_of(
    results: Results,
    questions: Questions,
    rankings: Rankings,
    sources: Mapping[str, Source],
    expansions: Mapping[str, str | Path],
    maps: int,
    device: str | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rankings, judgments, passages and maps of each query as JSON values, and notes on what could not be had."""
    judgments = judged(rankings, questions, sources)
    passages = read_passages(results, questions, expansions)
    relevant = [
        [n for n, grade in zip(each["numbers"], each["grades"], strict=True) if grade > 0] for each in judgments
    ]
    drawn: list[list[Any]] = [[] for _ in questions.keys]
    notes: list[str] = []
    if maps:
        options: dict[str, Any] = {"limit": maps, "device": device}
        drawn, notes = add_maps(results, questions, rankings, passages, relevant, **options)
        if any(map(any, drawn)) and len(questions.keys) > maps:
            notes.append(f"Embeddings are drawn for the {maps} queries that differ most; --maps draws more.")
    parts = zip(rankings.lists, rankings.lengths, judgments, passages, drawn, strict=True)
    names = ("lists", "lengths", "judged", "passages", "maps")
    return [dict(zip(names, each, strict=True)) for each in parts], notes


def texts_of(rankings: Rankings, sources: Mapping[str, Source], *, verbose: bool = False) -> list[Text | None]:
    """Title and text of each document by its number, or None; every corpus is read once."""
    found = {
        name: source.texts((docno for place, docno in rankings.documents if place == name), verbose=verbose)
        for name, source in sources.items()
    }
    return [found.get(name, {}).get(docno) for name, docno in rankings.documents]
