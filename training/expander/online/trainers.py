"""TRL's trainers for GRPO and online DPO, with held-out queries evaluated by `Watch`."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from ....expansion.backends.huggingface import HuggingFaceBackend
from ....expansion.backends.local.control_tokens import stop_tokens
from ..pair_tokens import TokenizedPairs
from ..trainer_setup import check_end, common_arguments, new_adapter, on_one_gpu, open_base, process_count
from .engine import engine_arguments, keep_base
from .reward import GroupReward, Scorer
from .watch import Watch

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "You are importing from 'trl.experimental'")
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

if TYPE_CHECKING:
    from ..config import ExpanderTrainingConfig


class _Watched:
    """Evaluates by `watch`: texts for held-out queries, written and valued in the same way by every method."""

    watch: Watch
    scorer: Scorer

    def evaluate(
        self: Any, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What `Watch.measure` finds, with the prefix, and the number of tokens written in training so far."""
        before = max([0, *(entry["eval_tokens"] for entry in self.state.log_history if "eval_tokens" in entry)])
        written = torch.tensor(self.scorer.tokens, device=self.accelerator.device)
        self.scorer.tokens = 0
        found = self.watch.measure(self.accelerator.unwrap_model(self.model))
        found |= {"tokens": before + int(self.accelerator.reduce(written, "sum"))}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.model.eval()  # tells TRL that this is no training step
        self.log(dict(metrics))
        self.watch.record(self.state.log_history)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class WatchedGRPOTrainer(_Watched, GRPOTrainer):
    """A `GRPOTrainer` whose prompts are texts that are complete already: no token is added to them."""

    def _tokenize_prompts(self: Any, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}


class WatchedOnlineDPOTrainer(_Watched, OnlineDPOTrainer):
    """An `OnlineDPOTrainer`; it adds no token to a prompt that is a text, and vLLM gets tokens."""

    def _generate_vllm(self: Any, prompts: list[str], images: None = None) -> Any:
        ids = self.processing_class(text=prompts, add_special_tokens=False)["input_ids"]
        return super()._generate_vllm([{"prompt_token_ids": one} for one in ids], images)


def online_trainer(
    config: ExpanderTrainingConfig,
    reward: GroupReward,
    backend: HuggingFaceBackend,
    train: TokenizedPairs,
    evaluation: TokenizedPairs,
    folder: Path,
) -> Any:
    """The trainer of `config.method` for a new LoRA adapter; the reference is the base model without it.

    Args:
        config: what to train and how.
        reward: values the texts.
        backend: the base, whose prompts the rows are.
        train, evaluation: rows of `tokenize_queries`.
        folder: for checkpoints; the rows of `Watch` are kept next to it.

    Raises:
        ValueError: fewer queries than a step takes, or a step that cannot be divided among the processes.
        ImportError: a version of TRL with other methods.
    """
    # Without these, TRL would add tokens to the prompts, or keep the base rounded.
    ours = {GRPOTrainer: ["_tokenize_prompts"], OnlineDPOTrainer: ["_generate_vllm", "_move_model_to_vllm"]}
    if not all(hasattr(trainer, name) for trainer, names in ours.items() for name in names):
        raise ImportError(f"training online needs another version of trl, such as 1.16: this is {version('trl')}")
    queries = queries_per_step(config, process_count())
    if len(train.rows) < queries:
        raise ValueError(f"a step takes {queries} queries, but only {len(train.rows)} are left to train on")
    shared = _shared(config, len(train.rows), len(evaluation.rows), folder)
    model = open_base(config)
    check_end(model, backend.tokenizer, train.end, config.base)
    # A prompt's last hidden states are a slice, for which torch copies the head's weights once for each row: 8 s where
    # the product itself takes 15 ms (64 rows, 49,152 tokens of vocabulary, bfloat16, a CPU).
    model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))
    prompts = {row["query_id"]: prompt for row, prompt in zip(train.rows, train.prompts, strict=True)}
    scorer = Scorer(reward, backend, prompts, stop_tokens(model, backend.tokenizer))
    build, arguments = (_grpo if config.method == "grpo" else _online_dpo)(config, shared)
    trainer = build(
        model=model,
        reward_funcs=scorer,
        args=on_one_gpu(arguments),
        train_dataset=Dataset.from_list(in_order(train.rows, queries, config.epochs, config.seed)),
        eval_dataset=Dataset.from_list(evaluation.rows) if evaluation.rows else None,
        processing_class=backend.tokenizer,
        peft_config=new_adapter(config),
    )
    watch = Watch(*(reward, backend, evaluation), group_size=config.group_size, seed=config.seed, folder=folder.parent)
    trainer.scorer, trainer.watch = scorer, watch
    if config.vllm is not None:
        keep_base(trainer, config.method)
    return trainer


def queries_per_step(config: ExpanderTrainingConfig, processes: int) -> int:
    """The queries of a step. Raises ValueError if the texts of one query would be spread over several processes."""
    share, rest = divmod(config.batch_size, processes)
    if config.method == "grpo" and (rest or share % config.group_size):
        raise ValueError(
            f"batch_size {config.batch_size} over {processes} processes must give each a multiple of group_size "
            f"{config.group_size}: the texts of a query are ranked within one process"
        )
    return config.queries_per_step


def in_order(rows: Sequence[Any], per_step: int, epochs: float, seed: int) -> list[Any]:
    """The rows of all steps, one after the other: each epoch in a seeded order of its own, without what fills no step.

    A Trainer is given all epochs as one. TRL shuffles anew in a process that resumes at a later epoch, and the texts
    drawn at the beginning of an epoch would be others; within an epoch a resumed run goes on exactly.

    Example:
        >>> sorted(in_order("abc", 2, 1.0, seed=0)), len(in_order("abc", 2, 2.5, seed=0))
        (['a', 'c'], 6)
    """
    found: list[Any] = []
    whole = len(rows) // per_step * per_step
    for epoch in range(math.ceil(epochs)):
        found += random.Random(f"{seed} {epoch}").sample(list(rows), whole)
    return found[: math.ceil(whole // per_step * epochs) * per_step]


def _shared(config: ExpanderTrainingConfig, queries: int, held_out: int, folder: Path) -> dict[str, Any]:
    """The arguments that both methods have in common."""
    steps = queries // queries_per_step(config, process_count())
    arguments = common_arguments(config, steps * config.batch_size, held_out, folder, measured="eval_reward")
    settings = config.online_settings
    return arguments | {
        "num_train_epochs": 1,  # see `in_order`
        "per_device_eval_batch_size": 1,  # not used: `Watch` evaluates
        "beta": config.beta,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": 0,
        "disable_dropout": True,  # TRL would otherwise sample from a model with dropout
        "remove_unused_columns": False,
        **engine_arguments(config),
    }


def _grpo(config: ExpanderTrainingConfig, shared: dict[str, Any]) -> tuple[type[Any], Any]:
    del shared["max_length"]
    sizes: dict[str, Any] = {"num_generations": config.group_size, "num_generations_eval": 1}
    new = config.online_settings.max_new_tokens
    return WatchedGRPOTrainer, GRPOConfig(**shared, **sizes, max_completion_length=new, shuffle_dataset=False)


def _online_dpo(config: ExpanderTrainingConfig, shared: dict[str, Any]) -> tuple[type[Any], Any]:
    new = config.online_settings.max_new_tokens
    return WatchedOnlineDPOTrainer, OnlineDPOConfig(**shared, max_new_tokens=new, train_sampling_strategy="sequential")
