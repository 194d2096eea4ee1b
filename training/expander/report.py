"""Measures of a DPO run: metrics per step and on held-out pairs, and the lengths of generated texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...expansion.backends.base import Message, Request, Sampling
from ...expansion.backends.huggingface import HuggingFaceBackend
from ...expansion.cache import GenerationCache
from ...expansion.generation import generate_cached
from .online.signs import evaluation_rows

if TYPE_CHECKING:
    from transformers import TrainerState

    from .config import ExpanderTrainingConfig

logger = logging.getLogger(__name__)

#: TRL's names -> ours
METRICS = {
    "loss": "loss",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "reward": "reward",
    "objective/scores": "reward",
    "kl": "kl",
    "objective/kl": "kl",
}


def step_metrics(state: TrainerState) -> list[dict[str, float]]:
    """`step` and `loss` of each training step, with what the method has of reward accuracy, margin, reward and KL."""
    return [{"step": entry["step"]} | _metrics(entry) for entry in state.log_history if "loss" in entry]


def held_out_metrics(state: TrainerState) -> dict[str, Any]:
    """Steps taken, the step that was kept, and the metrics on held-out pairs `before` training and `after` that step.

    The metrics are None if no pairs are held out; the last step is then kept. The reward accuracy before DPO is None as
    well: model and reference are then identical, so every pair is a tie. Without DPO there are no rewards, only a loss.
    """
    best = state.best_model_checkpoint
    kept = int(Path(best).name.split("-")[-1]) if best else state.global_step
    measured: dict[int, dict[str, float]] = {}
    for row in evaluation_rows(state.log_history):
        measured[int(row["step"])] = {name: value for name, value in row.items() if name != "step"}
    for entry in state.log_history:
        if "eval_loss" in entry:  # a resumed run evaluates its first state once more
            measured.setdefault(int(entry["step"]), _metrics(entry, "eval_"))
    before: dict[str, Any] | None = measured.get(0)
    if before is not None and "reward_accuracy" in before:
        before = before | {"reward_accuracy": None}
    return {"steps": state.global_step, "kept_step": kept, "before": before, "after": measured.get(kept)}


def _metrics(entry: dict[str, float], prefix: str = "") -> dict[str, float]:
    return {name: entry[prefix + key] for key, name in METRICS.items() if prefix + key in entry}


def generation_lengths(
    config: ExpanderTrainingConfig,
    prompts: Sequence[tuple[Message, ...]],
    of: str,
    work: Path,
    *,
    verbose: bool = False,
) -> dict[str, Any] | None:
    """Mean length in words of one generation per prompt, and the share that was truncated, before and after training.

    Words, not tokens: a decoded text need not tokenise back to the tokens it was generated as. "after" is the base
    with the adapter in `work/finished`. Generations are stored in `work` as they arrive. None if no prompts are
    requested, and for a 4-bit base: the backend would load it in 16 bits, for which there may be no memory.
    """
    if not config.report_prompts:
        return None
    if config.load_in_4bit:
        logger.warning("the lengths of generations are not reported, since that would load the base model in 16 bits")
        return None
    distinct = [tuple(json.loads(prompt)) for prompt in dict.fromkeys(map(json.dumps, prompts))][
        : config.report_prompts
    ]
    cache = GenerationCache(work / "generations.sqlite")
    lengths: dict[str, Any] = {"of": of, "prompts": len(distinct)}
    for name, adapter in (("before", None), ("after", work / "finished")):
        backend = HuggingFaceBackend(
            config.base,
            adapter=adapter,
            dtype=config.dtype,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )
        sampling = _sampling(backend, distinct, config)
        requests = [Request(prompt, sampling) for prompt in distinct]
        texts = [samples[0] for samples in generate_cached(backend, requests, cache, verbose=verbose)]
        backend.close()
        lengths["max_tokens"] = sampling.max_new_tokens
        lengths[name] = {
            "mean": sum(len(text.text.split()) for text in texts) / len(texts),
            "truncated": sum(text.truncated for text in texts) / len(texts),
        }
    return lengths


def _sampling(
    backend: HuggingFaceBackend, prompts: Sequence[tuple[Message, ...]], config: ExpanderTrainingConfig
) -> Sampling:
    """The requested number of tokens, or as many as fit into the context after the longest prompt."""
    new = config.report_tokens
    if backend.context_length is not None:
        new = max(1, min(new, backend.context_length - max(map(backend.prompt_tokens, prompts))))
    return Sampling(max_new_tokens=new, seed=config.seed)
