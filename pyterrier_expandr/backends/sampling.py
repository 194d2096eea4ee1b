"""Seeded nucleus sampling in which each row of a batch has its own settings and its own noise."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from .base import Sampling


class NucleusByRow(LogitsProcessor):
    """Leaves one token per row: drawn by temperature and top_p with the row's own noise (the Gumbel-max trick).

    For `generate(do_sample=False)`, whose argmax then picks that token. The noise of a token depends on the row's seed,
    the step and the token's id alone, so neighbours in the batch have no influence. Gumbel-max and not the inverse of
    the cumulative distribution: there a rounding difference in any probability moves the borders of all tokens that
    follow, here it matters only if the two best tokens are closer than the difference.

    Args:
        samplings: settings of each row.
        seeds: seed of each row, 63 bits.
        prompt_length: tokens before the first one to draw.
        device: where the scores are.
    """

    def __init__(self, samplings: list[Sampling], seeds: list[int], prompt_length: int, device: torch.device) -> None:
        self.seeds = torch.tensor(seeds, device=device)[:, None]
        self.temperature = torch.tensor([s.temperature for s in samplings], device=device)[:, None]
        self.top_p = torch.tensor([s.top_p for s in samplings], device=device)[:, None]
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary): 0 at the drawn token, minus infinity elsewhere."""
        greedy = scores.argmax(-1, keepdim=True)
        heated = scores.float() / self.temperature.clamp(min=1e-6)
        outside = nucleus(heated.softmax(-1), self.top_p) == 0
        noise = gumbel(self.seeds, input_ids.shape[1] - self.prompt_length, scores.shape[-1])
        drawn = (heated + noise).masked_fill(outside, -torch.inf).argmax(-1, keepdim=True)
        token = torch.where(self.temperature > 0, drawn, greedy)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


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


def gumbel(seeds: torch.Tensor, step: int, vocabulary: int) -> torch.Tensor:
    """Standard Gumbel noise (rows, vocabulary), float32, a pure function of seed (rows, 1), step and token id.

    The 64-bit mixer is splitmix64's: whole-number arithmetic, hence the same on every device, with no state to carry.
    """
    tokens = torch.arange(vocabulary, device=seeds.device)
    x = seeds + _signed(0x9E3779B97F4A7C15) * (step + 1) + _signed(0xD1342543DE82EF95) * (tokens + 1)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    uniform = (_shift(x ^ _shift(x, 31), 11).double() + 0.5) * 2.0**-53
    return (-(-uniform.log()).log()).float()


def _signed(constant: int) -> torch.Tensor:
    """A 64-bit constant as torch stores it, where products wrap around."""
    return torch.tensor(constant - (1 << 64) if constant >= 1 << 63 else constant)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A right shift that fills with zeros; torch's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
