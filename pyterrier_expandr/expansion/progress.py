"""What a run of an LLM tells: a line before it, a bar that moves by the text, and a line about tokens after it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyterrier as pt

from .backends.base import Backend, Generation

logger = logging.getLogger(__name__)


class GenerationProgress:
    """The bar of one run, and the tokens that its texts took. See `generation_progress`, which makes it."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._start = time.perf_counter()
        self.texts = self.counted = self.read = self.written = 0

    def add(self, generations: Sequence[Generation]) -> None:
        """Move the bar by texts that have just been written, and show how many tokens are written each second."""
        for tokens in (generation.tokens for generation in generations):
            if tokens is not None:
                self.counted, self.read, self.written = (
                    self.counted + 1,
                    self.read + tokens[0],
                    self.written + tokens[1],
                )
        self.texts += len(generations)
        if self.counted:
            self._bar.set_postfix_str(f"{self.written / self.seconds:,.0f} tokens/s", refresh=False)
        self._bar.update(len(generations))

    def expect(self, texts: int) -> None:
        """There are so many texts more to write, or fewer if the number is negative."""
        if self._bar.total is not None:
            self._bar.total += texts

    @property
    def seconds(self) -> float:
        """Time since the start of the run."""
        return max(time.perf_counter() - self._start, 1e-9)

    def summary(self, prices: tuple[float, float] | None = None) -> str:
        """How many texts were written, from how many tokens, how fast, and what they cost at `prices`.

        Args:
            prices: of a million tokens read, and of a million tokens written.
        """
        said = f"{self.texts:,} texts written in {_duration(self.seconds)}"
        if not self.counted:
            return f"{said}; the backend does not count tokens"
        of = "" if self.counted == self.texts else f" (counted for {self.counted:,} texts)"
        rate = f"{self.written / self.seconds:,.0f} tokens/s"
        said = f"{said}: {self.read:,} tokens in, {self.written:,} tokens out{of}, {rate}"
        if prices is None:
            return said
        return f"{said}, cost {(self.read * prices[0] + self.written * prices[1]) / 1e6:,.4f} at the given prices"


@contextmanager
def generation_progress(
    desc: str, backend: Backend, *, texts: int | None, cached: int | None, tokens: int, verbose: bool
) -> Iterator[GenerationProgress]:
    """A run of `backend` that tells how long it will be, how far it is, and what it took.

    The lines appear beside the bar, or, if `verbose` is False, in the log. A run that is known to
    have nothing to write tells nothing.

    Args:
        desc: what is written, as the label of the bar.
        backend: the backend, whose `prices` give the cost.
        texts: number of texts to write; None if it is unknown, and then there is no line before the run.
        cached: number of texts that need not be written; None if it shows only on the way. `texts` and `tokens` count
            those too then, and `expect` takes them off.
        tokens: number of tokens that are written at most.
        verbose: show the bar.

    Example:
        >>> from pyterrier_expandr import OpenAIBackend
        >>> backend = OpenAIBackend("m", base_url="http://localhost:8000/v1", prices=(0.5, 1.5))
        >>> run = dict(texts=1, cached=2, tokens=64, verbose=False)
        >>> with generation_progress("Generating", backend, **run) as told:
        ...     told.add([Generation("Air scatters light.", tokens=(20, 6))])
        >>> told.read, told.written
        (20, 6)
    """

    def say(line: str) -> None:
        if verbose:
            print(f"{desc}: {line}", file=sys.stderr)
        else:
            logger.info("%s: %s", desc, line)

    if texts:
        known = "" if cached is None else f", {cached:,} of them cached"
        less = ", less what is cached" if cached is None else ""
        say(f"{texts + (cached or 0):,} texts requested{known}; at most {tokens:,} tokens to write{less}")
    with pt.tqdm(total=texts, desc=desc, unit="text", disable=not verbose or texts == 0) as bar:
        told = GenerationProgress(bar)
        yield told
    if told.texts:
        say(told.summary(backend.prices))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"
