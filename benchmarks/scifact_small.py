"""ExpandR whole on SciFact without a model hub: the recipe scifact-small.yaml, and what DPO did to its language model.

    EXPANDR_DATA=FOLDER python -m benchmarks.scifact_small --folder WORK [--out docs/results]

Runs the recipe in WORK (two to three hours on 2 CPU cores; what is finished there is not done again), then
`benchmarks.dpo_effect` on its language model and its pairs with three seeds. `--out` gets scifact_small.json and a
picture of the passages' lengths; what is printed stands in docs/expander_training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import dpo_effect
from benchmarks.dpo_effect import RECIPE
from benchmarks.report import sign
from benchmarks.scifact import with_significance
from pyterrier_expandr import ExpandREncoder, RecordedExpander
from pyterrier_expandr.analysis import expansion_lengths, lengths_plot
from pyterrier_expandr.common.jsonl import read_jsonl
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.training.preferences.candidates import read_candidates
from pyterrier_expandr.training.preferences.choice import compare
from pyterrier_expandr.training.recipe.recipe import SYSTEMS, read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.stage import build, in_order

BASELINE = "Query"

#: systems that differ in the rewards by which their language model was trained
TRAINED = ("ExpandR", "w/o Self-Reward", "w/o Retriever Reward")

#: columns of the last table: the value, its heading, and how it is written
EFFECT = (
    ("words base", "words base", ".1f"),
    ("words trained", "trained", ".1f"),
    ("similarity base", "similarity base", ".4f"),
    ("similarity trained", "trained", ".4f"),
    ("gain", "gain", "+.4f"),
    ("gain p", "p", ".4f"),
    ("gain shortened", "shortened", "+.4f"),
    ("gain shortened p", "p", ".4f"),
    ("noise", "base again", "+.4f"),
    ("noise p", "p", ".4f"),
    ("rank trained", "rank", ".2f"),
    ("rank p", "p", ".4f"),
)


def scores(results: Results, baseline: str) -> list[dict[str, Any]]:
    """The rows of Table 3: each measure, its difference to the baseline, and the p-value of that (Holm)."""
    means = results.means().drop(columns="collection").to_dict("records")
    return with_significance(means, results, baseline)


def preferred(stages: RecipeStages, root: Path) -> list[dict[str, Any]]:
    """What DPO learns from: mean similarity to the relevant document, and words, of all candidates of the training
    queries, of the answers that the self reward compares them with, and of the chosen and the rejected by system."""
    sets = list(read_candidates(stages.candidates().folder(root) / "candidates.jsonl"))
    texts, encoder = [(one.answer, *one.candidates) for one in sets], ExpandREncoder(demo_encoder_folder())
    found = compare([replace(one, candidates=row) for one, row in zip(sets, texts, strict=True)], encoder)
    words = np.array([[len(text.split()) for text in row] for row in texts])
    similarity = np.where(words, found.to_gold, 0)
    rows = [_mean("candidates", similarity[:, 1:], words[:, 1:]), _mean("answers", similarity[:, 0], words[:, 0])]
    place = {one.query_id: row for row, one in enumerate(sets)}
    for name in TRAINED:
        pairs = [row for _, row in read_jsonl(stages.pairs(SYSTEMS[name].rewards or ()).folder(root) / "pairs.jsonl")]
        of = [place[row["query_id"]] for row in pairs]
        for side in ("chosen", "rejected"):
            column = [1 + row[f"{side}_candidate"] for row in pairs]
            rows.append(_mean(f"{side}, {name}", similarity[of, column], words[of, column]))
    return rows


def _mean(texts: str, similarity: np.ndarray, words: np.ndarray) -> dict[str, Any]:
    return {"texts": texts, "similarity": float(similarity.mean()), "words": float(words.mean())}


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
    results = Results.load(last.folder(root) / "results")
    (base,) = stages.base()
    pairs = stages.pairs(SYSTEMS["ExpandR"].rewards or ())
    plan = dpo_effect.Plan(base.folder(root) / "model", pairs.folder(root) / "pairs.jsonl", root / "effect")
    records = [{"stage": stage.name, **(stage.record(root) or {})} for stage in in_order([last])]
    return {
        "versions": versions(),
        "stages": [{name: record[name] for name in ("stage", "seconds", "counts")} for record in records],
        "table": scores(results, BASELINE),
        "against ExpandR": scores(results, "ExpandR"),
        "preferred": preferred(stages, root),
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
    lines += ["", "| texts | similarity | words |", "|---|---|---|"]
    lines += [f"| {row['texts']} | {row['similarity']:.3f} | {row['words']:.1f} |" for row in result["preferred"]]
    lines += ["", f"| seed | {' | '.join(heading for _, heading, _ in EFFECT)} |", "|---" * (len(EFFECT) + 1) + "|"]
    for row in result["effect"]["rows"]:
        written = [f"{row[name]:{form}}" for name, _, form in EFFECT]
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
