"""ExpandR whole on SciFact without a model hub: the recipe scifact-small.yaml, and what DPO did to its language model.

    EXPANDR_DATA=FOLDER python -m benchmarks.scifact_small --folder WORK [--out docs/results]

Runs the recipe in WORK (about an hour on 4 CPU cores; what is finished there is not done again), then
`benchmarks.dpo_effect` on its language model and its pairs with three seeds. `--out` gets scifact_small.json and a
picture of the passages' lengths; what is printed stands in docs/expander_training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import dpo_effect
from benchmarks.dpo_effect import RECIPE
from benchmarks.report import sign
from benchmarks.scifact import with_significance
from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.analysis import expansion_lengths, lengths_plot
from pyterrier_expandr.result_store import versions
from pyterrier_expandr.results import Results
from pyterrier_expandr.training.recipe import SYSTEMS, read_recipe
from pyterrier_expandr.training.recipe_stages import RecipeStages
from pyterrier_expandr.training.stages import build, in_order

BASELINE = "Query"

#: columns of the second table, and how they are written
EFFECT = {
    "similarity base": ".4f",
    "similarity trained": ".4f",
    "gain": "+.4f",
    "gain p": ".4f",
    "noise": "+.4f",
    "noise p": ".4f",
    "rank trained": ".2f",
    "rank p": ".4f",
}


def scores(results: Results) -> list[dict[str, Any]]:
    """The rows of Table 3: each measure, its difference to the query alone, and the p-value of that (Holm)."""
    means = results.means().drop(columns="collection").to_dict("records")
    return with_significance(means, results, BASELINE)


def passages(stages: RecipeStages, root: Path) -> dict[str, pd.DataFrame]:
    """What each language model wrote for the test queries: system -> `[qid, query, query_expansions]`."""
    (collection,) = stages.test
    written = {name: system.rewards for name, system in SYSTEMS.items() if system.retriever == "expandr"}
    return {
        name: RecordedExpander(
            stages.test_expansions(rewards or ()).folder(root) / f"{collection.name}.jsonl"
        ).transform(collection.topics)
        for name, rewards in written.items()
    }


def run(root: Path, data: Path, out: Path | None) -> dict[str, Any]:
    """Run what is not finished, and put together what came out."""
    stages = RecipeStages(read_recipe(RECIPE), verbose=True)
    last = stages.experiment()
    build([last], root, say=print)
    lengths = expansion_lengths(passages(stages, root))
    if out is not None:
        lengths_plot(lengths, path=out / "scifact_small_lengths.svg")
    (base,) = stages.base()
    pairs = stages.pairs(SYSTEMS["ExpandR"].rewards or ())
    plan = dpo_effect.Plan(base.folder(root) / "model", pairs.folder(root) / "pairs.jsonl", root / "effect")
    records = [{"stage": stage.name, **(stage.record(root) or {})} for stage in in_order([last])]
    return {
        "versions": versions(),
        "stages": [{name: record[name] for name in ("stage", "seconds", "counts")} for record in records],
        "table": scores(Results.load(last.folder(root) / "results")),
        "words": lengths.groupby("system", sort=False)["length"].mean().to_dict(),
        "effect": dpo_effect.run(plan, data),
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of the documentation."""
    measures = list(dict.fromkeys(row["measure"] for row in result["table"]))
    lines = [f"| system | {' | '.join(measures)} | words of a passage |", "|---" * (len(measures) + 2) + "|"]
    for system in dict.fromkeys(row["system"] for row in result["table"]):
        cells = [_cell(row) for row in result["table"] if row["system"] == system]
        words = result["words"].get(system)
        lines.append(f"| {system} | {' | '.join(cells)} | {'' if words is None else f'{words:.1f}'} |")
    lines += [
        "",
        "| seed | similarity base | trained | gain | p | base again | p | rank trained | p |",
        "|---" * 9 + "|",
    ]
    for row in result["effect"]["rows"]:
        written = [f"{row[name]:{form}}" for name, form in EFFECT.items()]
        lines.append(f"| {row['seed']} | {' | '.join(written)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    return f"{row['value']:.4f}{sign(row)}"


def main() -> int:
    """Run, print the tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="stages, adapters, models and texts are kept here")
    parser.add_argument("--out", type=Path, help="folder of the results, such as docs/results")
    args = parser.parse_args()
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    result = run(args.folder, Path(os.environ["EXPANDR_DATA"]), args.out)
    print(markdown(result))
    if args.out is not None:
        (args.out / "scifact_small.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
