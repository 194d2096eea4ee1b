"""The stages of a recipe that train the LLM and merge what came out into a model that stands alone."""

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
    verbose: bool = False,
) -> Stage:
    """adapter/: the LoRA adapter trained by DPO on the pairs.

    Args:
        configure: gives the configuration for a base, pairs and an output folder.
        model: names the base, from the folders of `inputs` behind the first.
        llm: what decides the base where no stage makes it.
        inputs: the pairs, and the stage of the base where one makes it.
        verbose: show progress bars.
    """

    def run(folder: Path, pairs: Path, *base: Path) -> dict[str, Any]:
        config = configure(model(base), pairs / "pairs.jsonl", folder / "adapter")
        record = json.loads((train_expander(config, verbose=verbose) / ADAPTER_RECORD).read_text("utf-8"))
        return {"pairs": record["pairs"]["training"], "steps": record["steps"], **_rounded(record["after"] or {})}

    return Stage("dpo", configure("base", "pairs", "out").recorded() | llm, inputs, run)


def merge_stage(
    model: Callable[[tuple[Path, ...]], str],
    llm: dict[str, Any],
    origin: Callable[[], dict[str, Any]],
    inputs: tuple[Stage, ...],
    *,
    device: str | None = None,
) -> Stage:
    """model/: base and adapter as one model.

    Args:
        model, llm: as for `dpo_stage`.
        origin: gives `revision` and `trust_remote_code` of the base.
        inputs: the adapter, and the stage of the base where one makes it.
        device: "cuda", "cpu"; None takes cuda where there is one.
    """

    def run(folder: Path, adapter: Path, *base: Path) -> dict[str, Any]:
        merged = merge_adapter(adapter / "adapter", folder / "model", base=model(base), device=device, **origin())
        record = json.loads((merged / MERGE_RECORD).read_text(encoding="utf-8"))
        return _rounded({"error": record["error"], "effect": record["effect"]})

    return Stage("merge", llm, inputs, run)


def _rounded(values: dict[str, float]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}
