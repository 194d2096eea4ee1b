"""Progress of a transformers Trainer as a PyTerrier progress bar."""

from __future__ import annotations

from typing import Any

import pyterrier as pt
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressBar(TrainerCallback):
    """A `pt.tqdm` bar over the steps, with the latest loss; for a Trainer whose own bar is off (`disable_tqdm=True`).

    Example:
        >>> ProgressBar("Training").desc
        'Training'
    """

    def __init__(self, desc: str) -> None:
        self.desc = desc
        self._bar: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar, at the current step if the run was resumed."""
        done, total = state.global_step, state.max_steps
        self._bar = pt.tqdm(total=total, initial=done, desc=self.desc, unit="step", disable=done >= total)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance by one step."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the loss."""
        if logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self._bar.close()
