"""The settings of a system, chosen on training queries: `tune`.

Every setting of a grid is scored on every query; cross-validation then decides whether passages are used at all, and
all queries together determine the parameter values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt

from ..encoding.fusion import check_fusion
from ..evaluation.cells import parse_measures
from ..evaluation.provenance import describe_pipeline
from ..expansion.lexical import Repeats
from .expandr import ExpandR
from .settings import HybridSettings, TunedSettings
from .trials import Setting, Trials

#: the settings of an untuned system
UNTUNED = {"fusion": 0.5, "repeats": HybridSettings.repeats, "weight": HybridSettings.weight}


@dataclass(frozen=True)
class Grid:
    """The values that `tune` tries, in all combinations.

    Args:
        n: numbers of passages; no passages at all is tried too.
        fusion: weights of the query's vector relative to its passages.
        repeats: how often the query is repeated before its passages for the lexical engine.
        weight: of the lexical list.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> len(list(Grid(n=(1, 2), fusion=(0.5, 1.0)).settings(lexical=False)))
        5
    """

    n: tuple[int, ...] = (1,)
    fusion: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    repeats: tuple[Repeats, ...] = (1, 3, 5, 10, 20, "mugi")
    weight: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def __post_init__(self) -> None:
        for n in self.n:
            TunedSettings(n)
        for fusion in self.fusion:
            check_fusion(fusion)
        for repeats, weight in product(self.repeats, self.weight):
            HybridSettings(weight=weight, repeats=repeats)

    def settings(self, *, lexical: bool) -> Iterator[Setting]:
        """All settings, those without passages first; settings that differ only in weight are adjacent."""
        repeats: tuple[Repeats | None, ...] = self.repeats if lexical else (None,)
        weights: tuple[float | None, ...] = self.weight if lexical else (None,)
        yield from (Setting(0, 1.0, repeats[0], weight) for weight in weights)
        numbers = sorted({n for n in self.n if n > 0})
        yield from (Setting(*each) for each in product(numbers, self.fusion, repeats, weights))


class Choice(NamedTuple):
    """The chosen row, the mean gain from passages on held-out queries, and its standard error."""

    chosen: int
    gain: float
    error: float


@dataclass(frozen=True)
class Tuning:
    """The result of `tune`: the chosen settings, and the table that explains them."""

    settings: TunedSettings
    table: pd.DataFrame
    choice: Choice


def tune(
    system: ExpandR,
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    grid: Grid | None = None,
    *,
    measure: str = "nDCG@10",
    folds: int = 5,
    seed: int = 42,
    source: dict[str, Any] | None = None,
    verbose: bool = False,
) -> Tuning:
    """The best settings for a system on training queries, which must not be used for any reported result.

    Every list is retrieved once and every text encoded once, whatever the size of the grid.

    Args:
        system: a system with an index and an expander; the method and depth of a hybrid are kept.
        topics: `[qid, query]`.
        qrels: `[qid, docno, label]`.
        grid: the values to try.
        measure: an ir-measures measure.
        folds: number of parts of the queries, each of which is held out once.
        seed: for the folds.
        source: further details of the queries for the settings file.
        verbose: show a progress bar.

    Raises:
        ValueError: the system has no index; there are fewer queries than folds, or none is judged; or passages are
            to be tried and there is no expander.

    Example:
        >>> tune(system, dataset.get_topics(), dataset.get_qrels()).settings.save("tuned.json")  # doctest: +SKIP
    """
    grid = grid or Grid()
    (parsed,) = parse_measures(measure)
    topics = topics[topics["qid"].isin(qrels["qid"])]
    if len(topics) < max(folds, 2) or folds < 2:
        raise ValueError(f"{folds} folds need as many judged queries, and there are {len(topics)}")
    system.pipeline()  # reports missing indexes before anything is written or encoded
    settings = list(grid.settings(lexical=system.hybrid is not None))
    trials = Trials(system, topics, qrels, parsed)
    trials.expand([setting.n for setting in settings])
    scored = trials.scores(settings)
    values = np.stack(list(pt.tqdm(scored, "Tuning", len(settings), unit="setting", disable=not verbose)))
    parts = np.random.default_rng(seed).permutation(len(topics)) % folds
    choice = choose(values, np.array([setting.n > 0 for setting in settings]), parts)
    table = _table(settings, values, parts, choice.chosen)
    said = {
        "measure": str(parsed),
        "queries": len(topics),
        "folds": folds,
        "seed": seed,
        "value": float(values[choice.chosen].mean()),
        "gain_by_passages": choice.gain,
        "standard_error": choice.error,
        "passages": None if system.expander is None else describe_pipeline(system.expander),
    }
    return Tuning(_tuned(settings[choice.chosen], system, {**(source or {}), **said}), table, choice)


def choose(values: np.ndarray, passages: np.ndarray, folds: np.ndarray) -> Choice:
    """The best setting; one with passages only if they help on held-out queries by more than a standard error.

    For each fold, the best setting with passages and the best without are chosen on the other folds and compared on
    this one, so that a large grid cannot win by chance alone. Ties go to the first setting.

    Args:
        values: (settings, queries).
        passages: (settings,), whether a setting uses them.
        folds: (queries,), the part that each query belongs to.

    Example:
        >>> alone, noise = np.array([0.5, 0.4, 0.6, 0.5]), np.array([0.9, 0.1, 0.6, 0.4])
        >>> choose(np.stack([alone, noise]), np.array([False, True]), np.array([0, 0, 1, 1])).chosen
        0
        >>> choose(np.stack([alone, alone + 0.1]), np.array([False, True]), np.array([0, 0, 1, 1])).chosen
        1
    """
    rows = np.arange(len(values))
    gain = np.zeros(values.shape[1])
    if passages.any() and not passages.all():
        gain = held_out(values, rows[passages], folds) - held_out(values, rows[~passages], folds)
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    allowed = rows[passages] if gain.mean() > error or passages.all() else rows[~passages]
    return Choice(int(allowed[values[allowed].mean(axis=1).argmax()]), float(gain.mean()), error)


def held_out(values: np.ndarray, rows: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(queries,): each query's value under the setting of `rows` that is best on the other folds.

    Example:
        >>> held_out(np.array([[1.0, 0.0], [0.0, 0.5]]), np.array([0, 1]), np.array([0, 1]))
        array([0., 0.])
    """
    found = np.empty(values.shape[1])
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = values[rows[values[rows][:, ~out].mean(axis=1).argmax()]][out]
    return found


def _table(settings: list[Setting], values: np.ndarray, folds: np.ndarray, chosen: int) -> pd.DataFrame:
    """The best setting of each kind, the untuned one, and the chosen one, with their means."""
    means = values.mean(axis=1)
    kinds: dict[str, list[int]] = {}
    for row, setting in enumerate(settings):
        kinds.setdefault(_kind(setting), []).append(row)
    rows = []
    for kind, mine in kinds.items():
        best = mine[int(means[mine].argmax())]
        rows.append((kind, *_shown(settings[best]), means[best], held_out(values, np.array(mine), folds).mean()))
    most = max(setting.n for setting in settings)
    for row, setting in enumerate(settings):
        if setting.n == most > 0 and all(getattr(setting, name) in (None, value) for name, value in UNTUNED.items()):
            rows.append(("untuned", *_shown(setting), means[row], means[row]))
    rows.append(("chosen", *_shown(settings[chosen]), means[chosen], np.nan))
    return pd.DataFrame(rows, columns=["system", *Setting._fields, "mean", "held out"])


def _shown(setting: Setting) -> tuple[Any, ...]:
    """The setting as a row of the table, with NaN for what has no effect, such as `repeats` without passages."""
    fusion = setting.fusion if setting.n and setting.weight != 1 else np.nan
    repeats = setting.repeats if setting.n and setting.weight not in (0, None) else np.nan
    return setting.n, fusion, repeats, np.nan if setting.weight is None else setting.weight


def _kind(setting: Setting) -> str:
    search = {None: "dense", 0.0: "dense", 1.0: "lexical"}.get(setting.weight, "hybrid")
    return f"{search}, passages" if setting.n else f"{search}, query alone"


def _tuned(setting: Setting, system: ExpandR, source: dict[str, Any]) -> TunedSettings:
    hybrid = None
    if system.hybrid is not None and setting.repeats is not None and setting.weight is not None:
        hybrid = HybridSettings(system.hybrid.method, setting.weight, setting.repeats, system.hybrid.depth)
    return TunedSettings(setting.n, setting.fusion, hybrid, source)


def numbers_of_passages(counts: Sequence[int]) -> tuple[int, ...]:
    """The numbers to try if queries have this many passages: 1, 2, 4 ... and the maximum.

    Example:
        >>> numbers_of_passages([5, 6, 6]), numbers_of_passages([0])
        ((1, 2, 4, 6), ())
    """
    most = max(counts, default=0)
    return tuple(sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | ({most} - {0})))
