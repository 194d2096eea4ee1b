"""TRL's supervised trainer, for imitating the chosen texts alone (rejection sampling)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from .pair_tokens import TokenizedPairs
from .trainer_setup import check_end, common_arguments, new_adapter, on_one_gpu, open_base

if TYPE_CHECKING:
    from .config import ExpanderTrainingConfig


def sft_trainer(
    config: ExpanderTrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenizedPairs,
    evaluation: TokenizedPairs,
    folder: Path,
) -> SFTTrainer:
    """The trainer for a new LoRA adapter; its loss covers the chosen texts with their ends, and nothing rejected."""
    arguments = SFTConfig(
        **common_arguments(config, len(train.rows), len(evaluation.rows), folder), completion_only_loss=True
    )
    model = open_base(config)
    check_end(model, tokenizer, train.end, config.base)
    return SFTTrainer(
        model=model,
        args=on_one_gpu(arguments),
        train_dataset=chosen_rows(train),
        eval_dataset=chosen_rows(evaluation) if evaluation.rows else None,
        processing_class=tokenizer,
        peft_config=new_adapter(config),
    )


def chosen_rows(pairs: TokenizedPairs) -> Dataset:
    """The prompts with their chosen texts as `input_ids`, and a `completion_mask` that is 1 where the loss counts.

    Example:
        >>> chosen_rows(TokenizedPairs(2, [{"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [2]}]))[0]
        {'input_ids': [5, 6, 7, 2], 'completion_mask': [0, 0, 1, 1]}
    """
    return Dataset.from_list(
        [
            {
                "input_ids": row["prompt_ids"] + row["chosen_ids"],
                "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["chosen_ids"]),
            }
            for row in pairs.rows
        ]
    )
