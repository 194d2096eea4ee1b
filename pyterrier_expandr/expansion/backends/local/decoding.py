"""Decoding a batch whose rows end at different steps, without decoding the ended ones to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..sampling import NucleusByRow

#: a batch shrinks once one in so many of its rows has ended; a new round costs 5 ms beside its steps
ONE_IN = 8


class EnoughEnded(StoppingCriteria):
    """Stops all rows once one in `ONE_IN` of them has ended.

    Args:
        ends: the tokens that end a row.
        width: number of tokens before the first new one; a prompt may hold end tokens as well.
    """

    def __init__(self, ends: torch.Tensor, width: int) -> None:
        self.ends, self.width = ends, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether each row stops (rows,)."""
        ended = torch.isin(input_ids[:, self.width :], self.ends).any(-1)
        return (ONE_IN * ended.sum() >= len(ended)).expand(len(ended))


def decode(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, cache: Any, sampler: NucleusByRow, new_tokens: int
) -> torch.Tensor:
    """New tokens (rows, new_tokens), int64: each row's own up to its first end token, anything after it.

    With a cache the batch shrinks: each time one in `ONE_IN` of its rows has ended, the others go on without them. Rows
    that end are not replaced by new prompts: these would have to be padded to the length that the others have reached.

    Args:
        model: with the generation configuration of `HuggingFaceBackend`.
        ids: prompts (rows, width), padded on the left.
        mask: 1 at a prompt's tokens, 0 at padding (rows, width).
        cache: what `prefill` returned for these rows; None decodes all of them until the last has ended.
        sampler: draws the tokens; rows that have ended are taken from it as well.
        new_tokens: number of tokens after which a row is cut.
    """
    config, width = model.generation_config, ids.shape[1]
    ends = torch.tensor(config.eos_token_id, device=ids.device)
    written = ids.new_full((len(ids), new_tokens), config.pad_token_id)
    live = torch.arange(len(ids), device=ids.device)
    while len(live):
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.nn.functional.pad(mask, (0, ids.shape[1] - width), value=1),
            past_key_values=cache,
            max_new_tokens=width + new_tokens - ids.shape[1],
            logits_processor=[sampler],
            stopping_criteria=[] if cache is None else [EnoughEnded(ends, width)],
            return_dict_in_generate=True,
        )
        new = output.sequences[:, width:]
        written[live, : new.shape[1]] = new
        if cache is None or new.shape[1] == new_tokens:
            break
        kept = (~torch.isin(new, ends).any(-1)).nonzero()[:, 0]
        live, ids, mask, cache = live[kept], output.sequences[kept], mask[kept], output.past_key_values
        cache.batch_select_indices(kept)
        sampler.select(kept)
    return written
