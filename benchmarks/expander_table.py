"""The rows of `benchmarks.expander_effect`: how they are made of what was measured, and how they are printed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.expander_attempts import METHODS, PLAIN, TAUGHT
from benchmarks.expander_laboratory import WAYS, WEIGHT, Passages
from benchmarks.markdown import table
from benchmarks.temperatures import interval
from pyterrier_expandr.evaluation.significance import permutation_test

#: what training is to reach on the test queries: this gain of nDCG@10 over the base, with this p, in so many seeds
TARGET, LEVEL, SEEDS = 0.03, 0.01, 3
#: the type, and what the processor has for it, in which the chosen attempt was tried with three seeds
PROOF = ("float32", "")


def equally_long(ones: Passages, others: Passages) -> tuple[list[list[str]], list[list[str]]]:
    """Both, with each passage and its counterpart cut to the words of the shorter; none is left without one."""
    left, right = [], []
    for one, other in zip(ones, others, strict=True):
        pairs = [(a.split(), b.split()) for a, b in itertools.zip_longest(one, other, fillvalue="")]
        for side, cut in enumerate((left, right)):
            cut.append([" ".join(pair[side][: min(map(len, pair))]) for pair in pairs if all(pair)])
    return left, right


def compared(values: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """By how much the mean of `values` is above that of `base`, both (n,), with interval and p."""
    found = values - base
    return {
        "gain": float(found.mean()),
        "interval": interval(found),
        "p": permutation_test(values, base).pvalue,
    }


class Outcome(NamedTuple):
    """What was measured, each (n,): `values` by measure; nDCG@10 where a passage and the base's are equally long."""

    values: dict[str, np.ndarray]
    equal: np.ndarray
    equal_base: np.ndarray


def mean_of(seeds: Sequence[Outcome]) -> Outcome:
    """The mean of several seeds, query by query."""
    values = {name: np.mean([one.values[name] for one in seeds], axis=0) for name in seeds[0].values}
    return Outcome(values, *(np.mean([one[part] for one in seeds], axis=0) for part in (1, 2)))


def row_of(found: Outcome, base: dict[str, np.ndarray], alone: dict[str, np.ndarray]) -> dict[str, Any]:
    """A line of the table: means, and differences with their p-values and intervals.

    Args:
        base: values of the model that it is compared with, by measure, each (n,).
        alone: those of the query without a passage.
    """
    values = found.values
    gain, to_alone = (compared(values["nDCG@10"], of["nDCG@10"]) for of in (base, alone))
    return {name: float(value.mean()) for name, value in values.items()} | {
        "gain": gain["gain"],
        "gain interval": gain["interval"],
        "gain p": gain["p"],
        "to query alone": to_alone["gain"],
        "to query alone p": to_alone["p"],
        "compared": {name: compared(values[name], base[name]) for name in ("R@100", "similarity")},
        "equal lengths": compared(found.equal, found.equal_base),
    }


def merged_rows(before: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of earlier runs and of this one; one with the same attempt, seed, queries and arithmetic is replaced.

    Its comparison with DPO stays if the new run did not have DPO, and found the same. Where DPO is replaced by another
    result, no earlier comparison of that arithmetic stays.
    """
    key = ("queries", "dtype", "processor", "attempt", "seed")

    def name(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(map(row.get, key))

    found = {name(row): row for row in before}
    replaced = {name(row) for row in new if row.get("nDCG@10") != found.get(name(row), row).get("nDCG@10")}
    without_dpo = {one[:3] for one in replaced if one[3].startswith(PLAIN)}
    for one, row in found.items():
        if one in replaced or one[:3] in without_dpo:
            found[one] = {field: value for field, value in row.items() if field != "over"}
    for row in new:
        kept = found.get(name(row), {})
        found[name(row)] = ({"over": kept["over"]} if "over" in kept else {}) | row
    return list(found.values())


def reached(rows: list[dict[str, Any]]) -> bool:
    """Whether an attempt reaches the target on the test queries in all its seeds, and is not below the query alone."""
    verdicts: dict[tuple[Any, ...], list[bool]] = {}
    taught = {f"{name}{way}" for name in TAUGHT for way in WAYS}  # on other test queries
    for row in rows:
        if row["queries"] == "SciFact" and "seed" in row and row["attempt"] not in taught:
            good = row["gain"] >= TARGET and row["gain p"] < LEVEL and row["to query alone"] >= 0
            verdicts.setdefault((row["attempt"], *arithmetic_of(row)), []).append(good)
    return any(all(seeds) and len(seeds) >= SEEDS for seeds in verdicts.values())


def arithmetic_of(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """The type in which a row was computed, and what the processor has for it."""
    return row.get("dtype"), row.get("processor")


def seed_of(row: dict[str, Any]) -> str:
    """A row's seed, or those whose mean it is."""
    return f"mean of {_seeds(row)}" if "seeds" in row else _seeds(row)


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row of the table as text, by column; what a row lacks is empty."""
    found = {"queries": row["queries"], "model": row.get("what", row["attempt"]), "seed": seed_of(row)}
    found["computed in"] = " ".join(filter(None, arithmetic_of(row)))
    tests = row.get("compared", {}) if row["attempt"] != "base" else {}
    for name in ("nDCG@10", "R@100", f"weight {WEIGHT}", "similarity"):
        title = f"{name}, p" if name in ("R@100", "similarity") else name
        found[title] = _tested(row.get(name), ".4f", tests.get(name, {}).get("p"))
    found["words"] = _tested(row.get("words"), ".1f")
    gain = equal = ""
    if "gain" in row and row["attempt"] != "base":
        low, high = row["gain interval"]
        gain = f"{row['gain']:+.4f} ({low:+.3f} - {high:+.3f}), {row['gain p']:.4f}"
        at_equal = row.get("equal lengths", {"gain": row.get("shortened"), "p": None})
        equal = _tested(at_equal["gain"], "+.4f", at_equal["p"])
    found |= {
        "gain (95 % interval), p": gain,
        "to query alone, p": _difference(row, "to query alone"),
        "equal lengths, p": equal,
    }
    found["accuracy, p"] = _tested(row.get("accuracy"), ".2f", row.get("accuracy p"))
    return found | {name: str(row.get("training", {}).get(name, "")) for name in ("tokens", "seconds")}


def markdown(rows: list[dict[str, Any]], without: Sequence[str] = ()) -> str:
    """The table of the documentation, or part of its columns."""
    return _table([{name: text for name, text in cells(row).items() if name not in without} for row in rows])


def methods(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each method that training has: the mean of its seeds, or the first where there is no mean.

    All are from one kind of processor. The reward is the nearness to the relevant document, with the paper's DPO both.
    """
    computed = _widest(rows)
    here = sorted((r for r in rows if arithmetic_of(r) == computed), key=lambda r: ("seeds" in r, -r.get("seed", 0)))
    of = {(row["queries"], row["attempt"]): row for row in here}
    lines = []
    for attempt, name in METHODS.items():
        places = ("SciFact", attempt), ("SciFact", f"{attempt}{WAYS[1]}"), ("Vaswani", attempt)
        row, cool, moved = (of.get(place, {}) for place in places)
        if not row:
            continue
        over = row["over"] if row.get("over", {}).get("attempt") == PLAIN else {}
        costs, trained = row.get("training", {}), attempt != "base"
        lines.append(
            {
                "method": name,
                "seeds": _seeds(row),
                "nDCG@10": f"{row['nDCG@10']:.4f}",
                "gain, p": _difference(row) if trained else "",
                "to query alone, p": _difference(row, "to query alone"),
                f"over {METHODS[PLAIN]}, p": _tested(over.get("gain"), "+.4f", over.get("p")),
                "nDCG@10 at 0.6": _tested(cool.get("nDCG@10"), ".4f") + _other_seeds(cool, row),
                "gain at 0.6, p": _difference(cool) if trained else "",
                "repeats the query": f"{row['as query']:.0%}" if "as query" in row else "",
                "gain on Vaswani, p": _difference(moved) + _other_seeds(moved, row) if trained else "",
                "tokens written": f"{costs['tokens']:,}" if "tokens" in costs else "",
                "minutes": f"{costs['seconds'] / 60:.0f}" if "seconds" in costs else "",
            }
        )
    return _table(lines)


def _widest(rows: Sequence[dict[str, Any]]) -> tuple[str | None, str | None]:
    """The arithmetic in which most methods were tried."""
    tried = [(arithmetic_of(r), r["attempt"]) for r in rows if r["queries"] == "SciFact" and r["attempt"] in METHODS]
    return Counter(computed for computed, _ in {*tried}).most_common(1)[0][0]


def _seeds(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row.get("seeds", [row.get("seed", "")])))


def _other_seeds(row: dict[str, Any], of: dict[str, Any]) -> str:
    """What to add to a figure that is of other seeds than those of the line in which it stands."""
    return f" (seed {_seeds(row)})" if row and _seeds(row) != _seeds(of) else ""


def _table(lines: Sequence[dict[str, str]]) -> str:
    """Lines with the same columns as a table."""
    return table(list(lines[0]), [list(line.values()) for line in lines])


def _difference(row: dict[str, Any], name: str = "gain") -> str:
    """A difference of a row with its p; empty where it has none."""
    return _tested(row.get(name), "+.4f", row.get(f"{name} p"))


def _tested(value: float | None, form: str, p: float | None = None) -> str:
    """A figure, with the p of its test where there is one; empty for None."""
    return "" if value is None else f"{value:{form}}" + ("" if p is None else f", {p:.4f}")
