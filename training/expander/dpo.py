"""TRL's DPO trainer, set up as the paper has it (Eq. 17)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from .pair_tokens import TokenizedPairs
from .trainer_setup import check_end, common_arguments, new_adapter, on_one_gpu, open_base

if TYPE_CHECKING:
    from .config import ExpanderTrainingConfig


class TokenizedDPOTrainer(DPOTrainer):
    """A `DPOTrainer` whose rows are already tokenised: `prompt_ids`, `chosen_ids`, `rejected_ids`.

    TRL's own tokenisation renders whole chats. It would therefore also train on what a template writes after the end of
    turn (a line break in Qwen's), interpret control tokens spelled out in a text, and cut texts that are too long.
    """

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def dpo_trainer(
    config: ExpanderTrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenizedPairs,
    evaluation: TokenizedPairs,
    folder: Path,
) -> DPOTrainer:
    """The trainer for a new LoRA adapter; the reference is the base model with the adapter switched off."""
    arguments = DPOConfig(
        **common_arguments(config, len(train.rows), len(evaluation.rows), folder),
        loss_type=list(config.losses),
        loss_weights=list(config.losses.values()),
        label_smoothing=config.label_smoothing,
        ld_alpha=config.ld_alpha if config.ld_alpha < 1 else None,
        beta=config.beta,
        # TRL would switch off the adapter's dropout too; open_base has switched off the base model's.
        disable_dropout=False,
        precompute_ref_log_probs=config.precompute_reference,
    )
    model = open_base(config)
    check_end(model, tokenizer, train.end, config.base)
    return TokenizedDPOTrainer(
        model=model,
        args=on_one_gpu(arguments),
        train_dataset=Dataset.from_list(train.rows),
        eval_dataset=Dataset.from_list(evaluation.rows) if evaluation.rows else None,
        processing_class=tokenizer,
        peft_config=new_adapter(config),
    )
