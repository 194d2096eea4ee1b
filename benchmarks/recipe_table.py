"""The rows of Table 3 that the run of a recipe gave, and how long its stages took.

    python -m benchmarks.recipe_table RUN [--json docs/results/recipe_smollm2.json]

RUN is the folder of a finished `expandr train run` on one collection, on this machine; of several experiments in it the
last one counts. Each row is compared with the query alone and, with as many passages, with the row whose LLM is not
trained; p is that of a paired permutation test over the test queries. Seconds are those of a stage's last start: what a
stage did before it was interrupted does not count.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.markdown import table
from benchmarks.speed import machine
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.training.stage import RECORD

#: the rows that others are compared with
QUERY, UNTRAINED_LLM = "Query", "w/o LLM Training"
MEASURES = ("nDCG@10", "R@100")


def rows_of(results: Results) -> list[dict[str, Any]]:
    """A row for each system: its measures, and nDCG@10 compared with the query alone and with an untrained LLM."""
    means = results.means().pivot(index="system", columns="measure", values="value")
    baselines = [name for name in results.systems if name.partition(", n=")[0] in (QUERY, UNTRAINED_LLM)]
    compared = {name: results.compare(name).set_index(["system", "measure"]) for name in baselines}
    rows = []
    for system in results.systems:
        row: dict[str, Any] = {"system": system} | {name: float(means.loc[system, name]) for name in MEASURES}
        untrained = UNTRAINED_LLM + system[len(system.partition(", n=")[0]) :]
        for baseline in (QUERY, untrained):
            if system != baseline in compared:
                found = compared[baseline].loc[(system, "nDCG@10")]
                row[baseline.partition(",")[0]] = {"difference": found["difference"], "p": found["p_value"]}
        rows.append(row)
    return rows


def seconds_of(experiment: Path) -> dict[str, dict[str, float]]:
    """Stage -> how many of its kind that experiment is built on, and their seconds together, the longest first."""
    records: dict[str, dict[str, Any]] = {}
    todo = [experiment.name]
    while todo:
        name = todo.pop()
        if name not in records:
            records[name] = json.loads((experiment.with_name(name) / RECORD).read_text())
            todo += records[name]["inputs"]
    frame = pd.DataFrame(records.values())[["stage", "seconds"]]
    frame["stage"] = frame["stage"].map(lambda name: re.sub(r"^(retriever)-(ft|expandr)$", r"\1", name))
    summed = frame.groupby("stage")["seconds"].agg(["size", "sum"]).sort_values("sum", ascending=False)
    return {name: {"stages": int(size), "seconds": round(total, 1)} for name, size, total in summed.itertuples()}


def markdown(found: dict[str, Any]) -> str:
    """The table and the times, as a page shows them."""
    lines = []
    for row in found["rows"]:
        compared = [row.get(name) for name in (QUERY, UNTRAINED_LLM)]
        cells = [f"{row[name]:.4f}" for name in MEASURES]
        cells += ["" if one is None else f"{one['difference']:+.4f}, {one['p']:.4f}" for one in compared]
        lines.append([row["system"], *cells])
    times = [
        f"{name} {one['seconds'] / 60:.0f}" + (f" ({one['stages']} of them)" if one["stages"] > 1 else "")
        for name, one in found["stages"].items()
        if one["seconds"] >= 30
    ]
    on = f"{found['machine']['cpus']} cores, {found['machine']['processor']}"
    shown = table(["system", *MEASURES, f"to {QUERY}, p", f"to {UNTRAINED_LLM}, p"], lines)
    return f"{shown}\n\n(Minutes of the stages: {', '.join(times)}; {on}.)"


def main() -> int:
    """Read, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the stages")
    parser.add_argument("--json", type=Path, help="write what was found here")
    given = parser.parse_args()
    finished = sorted(given.run.glob(f"experiment-*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    if not finished:
        parser.error(f"{given.run} has no finished experiment: finish `expandr train run` first")
    experiment = finished[-1].parent
    results = Results.load(experiment / "results")
    if len(results.collections) != 1 or set(MEASURES) - set(results.measures):
        parser.error(f"the experiment must have one collection and the measures {MEASURES}")
    found = {"rows": rows_of(results), "stages": seconds_of(experiment), "machine": machine()}
    if given.json:
        given.json.write_text(json.dumps(found | {"versions": versions()}, indent=1) + "\n")
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
