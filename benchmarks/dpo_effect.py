"""Does DPO teach an LLM what its retriever prefers? Measured on queries that it was not trained on, with three seeds.

    EXPANDR_DATA=FOLDER python -m benchmarks.dpo_effect --base MODEL --pairs pairs.jsonl --folder WORK [--json FILE]

For each seed an adapter is trained on the pairs of SciFact's training queries, as the recipe scifact-small.yaml says,
and merged; then the trained model and the base write 8 passages for each of the 300 test queries, and the base once
more with another seed. Reported are

- `similarity`: of a passage to the relevant document (all-MiniLM-L6-v2), mean over the passages of a query;
- `similarity shortened`: the same for the trained model's passages, each cut to the words of one of the base where it
  has more: what is left of the gain if the trained model may not write longer texts;
- `words` of a passage;
- `rank`: of a model's passages by reward (self reward plus retriever reward, Eq. 11) among those of both, 8.5 where the
  models are alike. The answer of the self reward is the base's, written with the relevant document before it;
- `noise`: the same differences between the two samplings of the base.

p-values are those of a paired permutation test over queries; for all seeds together a query's value is its mean over
the seeds. A run goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pyterrier_expandr import ExpandREncoder, HuggingFaceBackend
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.evaluation.significance import permutation_test
from pyterrier_expandr.training.data.examples import TrainingExample, open_examples
from pyterrier_expandr.training.expander.merge import merge_adapter
from pyterrier_expandr.training.expander.train import RECORD, ExpanderTrainingConfig, train_expander
from pyterrier_expandr.training.preferences.candidates import CandidateSet, CandidateSettings, generate_candidates
from pyterrier_expandr.training.preferences.choice import compare
from pyterrier_expandr.training.preferences.rewards import combined_reward, retriever_reward, self_reward
from pyterrier_expandr.training.recipe.recipe import read_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "scifact-small.yaml"

#: whose passages are compared, in this order
SOURCES = ("trained", "base", "base again", "shortened")


def shortened(passages: Sequence[str], like: Sequence[str]) -> tuple[str, ...]:
    """Each passage cut to as many words as its counterpart has."""
    return tuple(" ".join(text.split()[: len(other.split())]) for text, other in zip(passages, like, strict=True))


def measure(sets: dict[str, list[CandidateSet]], encoder: ExpandREncoder) -> dict[str, np.ndarray]:
    """By query: similarity to gold and words (n,) by source, and `rank` of "trained" and "base again" among "base"."""
    n, samples = len(sets["base"]), len(sets["base"][0].candidates)
    merged = []
    for place, base in enumerate(sets["base"]):
        written_by = {source: one[place].candidates for source, one in sets.items()}
        written_by["shortened"] = shortened(written_by["trained"], written_by["base"])
        texts = tuple(text for source in SOURCES for text in written_by[source])
        answer = base.answer or base.query
        merged.append(CandidateSet(base.query_id, base.query, base.positive_id, base.positive, answer, texts))
    found = compare(merged, encoder)
    words = np.array([[len(text.split()) for text in row] for row in found.texts])
    to_gold, to_answer = np.where(words, found.to_gold, 0), np.where(words, found.to_answer, 0)
    values = {}
    for name, of_texts in (("similarity", to_gold), ("words", words)):
        mean = of_texts.reshape(n, len(SOURCES), samples).mean(axis=2)
        values |= {f"{name} {source}": mean[:, place] for place, source in enumerate(SOURCES)}
    base = range(samples, 2 * samples)
    for start, source in ((0, "trained"), (2 * samples, "base again")):
        both = [*base, *range(start, start + samples)]  # of equal texts the base's ranks first
        reward = combined_reward([self_reward(to_answer[:, both]), retriever_reward(to_gold[:, both])])
        # Sums of reciprocal ranks are often equal: these share a rank.
        values[f"rank {source}"] = rankdata(-reward.round(12), axis=1)[:, samples:].mean(axis=1)
    return values


def summary(values: dict[str, np.ndarray], samples: int) -> dict[str, float]:
    """Means over queries, differences to the base, and their p-values."""
    alike = np.full(len(values["rank trained"]), samples + 0.5)
    trained, base, again, short = (values[f"similarity {source}"] for source in SOURCES)
    effect, noise, shorter = (permutation_test(found, base) for found in (trained, again, short))
    return {name: float(value.mean()) for name, value in values.items()} | {
        "gain": float(effect.statistic),
        "gain p": float(effect.pvalue),
        "gain shortened": float(shorter.statistic),
        "gain shortened p": float(shorter.pvalue),
        "noise": float(noise.statistic),
        "noise p": float(noise.pvalue),
        "rank p": float(permutation_test(values["rank trained"], alike).pvalue),
        "rank noise p": float(permutation_test(values["rank base again"], alike).pvalue),
    }


@dataclass(frozen=True)
class Plan:
    """What is trained and measured: a base, preference pairs, and a folder that keeps adapters, models and texts."""

    base: Path
    pairs: Path
    folder: Path
    training: Mapping[str, Any] = field(default_factory=lambda: read_recipe(RECIPE).dpo)
    seeds: Sequence[int] = (1, 2, 3)
    samples: int = 8
    max_new_tokens: int = 128
    limit: int | None = None
    device: str | None = None


def write(model: str | Path, examples: Sequence[TrainingExample], seed: int, plan: Plan) -> list[CandidateSet]:
    """A model's passages for each query, and its answers."""
    settings = CandidateSettings((1.0,), plan.samples, max_new_tokens=plan.max_new_tokens, seed=seed)
    backend = HuggingFaceBackend(model, device=plan.device, batch_size=64)
    return list(generate_candidates(examples, backend, settings, cache=plan.folder / "texts.sqlite", verbose=True))


def run_seed(seed: int, examples: Sequence[TrainingExample], encoder: ExpandREncoder, plan: Plan) -> Any:
    """Train with one seed, write, and measure: values of each query, and the record of the training."""
    settings = {**plan.training, "report_prompts": 0, "seed": seed}
    out = plan.folder / f"adapter-{seed}"
    config = ExpanderTrainingConfig(str(plan.base), str(plan.pairs), str(out), **settings)
    adapter = train_expander(config, verbose=True)
    trained = merge_adapter(adapter, plan.folder / f"merged-{seed}", device=plan.device)
    sets = {
        "trained": write(trained, examples, 2 * seed, plan),
        "base": write(plan.base, examples, 2 * seed, plan),
        "base again": write(plan.base, examples, 2 * seed + 1, plan),
    }
    record = json.loads((adapter / RECORD).read_text())
    return measure(sets, encoder), {name: record[name] for name in ("pairs", "steps", "kept_step", "before", "after")}


def run(plan: Plan, data: Path) -> dict[str, Any]:
    """One row for each seed, and one for the mean of a query's values over all seeds."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    examples = list(islice(open_examples(data / "scifact", "test"), plan.limit))
    encoder = ExpandREncoder(demo_encoder_folder(), device=plan.device)
    measured, rows = [], []
    for seed in plan.seeds:
        values, training = run_seed(seed, examples, encoder, plan)
        measured.append(values)
        rows.append({"seed": seed} | summary(values, plan.samples) | {"training": training})
    together = {name: np.mean([values[name] for values in measured], axis=0) for name in measured[0]}
    rows.append({"seed": "all"} | summary(together, plan.samples))
    settings = {name: value for name, value in asdict(plan).items() if name not in ("base", "pairs", "folder")}
    return {"queries": len(examples), "settings": settings, "rows": rows}


def main() -> int:
    """Run, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of the LLM")
    parser.add_argument("--pairs", type=Path, required=True, help="preference pairs of SciFact's training queries")
    parser.add_argument("--folder", type=Path, required=True, help="adapters, models and texts are kept here")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--seeds", type=int, nargs="+", default=Plan.seeds)
    parser.add_argument("--samples", type=int, default=Plan.samples)
    parser.add_argument("--max-new-tokens", type=int, default=Plan.max_new_tokens)
    parser.add_argument("--limit", type=int, help="only the first queries, for a trial")
    parser.add_argument("--device")
    given = vars(parser.parse_args())
    target = given.pop("json")
    result = run(Plan(**given), Path(os.environ["EXPANDR_DATA"]))
    print(pd.DataFrame(result["rows"]).drop(columns="training").T.to_string(float_format="{:.4f}".format))
    if target:
        target.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
