"""What every way of training the LLM shares: the opened base, its new adapter, and the arguments of TRL's trainers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer import utils

from ...common.hardware import warn_of_slow_dtype
from ...common.weights import refuse_pickles, weights_options
from ...expansion.backends.gguf import local_model, resolve_llm
from ...expansion.backends.local.control_tokens import stop_tokens

if TYPE_CHECKING:
    from .config import ExpanderTrainingConfig


def new_adapter(config: ExpanderTrainingConfig) -> LoraConfig:
    """The settings of the LoRA adapter that is trained."""
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )


def process_count() -> int:
    """The number of processes of a distributed run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def common_arguments(
    config: ExpanderTrainingConfig, rows: int, held_out: int, folder: Path, *, measured: str = "eval_loss"
) -> dict[str, Any]:
    """The arguments that TRL's configurations have in common.

    Args:
        config: what to train and how.
        rows: training rows in an epoch, in the unit of `batch_size`.
        held_out: rows that are held out.
        folder: for checkpoints.
        measured: what decides which checkpoint is kept: the lowest "eval_loss", or the largest of anything else.
    """
    processes = process_count()
    accumulation, rest = divmod(config.batch_size, config.device_batch_size * processes)
    if rest or not accumulation:
        raise ValueError(
            f"batch_size {config.batch_size} must be a multiple of device_batch_size {config.device_batch_size} "
            f"times {processes} processes"
        )
    steps = math.ceil(math.ceil(rows / config.batch_size) * config.epochs)
    interval = max(1, math.ceil(steps / config.evaluations))
    on_gpu, evaluated = torch.cuda.is_available(), held_out > 0
    return {
        "output_dir": str(folder),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.device_batch_size,
        "per_device_eval_batch_size": even_batch(held_out, config.device_batch_size, processes),
        "gradient_accumulation_steps": accumulation,
        "max_grad_norm": config.max_grad_norm,
        "max_length": config.max_length,
        "eval_strategy": "steps" if evaluated else "no",
        "eval_steps": interval,
        "eval_on_start": evaluated,
        "save_strategy": "steps",
        "save_steps": interval,
        "save_total_limit": 2,
        "load_best_model_at_end": evaluated,
        "metric_for_best_model": measured if evaluated else None,
        "greater_is_better": measured != "eval_loss" if evaluated else None,
        "logging_steps": 1,
        "seed": config.seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu and config.compute_dtype() == "bfloat16",
        "fp16": on_gpu and config.compute_dtype() == "float16",
        "gradient_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def on_one_gpu(arguments: Any) -> Any:
    """`arguments` for one GPU in each process: torch's DataParallel would multiply the batch."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def even_batch(rows: int, most: int, processes: int) -> int:
    """The largest batch size up to `most` that divides each process's rows; 1 if their numbers of rows differ.

    TRL reports the mean of its batches' margins, which is the mean over pairs only if all batches have the same size
    and none is padded with extra rows.

    Example:
        >>> even_batch(20, 4, 1), even_batch(30, 4, 2), even_batch(31, 4, 2)
        (4, 3, 1)
    """
    share, rest = divmod(rows, processes)
    return 1 if rest or not share else max(size for size in range(1, most + 1) if share % size == 0)


def check_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: int, base: str) -> None:
    """Reject an end-of-turn token at which generation does not stop: learning it would have no effect."""
    ends = stop_tokens(model, tokenizer)
    if end not in ends:
        written, stops = tokenizer.convert_ids_to_tokens([end])[0], tokenizer.convert_ids_to_tokens(ends)
        raise ValueError(
            f"the chat template of {base!r} ends an answer with {written!r}, but generation stops only at {stops}: add "
            f"{end} to eos_token_id in its generation_config.json"
        )


def open_base(config: ExpanderTrainingConfig) -> PreTrainedModel:
    """The model to train, with its own dropout off so that policy and reference differ only in the adapter.

    Raises:
        ValueError: no module matches a name in `target_modules` (the available ones are listed).
    """
    options: dict[str, Any] = {"dtype": config.compute_dtype(), "revision": config.revision}
    if config.load_in_4bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=config.compute_dtype(),
        )
    on_gpu = torch.cuda.is_available()
    warn_of_slow_dtype(config.compute_dtype(), "cuda" if on_gpu else "cpu")
    if not on_gpu:
        score_only_what_counts()
    base = local_model(resolve_llm(config.base))
    refuse_pickles(base)
    options |= {"trust_remote_code": config.trust_remote_code, **weights_options()}
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    names = {name.split(".")[-1]: module for name, module in model.named_modules()}
    if unknown := sorted(set(config.target_modules) - names.keys()):
        linear = sorted(name for name, module in names.items() if isinstance(module, torch.nn.Linear))
        raise ValueError(f"{config.base!r} has no modules named {unknown}: choose target_modules from {linear}")
    return model


def score_only_what_counts() -> None:
    """Let TRL's head compute on a CPU what it computes on a GPU: only the positions that the loss counts.

    Elsewhere it also scores prompts and padding and then drops them, since some devices would compile anew for each
    number of positions. A CPU compiles nothing, and the head is half of a small model's arithmetic.
    """
    if hasattr(utils, "_use_triton"):  # where it asks for the device
        utils._use_triton = lambda device: True
