"""The stage of a recipe that reads the training queries and splits them between the two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..stage import Stage
from .examples import TrainingExample, split_examples, write_examples


def examples_stage(
    source: Callable[[], Iterator[TrainingExample]], parts: Mapping[str, float], settings: dict[str, Any]
) -> Stage:
    """PART.jsonl for each of `parts`: the training queries of the two models.

    Args:
        source: called to stream the queries afresh each time, so that nothing is held in memory.
        parts: how many of the queries, or which fraction, each part gets.
        settings: everything that determines the queries, including the `seed` for the parts.

    Raises:
        ValueError: a part without a query (when the stage runs).
    """

    def run(folder: Path) -> dict[str, Any]:
        counts = {}
        for part in parts:
            found = split_examples(source(), parts, settings["seed"])
            chosen = (example for name, example in found if name == part)
            counts[part] = write_examples(folder / f"{part}.jsonl", chosen)
            if not counts[part]:
                raise ValueError(f"no training query is left for {part}: change parts {dict(parts)}")
        return counts

    return Stage("examples", settings, (), run)
