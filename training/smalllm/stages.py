"""The stage of a recipe that trains a small language model, if the recipe names no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.examples import examples_from_jsonl
from ..stage import Stage
from .train import RECORD, SmallLMConfig, train_small_lm


def small_lm_stage(
    config: SmallLMConfig,
    texts: Callable[[], Iterable[str]],
    corpora: list[str],
    examples: Stage,
    *,
    verbose: bool = False,
) -> Stage:
    """model/: a language model trained on the corpora's texts and the pairs in the LLM's part of the examples.

    Args:
        config: size and schedule of the model.
        texts: returns the corpora's texts.
        corpora: content-based identities of the corpora.
        examples: the stage with llm.jsonl.
        verbose: show progress bars.
    """

    def run(folder: Path, found: Path) -> dict[str, Any]:
        pairs = [(e.query, text) for e in examples_from_jsonl(found / "llm.jsonl") for text in e.positives]
        model = train_small_lm(list(texts()), pairs, folder / "model", config, verbose=verbose)
        report = json.loads((model / RECORD).read_text(encoding="utf-8"))
        return {"parameters": report["parameters"], "tokens": report["text_tokens"], "pairs": report["pairs"]}

    return Stage("small-lm", {"config": asdict(config), "corpora": corpora}, (examples,), run)
