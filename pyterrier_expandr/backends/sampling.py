"""Seeded nucleus sampling in which each row of a batch has its own settings and its own noise."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LogitsProcessor

from .base import Sampling


class NucleusByRow(LogitsProcessor):
    """Leaves one token per row: drawn by temperature and top_p with the row's own noise.

    For `generate(do_sample=False)`, whose argmax then picks that token. A row's noise is one uniform number for each
    step from a generator seeded for that row alone, so neighbours in the batch have no influence. It is turned into a
    token by the inverse of the cumulative distribution in order of token ids: sorting by probability would let a rounding
    difference between two near-equal tokens shift all that follow, while here it moves a boundary by that difference.

    Args:
        samplings: settings of each row.
        seeds: seed of each row, 63 bits.
        prompt_length: tokens before the first one to draw.
        device: where the scores are.
    """

    def __init__(self, samplings: list[Sampling], seeds: list[int], prompt_length: int, device: torch.device) -> None:
        steps = max(s.max_new_tokens for s in samplings)
        noise = [np.random.Generator(np.random.Philox(seed)).random(steps) for seed in seeds]
        self.noise = torch.tensor(np.stack(noise), device=device if device.type != "mps" else "cpu")
        self.temperature = torch.tensor([s.temperature for s in samplings], device=device)[:, None]
        self.top_p = torch.tensor([s.top_p for s in samplings], device=device)[:, None]
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (rows, vocabulary): 0 at the drawn token, minus infinity elsewhere."""
        step = input_ids.shape[1] - self.prompt_length
        greedy = scores.argmax(-1)
        heated = scores.float() / self.temperature.clamp(min=1e-6)
        probabilities = nucleus(heated.softmax(-1), self.top_p)
        cumulative = probabilities.double().cumsum(-1)
        target = self.noise[:, step : step + 1] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, target, right=True).clamp(max=scores.shape[-1] - 1).squeeze(-1)
        token = torch.where(self.temperature.squeeze(-1) > 0, drawn, greedy)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter_(1, token[:, None], 0.0)


def nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """`probabilities` (rows, vocabulary) with 0 outside the smallest set of most probable tokens that reaches `top_p`.

    Example:
        >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.7]]))
        tensor([[0.5000, 0.3000, 0.0000]])
    """
    ordered = probabilities.sort(-1, descending=True).values
    before = ordered.double().cumsum(-1) - ordered
    last = (before < top_p).sum(-1, keepdim=True) - 1
    threshold = ordered.gather(-1, last.clamp(min=0))
    return torch.where(probabilities >= threshold, probabilities, 0.0)
