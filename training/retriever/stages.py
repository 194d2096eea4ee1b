"""The stages of a recipe that provide a retriever: trained, or the untrained base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..identity import data_identity, encoder_identity
from ..stage import Stage
from .train import OTHER_SETTINGS, RetrieverTrainingConfig

#: the settings that determine an untrained encoder
UNTRAINED = "base profile pooling max_length query_prompt doc_prompt revision trust_remote_code".split()

#: returns the configuration for data, an output folder, a kind of training, and recorded expansions
Configure = Callable[[str | Path, str | Path, str, Path | None], RetrieverTrainingConfig]


def retriever_stage(
    configure: Configure, kind: str, inputs: tuple[Stage, ...], *, device: str | None = None, verbose: bool = False
) -> Stage:
    """model/: the encoder after that training.

    Args:
        configure: returns the configuration.
        kind: "ft" (queries alone) or "expandr" (fused queries).
        inputs: the examples, and the expansions of their queries, if any.
        device: used if the configuration names none.
        verbose: show progress bars.
    """

    def run(folder: Path, examples: Path, *expansions: Path) -> dict[str, Any]:
        from .train import RECORD, train_retriever

        recorded = expansions[0] / "expansions.jsonl" if expansions else None
        config = configure(examples / "retriever.jsonl", folder / "model", kind, recorded)
        config = replace(config, device=config.device or device)
        record = json.loads((train_retriever(config, verbose=verbose) / RECORD).read_text(encoding="utf-8"))
        return dict(record["data"])

    return Stage(f"retriever-{kind}", _settings(configure, kind), inputs, run)


def untrained_retriever_stage(configure: Configure) -> Stage:
    """model/: the untrained base encoder; it does not depend on data or schedule."""

    def run(folder: Path) -> dict[str, Any]:
        from .trainer import open_base

        config = configure("data", "out", "raw", None)
        open_base(config).model.save_pretrained(str(folder / "model"), create_model_card=False)
        return {}

    settings = _settings(configure, "raw")
    return Stage("retriever-raw", {name: settings[name] for name in UNTRAINED}, (), run)


def _settings(configure: Configure, kind: str) -> dict[str, Any]:
    config = configure("d", "o", kind, None)
    settings = {name: value for name, value in asdict(config).items() if name not in OTHER_SETTINGS}
    if config.dev_data is not None:
        settings["dev_data"] = data_identity(config.dev_data, config.dev_split)
    return settings | {"base": encoder_identity(config.base)}
