"""The stages of a recipe that train the LLM and merge the result into a standalone model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..stage import Stage
from .config import ExpanderTrainingConfig
from .merge import RECORD as MERGE_RECORD
from .merge import merge_adapter
from .train import RECORD as ADAPTER_RECORD
from .train import train_expander


def dpo_stage(
    configure: Callable[[str, str | Path, str | Path], ExpanderTrainingConfig],
    model: Callable[[tuple[Path, ...]], str],
    llm: dict[str, Any],
    inputs: tuple[Stage, ...],
    *,
    data: str = "pairs.jsonl",
    verbose: bool = False,
) -> Stage:
    """adapter/: the LoRA adapter trained on the pairs, or by an online method on queries.

    Args:
        configure: returns the configuration for a base, data and an output folder.
        model: returns the base's name, given the folders of `inputs` after the first.
        llm: what determines the base if no stage makes it.
        inputs: the pairs or queries, and the stage that makes the base, if any.
        data: the file of the first input that is trained on.
        verbose: show progress bars.
    """

    def run(folder: Path, source: Path, *base: Path) -> dict[str, Any]:
        config = configure(model(base), source / data, folder / "adapter")
        record = json.loads((train_expander(config, verbose=verbose) / ADAPTER_RECORD).read_text("utf-8"))
        counted = "pairs" if config.online is None else "queries"
        return {counted: record["pairs"]["training"], "steps": record["steps"], **_rounded(record["after"] or {})}

    config = configure("base", "pairs", "out")
    name = "dpo" if config.online is None else config.method
    return Stage(name, config.recorded() | llm, inputs, run)


def merge_stage(
    model: Callable[[tuple[Path, ...]], str],
    llm: dict[str, Any],
    origin: Callable[[], dict[str, Any]],
    inputs: tuple[Stage, ...],
    *,
    device: str | None = None,
) -> Stage:
    """model/: base and adapter merged into one model.

    Args:
        model, llm: as for `dpo_stage`.
        origin: returns `revision` and `trust_remote_code` of the base.
        inputs: the adapter, and the stage that makes the base, if any.
        device: "cuda" or "cpu"; None means cuda if available.
    """

    def run(folder: Path, adapter: Path, *base: Path) -> dict[str, Any]:
        merged = merge_adapter(adapter / "adapter", folder / "model", base=model(base), device=device, **origin())
        record = json.loads((merged / MERGE_RECORD).read_text(encoding="utf-8"))
        return _rounded({"error": record["error"], "effect": record["effect"]})

    return Stage("merge", llm, inputs, run)


def _rounded(values: dict[str, float]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}
