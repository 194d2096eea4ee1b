"""Seeded nucleus sampling in which each row of a batch has its own settings and its own noise."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from .base import Sampling

#: number of most probable tokens in which a row's nucleus is searched first
NEAR = 256


class NucleusByRow(LogitsProcessor):
    """Keeps one token per row, drawn by temperature and top_p with the row's own noise (the Gumbel-max trick).

    Meant for `generate(do_sample=False)`, whose argmax then picks that token. The noise of a token depends only on the
    row's seed, the step and the token's id, so other rows of the batch have no influence. Gumbel-max is used rather
    than inverting the cumulative distribution: with the latter, a rounding difference in any probability shifts the
    boundaries of all later tokens, whereas here it matters only if the two best tokens are closer than that difference.

    Args:
        samplings: the settings of each row.
        seeds: the seed of each row, 63 bits.
        prompt_length: number of tokens before the first one to draw.
        device: the device of the scores.
    """

    def __init__(self, samplings: list[Sampling], seeds: list[int], prompt_length: int, device: torch.device) -> None:
        self.seeds = torch.tensor(seeds, device=device)[:, None]
        self.temperature = torch.tensor([s.temperature for s in samplings], device=device)[:, None]
        self.top_p = torch.tensor([s.top_p for s in samplings], device=device)[:, None]
        self.prompt_length = prompt_length

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these rows of the batch."""
        self.seeds, self.temperature, self.top_p = self.seeds[rows], self.temperature[rows], self.top_p[rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary): 0 at the drawn token, minus infinity elsewhere."""
        step = input_ids.shape[1] - self.prompt_length
        heated = scores.float() / self.temperature.clamp(min=1e-6)
        probabilities = heated.softmax(-1)
        # Sorting a whole vocabulary and drawing noise for it costs more than a small model's own step.
        best, tokens = probabilities.topk(min(NEAR, scores.shape[-1]), dim=-1)
        inside = nucleus(best, self.top_p)
        drawn = _draw(heated.gather(-1, tokens), inside, tokens, self.seeds, step)
        # If the nucleus extends past the tokens examined, the row is drawn from the whole vocabulary.
        far = (inside[:, -1] > 0).nonzero()[:, 0]
        if len(far) and best.shape[-1] < scores.shape[-1]:
            everything = torch.arange(scores.shape[-1], device=scores.device)
            wide = nucleus(probabilities[far], self.top_p[far])
            drawn[far] = _draw(heated[far], wide, everything.expand(len(far), -1), self.seeds[far], step)
        token = torch.where(self.temperature > 0, drawn, scores.argmax(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _draw(
    heated: torch.Tensor, inside: torch.Tensor, tokens: torch.Tensor, seeds: torch.Tensor, step: int
) -> torch.Tensor:
    """One token id (rows, 1) among those of `tokens` (rows, k) whose probability `inside` is not 0."""
    noisy = heated + gumbel(seeds, step, tokens)
    return tokens.gather(-1, noisy.masked_fill(inside == 0, -torch.inf).argmax(-1, keepdim=True))


def nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """`probabilities` (rows, k) with 0 outside the smallest set of most probable tokens that reaches `top_p`.

    If not even all of them together reach `top_p`, none is set to 0.

    Example:
        >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.7]]))
        tensor([[0.5000, 0.3000, 0.0000]])
    """
    ordered = probabilities.sort(-1, descending=True).values
    before = ordered.double().cumsum(-1) - ordered
    last = (before < top_p).sum(-1, keepdim=True) - 1
    threshold = ordered.gather(-1, last.clamp(min=0))
    return torch.where(probabilities >= threshold, probabilities, 0.0)


def gumbel(seeds: torch.Tensor, step: int, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise (rows, k), float32, a pure function of seed (rows, 1), step and token id (k,) or (rows, k).

    The 64-bit mixer is that of splitmix64: integer arithmetic, hence identical on every device, with no state to carry.
    """
    x = seeds + _signed(0x9E3779B97F4A7C15) * (step + 1) + _signed(0xD1342543DE82EF95) * (tokens + 1)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    uniform = (_shift(x ^ _shift(x, 31), 11).double() + 0.5) * 2.0**-53
    return (-(-uniform.log()).log()).float()


def _signed(constant: int) -> torch.Tensor:
    """A 64-bit constant as torch stores it, where products wrap around."""
    return torch.tensor(constant - (1 << 64) if constant >= 1 << 63 else constant)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A right shift that fills with zeros; torch's own shift repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
