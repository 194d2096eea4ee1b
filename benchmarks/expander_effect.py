"""Does training mend what a real small LLM does to retrieval? SmolLM2-135M on SciFact, attempt by attempt.

    EXPANDR_DATA=FOLDER python -m benchmarks.expander_effect ATTEMPT... --folder WORK [--seeds 1 2 3] [--test]
        [--collection Vaswani] [--encoder NAME] [--dtype bfloat16] [--json docs/results/expander_effect.json]

Protocol, written down before the first run:

- SciFact's training queries are split in two. One half gives candidates, with the settings of the recipe
  scifact-smollm2.yaml; pairs and training are the attempt's. The first 200 of the other half, which no LLM is trained
  on, are the development queries: everything is chosen by them.
- Training must also beat the base at a lower temperature (0.6), which costs nothing.
- The 300 test queries are only looked at with `--test`: for the base, the paper's setting and the chosen attempt. What
  was looked at besides, and what was chosen after it, is told in docs/expander_training.md.
- Transfer: `--collection` tries the same models on the test queries of another collection (at most its first 300), and
  `--encoder` with another encoder, which no pair was chosen by.
- A teacher's passages exist for the test queries alone. An attempt with one is trained five times, each time without a
  fifth of the test queries, which that model then writes for; how it is trained was fixed before the first run.
- A model writes one passage of at most 128 tokens for each query, at temperature 1, top-p 0.9 and the prompt q2d, with
  the same seed for all models; another at 0.6; and at temperature 1 three more, whose mean with the first is fused. A
  model is compared with the base that writes in the same way. all-MiniLM-L6-v2 (256 tokens) encodes; the fused vector
  searches all documents.
- An attempt's training seed is `--seeds`; p is that of a paired permutation test over queries, the interval that of a
  bootstrap over queries. Of several seeds there is also the mean: each query counts with the mean of its values.
- Where `near` (DPO) is among the attempts of a command, the others are also compared with it, seed by seed (`over` in
  the JSON).

Columns: `nDCG@10` and `R@100` of the fused query (mean of query and passage), `weight 0.7` with 0.7 for the query,
`gain` of nDCG@10 over the base, `to query alone` the difference from the query without a passage, `equal lengths` the
gain if of each passage and the base's both are cut to the words of the shorter, `similarity` of the passage to the
relevant document, `words`, in the JSON `as query` (the share of passages without a word that their query lacks), and
`accuracy`: in which share of held-out pairs training raised the log-probability of the chosen text by more than that of
the rejected one. A number behind a figure is the p of its difference from the base's, and for the accuracy that of a
permutation test against a half; the JSON has the intervals. `tokens` are those that the LLM wrote to be trained
(candidates, or texts while training), and `seconds` those of training without drawing candidates (of the last call, if
it was interrupted). The LLM writes in `--dtype`, by default the machine's, and is trained in it unless the attempt
names another. A run goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.expander_accuracy import accuracy
from benchmarks.expander_attempts import ATTEMPTS, PLAIN, TAUGHT
from benchmarks.expander_laboratory import COMPARED, WAYS, Laboratory, Passages, Way
from benchmarks.expander_table import Outcome, compared, equally_long, markdown, mean_of, merged_rows, row_of
from benchmarks.hybrid import FOLDERS
from pyterrier_expandr.common.hardware import processor_features, processor_vendor
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.training.recipe.systems import DEMO


def run(
    names: Sequence[str], seeds: Sequence[int], test: bool, laboratory: Laboratory, ways: Sequence[Way] = WAYS
) -> list[dict[str, Any]]:
    """Rows for the query alone, the base, and each attempt: one for each way and seed, and their means."""
    queries, untrained = laboratory.queries(test), laboratory.model(None, 0)[0]
    alone, dtype = laboratory.measured(queries, None), untrained.backend().fingerprint()["dtype"]
    of = {"queries": where(laboratory, test), "n": len(queries)}
    on = of | {"dtype": dtype, "processor": arithmetic(dtype)}
    rows = [of | {"attempt": "query alone"} | {name: float(value.mean()) for name, value in alone.items()}]

    def outcome(texts: Passages, base: Passages) -> Outcome:
        equal, its = (laboratory.measured(queries, cut)["nDCG@10"] for cut in equally_long(texts, base))
        return Outcome(laboratory.measured(queries, texts), equal, its)

    bases: dict[Way, tuple[Passages, Outcome]] = {}
    for way in ways:
        texts = laboratory.passages(untrained, queries, way)
        bases[way] = texts, outcome(texts, bases[COMPARED][0] if bases else texts)
        rows.append({"attempt": f"base{way}"} | on | row_of(bases[way][1], bases[COMPARED][1].values, alone))

    plain: dict[tuple[Way, int | None], np.ndarray] = {}

    def row(name: str, way: Way, seed: int | None, found: Outcome) -> dict[str, Any]:
        """What an attempt found; `seed` of None is the mean of all."""
        said: dict[str, Any] = {"attempt": f"{name}{way}", "what": f"{ATTEMPTS[name].what}{way}"}
        said |= {"seeds": list(seeds)} if seed is None else {"seed": seed}
        if name == PLAIN:
            plain[way, seed] = found.values["nDCG@10"]
        elif PLAIN in names:
            said["over"] = {"attempt": PLAIN} | compared(found.values["nDCG@10"], plain[way, seed])
        return said | on | row_of(found, bases[way][1].values, alone)

    for name in sorted(names, key=lambda name: name != PLAIN):  # the others are compared with it
        outcomes: dict[Way, list[Outcome]] = {way: [] for way in ways}
        costs = []
        for seed in seeds:
            parts, cost = laboratory.parts(name, seed, queries)
            costs.append(cost)
            held = accuracy(parts, seed)
            for way, (texts, _) in bases.items():
                outcomes[way].append(outcome(laboratory.written(parts, queries, way), texts))
                rows.append(row(name, way, seed, outcomes[way][-1]) | held | {"training": cost})
                print(json.dumps(rows[-1]), flush=True)
        if len(seeds) > 1:
            paid = [key for key in ("tokens", "seconds") if key in costs[0]]
            mean = {key: round(sum(cost[key] for cost in costs) / len(seeds)) for key in paid}
            rows += [row(name, way, None, mean_of(outcomes[way])) | {"training": mean} for way in ways]
    return rows


def where(laboratory: Laboratory, test: bool) -> str:
    """What the table calls the queries: "development", "SciFact", "Vaswani", "SciFact (paraphrase-MiniLM-L3-v2)"."""
    other = "" if laboratory.searcher == DEMO else f" ({laboratory.searcher})"
    return f"{laboratory.collection}{other}" if test else f"development{other}"


def arithmetic(dtype: str) -> str:
    """What computes: texts and weights differ a little between processors. "" where Linux does not say."""
    if dtype != "bfloat16":
        return "avx512f" if "avx512f" in processor_features() else ""
    found = next((name for name in ("amx_bf16", "avx512_bf16") if name in processor_features()), "")
    # Both makers' processors have these instructions, and the libraries' kernels for them round differently.
    intel = found == "avx512_bf16" and processor_vendor() == "GenuineIntel"
    return found + ", Intel" * intel


def main() -> int:
    """Train, measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attempts", nargs="*", choices=[*ATTEMPTS, []], help="none measures the base alone")
    parser.add_argument("--folder", type=Path, required=True, help="candidates, adapters and texts are kept here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--test", action="store_true", help="on the test queries, not on the development queries")
    parser.add_argument("--collection", choices=list(FOLDERS), default="SciFact", help="implies --test if not SciFact")
    parser.add_argument("--encoder", default=DEMO, help="folder or hub name of another encoder that searches")
    parser.add_argument(
        "--ways", type=int, choices=range(1, len(WAYS) + 1), default=len(WAYS), help="the first so many"
    )
    parser.add_argument("--dtype", help="of the LLM; bfloat16 is fast on a CPU that has arithmetic for it")
    parser.add_argument("--json", type=Path, help="add the rows to this file")
    given = parser.parse_args()
    if TAUGHT & {*given.attempts} and not (given.test and given.collection == "SciFact"):
        parser.error("a teacher's passages are recorded for SciFact's test queries alone: add --test, no --collection")
    data = Path(os.environ["EXPANDR_DATA"])
    laboratory = Laboratory(given.folder, data, given.collection, given.encoder, given.dtype)
    rows = run(given.attempts, given.seeds, given.test or given.collection != "SciFact", laboratory, WAYS[: given.ways])
    if given.json:
        before = json.loads(given.json.read_text())["rows"] if given.json.exists() else []
        rows = merged_rows(before, rows)
        given.json.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
