"""A report on preference data: number of pairs, reasons for dropping, winning temperatures, lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.extras import needed_for
from .choice import REASONS, Decision, PreferenceSettings, pairs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's blue, orange, green, vermilion, purple and grey: distinct to colour-blind readers and in print
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666")


@dataclass
class PairReport:
    """Counts over a stream of decisions, computed in constant memory.

    `rewards` counts the (rounded) rewards of each temperature's candidates, `chosen` and `rejected` count how often a
    temperature won or lost, and `words` counts the lengths in words of chosen and rejected texts.

    Example:
        >>> report = PairReport()
        >>> report.queries, report.pairs
        (0, 0)
    """

    queries: int = 0
    pairs: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    rewards: dict[float, Counter[float]] = field(default_factory=dict)
    chosen: Counter[float] = field(default_factory=Counter)
    rejected: Counter[float] = field(default_factory=Counter)
    words: dict[str, Counter[int]] = field(default_factory=lambda: {"chosen": Counter(), "rejected": Counter()})

    @classmethod
    def of(
        cls, decisions: Iterable[Decision], settings: PreferenceSettings, skipped: Counter[str] | None = None
    ) -> PairReport:
        """The report on a stream of decisions that were made with these settings."""
        report = cls(skipped=skipped or Counter())
        for decision in decisions:
            report.add(decision, pairs_of(decision, settings))
        return report

    def add(self, decision: Decision, pairs: Sequence[Decision]) -> None:
        """Count one query and its pairs."""
        self.queries += 1
        temperatures = decision.of.temperatures
        for temperature, reward in zip(temperatures, decision.rewards, strict=False):
            self.rewards.setdefault(temperature, Counter())[round(reward, 3)] += 1
        if decision.dropped is not None:
            self.dropped[str(decision.dropped)] += 1
        self.pairs += len(pairs)
        for pair in pairs:
            for side, place, won in (("chosen", pair.chosen, self.chosen), ("rejected", pair.rejected, self.rejected)):
                if place is not None:
                    self.words[side][len(pair.of.candidates[place].split())] += 1
                    if temperatures:
                        won[temperatures[place]] += 1

    def as_json(self) -> dict[str, Any]:
        """All counts as JSON values."""
        return {
            "queries": self.queries,
            "pairs": self.pairs,
            "dropped": {reason: self.dropped[reason] for reason in REASONS},
            "skipped": dict(self.skipped),
            "temperatures": {
                str(temperature): {
                    "chosen": self.chosen[temperature],
                    "rejected": self.rejected[temperature],
                    "mean_reward": _mean(self.rewards[temperature]),
                }
                for temperature in sorted(self.rewards)
            },
            "mean_words": {side: _mean(counts) for side, counts in self.words.items()},
        }

    def __str__(self) -> str:
        lines = [f"{self.queries} queries, {self.pairs} pairs"]
        lines += [f"  dropped, {reason}: {self.dropped[reason]}" for reason in REASONS if self.dropped[reason]]
        lines += [f"  not read, {reason}: {count}" for reason, count in sorted(self.skipped.items())]
        if self.rewards:
            lines.append("  temperature  chosen  rejected  mean reward")
        for temperature, counts in sorted(self.rewards.items()):
            chosen, rejected = self.chosen[temperature], self.rejected[temperature]
            lines.append(f"  {temperature:>11}  {chosen:>6}  {rejected:>8}  {_mean(counts):>11.3f}")
        if self.pairs:
            means = {side: _mean(counts) for side, counts in self.words.items()}
            lines.append(f"  mean length: chosen {means['chosen']:.1f} words, rejected {means['rejected']:.1f} words")
        return "\n".join(lines)

    def picture(self, path: str | Path | None = None) -> Figure:
        """Three panels: outcomes of the queries, rewards by temperature, lengths of chosen and rejected.

        Args:
            path: where to save it (.png, .svg or .pdf); None does not save it.

        Raises:
            ImportError: matplotlib is missing (extra: viz).
        """
        with needed_for("the picture", "viz"):
            from matplotlib.figure import Figure
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        outcome, rewards, lengths = figure.subplots(1, 3)
        self._draw_outcome(outcome)
        self._draw_rewards(rewards)
        self._draw_lengths(lengths)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _draw_outcome(self, axes: Any) -> None:
        names = ["pair", *(reason for reason in REASONS if self.dropped[reason])]
        values = [self.queries - self.dropped.total(), *(self.dropped[name] for name in names[1:])]
        bars = axes.barh(names, values, color=[COLOURS[0]] + [COLOURS[5]] * (len(names) - 1))
        axes.bar_label(bars, padding=2)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set(title="What became of the queries", xlabel="queries")

    def _draw_rewards(self, axes: Any) -> None:
        axes.set(title="Rewards by temperature", xlabel="reward", ylabel="share of its candidates")
        if not self.rewards:
            return
        values = [value for counts in self.rewards.values() for value in counts]
        edges = np.linspace(min(values), max(values) + 1e-9, 21)
        styles = ("-", "--", "-.", ":")
        for place, (temperature, counts) in enumerate(sorted(self.rewards.items())):
            heights, _ = np.histogram(list(counts), edges, weights=list(counts.values()))
            wins = f"T={temperature}: chosen {self.chosen[temperature]}, rejected {self.rejected[temperature]}"
            axes.stairs(
                heights / max(heights.sum(), 1),
                edges,
                label=wins,
                color=COLOURS[place % len(COLOURS)],
                linestyle=styles[place % len(styles)],
                linewidth=1.8,
            )
        axes.legend(fontsize=8)

    def _draw_lengths(self, axes: Any) -> None:
        axes.set(title="Length of chosen and rejected", xlabel="words", ylabel="pairs")
        longest = max((length for counts in self.words.values() for length in counts), default=1)
        edges = np.linspace(0, longest + 1, 25)
        for (side, counts), colour, hatch in zip(
            self.words.items(), (COLOURS[0], COLOURS[3]), ("//", "\\\\"), strict=True
        ):
            heights, _ = np.histogram(list(counts), edges, weights=list(counts.values()))
            label = f"{side}, mean {_mean(counts):.1f}"
            axes.stairs(heights, edges, fill=True, alpha=0.45, color=colour, hatch=hatch, label=label)
        axes.legend(fontsize=8)


def _mean(counts: Counter[Any]) -> float:
    return sum(value * count for value, count in counts.items()) / total if (total := sum(counts.values())) else 0.0
