"""What a training method must provide: data that fit the model, and one of TRL's trainers for them."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, Protocol

from ...expansion.backends.huggingface import HuggingFaceBackend
from ..preferences.pair_files import read_pairs
from .config import ExpanderTrainingConfig
from .pair_tokens import TokenizedPairs, tokenize_pairs


class TrainingMethod(Protocol):
    """One way to train: data and rewards in, a trainer out; `train_expander` does the rest."""

    #: what progress bars call it
    name: str
    #: rows read from the data
    read: int

    def identity(self) -> dict[str, Any]:
        """What determines the adapter besides the configuration and the base, as JSON values."""

    def tokens(self, backend: HuggingFaceBackend) -> TokenizedPairs:
        """The rows that fit the model, as it reads them."""

    def trainer(
        self, backend: HuggingFaceBackend, train: TokenizedPairs, evaluation: TokenizedPairs, folder: Path
    ) -> Any:
        """A trainer for a new adapter, with checkpoints in `folder`."""


def method_of(config: ExpanderTrainingConfig) -> TrainingMethod:
    """The method that the configuration names, with its data read and checked; the LLM is not opened.

    Raises:
        ValueError: malformed data, or rewards that do not suit them.
    """
    if config.online is None:
        return FromPairs(config)
    from .online.method import FromReward

    return FromReward(config)


class FromPairs:
    """DPO, or supervised training on the chosen texts alone, on given pairs."""

    def __init__(self, config: ExpanderTrainingConfig) -> None:
        self.config, self.pairs = config, list(read_pairs(config.pairs))
        self.name = "imitation" if config.method == "sft-best" else "DPO"
        self.read = len(self.pairs)

    def identity(self) -> dict[str, Any]:
        """A hash of the pairs."""
        content = [[row["prompt"], row["chosen"], row["rejected"]] for row in self.pairs]
        return {"pairs_sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}

    def tokens(self, backend: HuggingFaceBackend) -> TokenizedPairs:
        """The pairs as tokens, with a warning that counts those dropped and those cut."""
        config = self.config
        options: dict[str, Any] = {"max_length": config.max_length, "overlong": config.overlong}
        found = tokenize_pairs(self.pairs, backend, **options, source=config.pairs)
        counts = [
            (found.dropped["too long"], f"exceed max_length={config.max_length} and were dropped"),
            (found.cut, f"were cut to max_length={config.max_length}"),
            (found.dropped["equal texts"], "have equal texts and were dropped"),
        ]
        if said := [f"{count} {what}" for count, what in counts if count]:
            warnings.warn(f"of {self.read} preference pairs {'; '.join(said)}", stacklevel=4)
        return found

    def trainer(
        self, backend: HuggingFaceBackend, train: TokenizedPairs, evaluation: TokenizedPairs, folder: Path
    ) -> Any:
        """TRL's `DPOTrainer` or `SFTTrainer`."""
        if self.config.method == "sft-best":
            from .sft import sft_trainer

            return sft_trainer(self.config, backend.tokenizer, train, evaluation, folder)
        from .dpo import dpo_trainer

        return dpo_trainer(self.config, backend.tokenizer, train, evaluation, folder)
