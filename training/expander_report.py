"""What a run of DPO is judged by: metrics of its steps and on held-out pairs, and how long the model's texts become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.base import Message, Request, Sampling
from ..backends.huggingface import HuggingFaceBackend
from ..cache import GenerationCache
from ..expander import generate_cached

if TYPE_CHECKING:
    from transformers import TrainerState

    from .expander import ExpanderTrainingConfig

#: TRL's names -> ours
METRICS = {"loss": "loss", "rewards/accuracies": "reward_accuracy", "rewards/margins": "reward_margin"}


def step_metrics(state: TrainerState) -> list[dict[str, float]]:
    """`step`, `loss`, `reward_accuracy` and `reward_margin` of each training step."""
    return [{"step": entry["step"]} | _metrics(entry) for entry in state.log_history if "loss" in entry]


def held_out_metrics(state: TrainerState) -> dict[str, Any]:
    """Steps made, the step that was kept, and the metrics on held-out pairs `before` any and `after` that step.

    The metrics are None where no pairs are held out, and then the last step is kept.
    """
    best = state.best_model_checkpoint
    kept = int(Path(best).name.split("-")[-1]) if best else state.global_step
    measured: dict[int, dict[str, float]] = {}
    for entry in state.log_history:
        if "eval_loss" in entry:  # a resumed run measures its first state once more
            measured.setdefault(int(entry["step"]), _metrics(entry, "eval_"))
    return {"steps": state.global_step, "kept_step": kept, "before": measured.get(0), "after": measured.get(kept)}


def _metrics(entry: dict[str, float], prefix: str = "") -> dict[str, float]:
    return {name: entry[prefix + key] for key, name in METRICS.items()}


def generation_lengths(
    config: ExpanderTrainingConfig, prompts: Sequence[tuple[Message, ...]], work: Path, *, verbose: bool = False
) -> dict[str, dict[str, float]]:
    """Mean tokens of one generation for each of some prompts, and the share that was truncated, before and after.

    "after" is the base with the adapter in `work/finished`. Generations are stored in `work` as they come.
    """
    distinct = [tuple(json.loads(prompt)) for prompt in dict.fromkeys(map(json.dumps, prompts))]
    cache, lengths = GenerationCache(work / "generations.sqlite"), {}
    for name, adapter in (("before", None), ("after", work / "finished")):
        backend = HuggingFaceBackend(
            config.base,
            adapter=adapter,
            dtype=config.dtype,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )
        lengths[name] = _lengths(backend, distinct[: config.report_prompts], config, cache, verbose)
        backend.close()
    return lengths


def _lengths(
    backend: HuggingFaceBackend,
    prompts: list[tuple[Message, ...]],
    config: ExpanderTrainingConfig,
    cache: GenerationCache,
    verbose: bool,
) -> dict[str, float]:
    longest = max(map(backend.prompt_tokens, prompts), default=0)
    room = config.report_tokens if backend.context_length is None else backend.context_length - longest
    sampling = Sampling(max_new_tokens=max(1, min(room, config.report_tokens)), seed=config.seed)
    requests = [Request(prompt, sampling) for prompt in prompts]
    texts = [samples[0] for samples in generate_cached(backend, requests, cache, verbose=verbose)]
    tokens, count = sum(len(backend.text_ids(text.text)) for text in texts), max(1, len(texts))
    return {"mean": tokens / count, "truncated": sum(t.truncated for t in texts) / count, "prompts": len(texts)}
