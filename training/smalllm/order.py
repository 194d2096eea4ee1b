"""The order of the rows in an epoch that is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...common.files import replacing


class SameOrder(TrainerCallback):
    """Lets a resumed run draw the order of an epoch's rows as the interrupted one did.

    Rows grouped by length are ordered by torch's global generator. The Trainer restores that generator only after it
    has drawn the order, so its state at the beginning of each epoch is kept in the folder of the checkpoints.

    Example:
        >>> SameOrder().on_epoch_begin.__name__
        'on_epoch_begin'
    """

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the generator's state, or restore the one that was kept for this epoch."""
        file = Path(str(args.output_dir)) / f"order-{int(state.epoch or 0)}.pt"
        if file.is_file():
            torch.set_rng_state(torch.load(file, weights_only=True))
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            torch.save(torch.get_rng_state(), part)
