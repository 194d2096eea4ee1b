"""Which queries expansion helps and which it hurts (Fig. 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .figures import HATCHES, PALETTE, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def per_query_change(
    per_query: pd.DataFrame,
    system: str,
    baseline: str,
    *,
    measure: str = "nDCG@10",
    topics: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Each query's score under a baseline and a system, sorted by gain: `[qid, baseline, system, change]`.

    Sorted from the largest gain to the largest loss: `.head()` has the queries that expansion helps most, `.tail()`
    those it hurts most. If the scores cover several collections, `collection` is the first column.

    Args:
        per_query: `[system, qid, measure, value]` (`Results.per_query`) or `[name, qid, measure, value]`
            (`pt.Experiment(..., perquery=True)`), optionally with `collection`.
        system: the name of the system with expansion.
        baseline: the name of the system without.
        measure: its name as it appears in the column.
        topics: `[qid, query]`; adds the column `query`.

    Raises:
        ValueError: an unknown system or measure, queries that only one of the two has, or a score that is NaN.

    Example:
        >>> scores = pd.DataFrame({"name": list("aabb"), "qid": list("1212"), "measure": "nDCG@10"})
        >>> scores["value"] = [1, 0, 0, 1]
        >>> per_query_change(scores, "b", "a").values.tolist()
        [['2', 0, 1, 1], ['1', 1, 0, -1]]
    """
    frame = per_query.rename(columns={"name": "system"}) if "system" not in per_query else per_query
    for column, value in (("system", system), ("system", baseline), ("measure", measure)):
        known = list(dict.fromkeys(map(str, frame[column])))
        if value not in known:
            raise ValueError(f"these scores have no {column} {value!r}: they have {known}")
    keys = ["collection", "qid"] if "collection" in frame else ["qid"]
    frame = frame[frame["measure"].astype(str) == measure]
    sides = [frame[frame["system"] == name].set_index(keys)["value"] for name in (baseline, system)]
    if unlike := len(sides[0].index.symmetric_difference(sides[1].index)):
        raise ValueError(
            f"{baseline!r} and {system!r} do not share {unlike} of their queries: evaluate both on the same queries"
        )
    if any(side.isna().any() for side in sides):
        raise ValueError(f"a score of {baseline!r} or {system!r} is NaN: evaluate it again, or drop the query")
    both = pd.concat(sides, axis=1, keys=["baseline", "system"])
    both = both.assign(change=both["system"] - both["baseline"]).reset_index()
    both = both.sort_values(["change", *keys], ascending=[False] + [True] * len(keys), ignore_index=True)
    if topics is None:
        return both
    texts = dict(zip(topics["qid"].astype(str), topics["query"], strict=True))
    return both.assign(query=[texts.get(str(qid), "") for qid in both["qid"]])


def change_plot(
    changes: pd.DataFrame,
    *,
    measure: str = "nDCG@10",
    system: str = "the system",
    baseline: str = "the baseline",
    path: str | Path | None = None,
) -> Figure:
    """Fig. 4: the change of every query, from the largest gain to the largest loss.

    Args:
        changes: what `per_query_change` returns.
        measure: the measure's name, for the axis.
        system: the system's name, for the axis.
        baseline: the baseline's name, for the axis.
        path: save the figure here, as .svg, .png or .pdf.

    Example:
        >>> change_plot(per_query_change(results.per_query, "ExpandR", "query alone"))  # doctest: +SKIP
    """
    values = changes["change"].to_numpy(dtype=float)
    edges = [place + 0.5 for place in range(len(values) + 1)]
    gain, loss = int((values > 0).sum()), int((values < 0).sum())
    equal = len(values) - gain - loss
    with drawing(path, figsize=(6.4, 3.6)) as (_, axis):
        gains = axis.stairs(values.clip(min=0), edges, fill=True, facecolor=PALETTE[0], edgecolor="black")
        losses = axis.stairs(values.clip(max=0), edges, fill=True, facecolor=PALETTE[1], edgecolor="black")
        losses.set_hatch(HATCHES[1])
        for patch in (gains, losses):
            patch.set_linewidth(0.4)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.axhline(values.mean(), color="black", linewidth=1.2, linestyle="--")
        axis.set_xlim(0.5, len(values) + 0.5)
        axis.set_xlabel("query, from the largest gain to the largest loss (rank)")
        axis.set_ylabel(f"change of {measure}\n({system} minus {baseline})")
        names = [f"{gain} gain", f"{loss} lose ({equal} equal)", f"mean {values.mean():+.3f}"]
        axis.figure.legend([gains, losses, axis.lines[-1]], names, loc="outside upper center", ncols=3)
    return axis.figure
