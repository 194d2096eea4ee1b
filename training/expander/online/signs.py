"""What tells of a collapse: figures of texts, the rows of a run's evaluations, and the rule that reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

#: the file with one row for each evaluation
EVALUATIONS = "evaluations.json"

WORD = re.compile(r"\w+")
#: how far the gain in the measure may fall below that before training while the reward rises: by less than this, or by
#: less than so many standard errors of the difference
DROP, ERRORS = 0.02, 2
#: the share of texts that are empty or the query again at which a model is taken to have collapsed
WORTHLESS = 0.5


@dataclass(frozen=True)
class Written:
    """What a model wrote for a query: the passage that retrieval would use ("" if none), and whether it was cut off."""

    passage: str
    truncated: bool


def text_figures(texts: Sequence[Written], queries: Sequence[str]) -> dict[str, float]:
    """Figures of one text for each query: `distinct_2`, `words`, and the shares `truncated`, `empty`, `as_query`.

    `as_query` is the share of passages without a word that their query lacks.

    Example:
        >>> text_figures([Written("the sky the sky", False), Written("", True)], ["the sky", "iron"])["distinct_2"]
        0.6666666666666666
    """
    words = [text.passage.split() for text in texts]
    return {
        "distinct_2": distinct_2([text.passage for text in texts]),
        "words": float(np.mean([len(row) for row in words])),
        "truncated": float(np.mean([text.truncated for text in texts])),
        "empty": float(np.mean([not row for row in words])),
        "as_query": float(np.mean([repeats(text.passage, query) for text, query in zip(texts, queries, strict=True)])),
    }


def distinct_2(texts: Sequence[str]) -> float:
    """The share of distinct ones among all pairs of neighbouring words within `texts`; 0 without any.

    Example:
        >>> distinct_2(["a b a b", "a b"])
        0.5
    """
    pairs = [pair for words in map(str.split, texts) for pair in pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def evaluation_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """`step` and what was measured, for each evaluation in a Trainer's history.

    A resumed run evaluates its first state once more; the first row of a step counts.

    Example:
        >>> evaluation_rows([{"step": 2, "loss": 1.0}, {"step": 2, "epoch": 0.5, "eval_reward": 0.25}])
        [{'step': 2, 'reward': 0.25}]
    """
    rows: dict[int, dict[str, float]] = {}
    for entry in history:
        if "eval_reward" in entry:
            values = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
            rows.setdefault(int(entry["step"]), {"step": int(entry["step"])} | values)
    return list(rows.values())


def collapse(rows: Sequence[Mapping[str, float]]) -> str | None:
    """Why the last of these evaluations shows a collapse, compared with the first; None if it does not.

    Three signs: most texts are empty or the query again; the reward rose while the gain in the measure fell by more
    than `DROP` and more than `ERRORS` standard errors; half of the variety of neighbouring words is lost.

    Example:
        >>> before = {"reward": 0.3, "distinct_2": 0.8, "empty": 0.0, "as_query": 0.0}
        >>> collapse([before, before | {"reward": 0.6, "as_query": 0.9}])
        '90 % of the texts for held-out queries are empty or repeat the query'
    """
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    share = last["empty"] + last["as_query"]
    if share >= WORTHLESS and share > first["empty"] + first["as_query"]:
        return f"{share:.0%}".replace("%", " %") + " of the texts for held-out queries are empty or repeat the query"
    fall = first.get("measure", 0.0) - last.get("measure", 0.0)
    if last["reward"] > first["reward"] and fall > max(DROP, ERRORS * last.get("measure_error", 0.0)):
        return (
            f"the held-out reward rose from {first['reward']:.3f} to {last['reward']:.3f}, but the gain of the search "
            f"fell from {first['measure']:.3f} to {last['measure']:.3f}"
        )
    if last["distinct_2"] < first["distinct_2"] / 2:
        return (
            f"the texts repeat themselves: of neighbouring words {last['distinct_2']:.2f} are distinct, before "
            f"training {first['distinct_2']:.2f}"
        )
    return None


def gained(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether training brought anything on what was held out: a higher reward, or without rewards a lower loss.

    Example:
        >>> gained({"loss": 0.7}, {"loss": 0.6}), gained({"reward": 0.4}, {"reward": 0.3})
        (True, False)
    """
    return bool(after["reward"] > before["reward"] if "reward" in after else after["loss"] < before["loss"])


def repeats(passage: str, query: str) -> bool:
    """Whether a passage has words, and none that the query lacks.

    Example:
        >>> repeats("The sky, the sky!", "why is the sky blue"), repeats("Air scatters.", "why is the sky blue")
        (True, False)
    """
    words = set(WORD.findall(passage.casefold()))
    return bool(words) and words <= set(WORD.findall(query.casefold()))
