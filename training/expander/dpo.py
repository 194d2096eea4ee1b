"""TRL's DPO trainer and PEFT's LoRA, set up as the paper has them (Eq. 17)."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer

from ...expansion.backends.gguf import local_model, resolve_llm
from ...expansion.backends.local.control_tokens import stop_tokens
from ..progress import ProgressBar
from .pair_tokens import TokenizedPairs

if TYPE_CHECKING:
    from .config import ExpanderTrainingConfig


class TokenizedDPOTrainer(DPOTrainer):
    """A `DPOTrainer` whose rows are already tokenised: `prompt_ids`, `chosen_ids`, `rejected_ids`.

    TRL's own tokenisation renders whole chats. It would therefore also train on what a template writes after the end of
    turn (a line break in Qwen's), interpret control tokens spelled out in a text, and cut texts that are too long.
    """

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def build_trainer(
    config: ExpanderTrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenizedPairs,
    evaluation: TokenizedPairs,
    folder: Path,
    verbose: bool,
) -> DPOTrainer:
    """The trainer for a new LoRA adapter; the reference is the base model with the adapter switched off."""
    arguments = _arguments(config, len(train.rows), len(evaluation.rows), folder)
    model = open_base(config)
    _check_end(model, tokenizer, train.end, config.base)
    trainer = TokenizedDPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(train.rows),
        eval_dataset=Dataset.from_list(evaluation.rows) if evaluation.rows else None,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=list(config.target_modules),
            task_type="CAUSAL_LM",
        ),
    )
    trainer.remove_callback(PrinterCallback)
    if verbose:
        trainer.add_callback(ProgressBar("Training by DPO"))
    return trainer


def _arguments(config: ExpanderTrainingConfig, pairs: int, held_out: int, folder: Path) -> DPOConfig:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation, rest = divmod(config.batch_size, config.device_batch_size * processes)
    if rest or not accumulation:
        raise ValueError(
            f"batch_size {config.batch_size} must be a multiple of device_batch_size {config.device_batch_size} "
            f"times {processes} processes"
        )
    steps = math.ceil(math.ceil(pairs / config.batch_size) * config.epochs)
    interval = max(1, math.ceil(steps / config.evaluations))
    on_gpu, evaluated = torch.cuda.is_available(), held_out > 0
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=list(config.losses),
        loss_weights=list(config.losses.values()),
        beta=config.beta,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.device_batch_size,
        per_device_eval_batch_size=even_batch(held_out, config.device_batch_size, processes),
        gradient_accumulation_steps=accumulation,
        max_grad_norm=config.max_grad_norm,
        max_length=config.max_length,
        # TRL would switch off the adapter's dropout too; open_base has switched off the base model's.
        disable_dropout=False,
        precompute_ref_log_probs=config.precompute_reference,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=interval,
        eval_on_start=evaluated,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=evaluated,
        metric_for_best_model="eval_loss" if evaluated else None,
        greater_is_better=False if evaluated else None,
        logging_steps=1,
        seed=config.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu and config.compute_dtype() == "bfloat16",
        fp16=on_gpu and config.compute_dtype() == "float16",
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process on one GPU: DataParallel would multiply the batch
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


def _check_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: int, base: str) -> None:
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
    base = local_model(resolve_llm(config.base))
    model = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=config.trust_remote_code, **options)
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
