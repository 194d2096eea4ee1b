"""The paired permutation test beside scipy's: seconds on one core, the ratio, and both p-values.

    OMP_NUM_THREADS=1 python -m benchmarks.significance [--queries 7000] [--permutations 10000] [--json FILE]

scipy is measured with several batch sizes, and its fastest counts. The exit status is 1 where the p-values differ by
more than chance explains, or where ours takes a second or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pyterrier_expandr.evaluation.significance import permutation_test

BATCHES = (10, 100, 1000)
REPEATS = 3


def scipy_test(a: np.ndarray, b: np.ndarray, permutations: int, batch: int) -> float:
    """scipy's p-value for the same test."""
    return stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=batch,
        rng=0,
    ).pvalue


def fastest(run: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(queries: int, permutations: int) -> dict[str, Any]:
    """Seconds and p-values of both on values like nDCG@10 with a small difference."""
    rng = np.random.default_rng(0)
    b = rng.beta(0.6, 0.8, queries)
    a = np.clip(b + rng.normal(0.003, 0.2, queries), 0, 1)
    ours = fastest(lambda: permutation_test(a, b, permutations=permutations))
    theirs = {batch: fastest(lambda batch=batch: scipy_test(a, b, permutations, batch)) for batch in BATCHES}
    batch = min(theirs, key=theirs.__getitem__)
    return {
        "queries": queries,
        "permutations": permutations,
        "seconds": ours,
        "scipy_seconds": theirs[batch],
        "scipy_batch": batch,
        "ratio": theirs[batch] / ours,
        "p_value": permutation_test(a, b, permutations=permutations).pvalue,
        "scipy_p_value": scipy_test(a, b, permutations, batch),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }


def main() -> int:
    """Measure, print, write JSON; 1 if the two disagree or ours is slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=7000)
    parser.add_argument("--permutations", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    row = measure(args.queries, args.permutations)
    print(f"{row['permutations']} permutations of {row['queries']} queries")
    print(f"  ours  {row['seconds']:8.3f} s   p = {row['p_value']:.4f}")
    print(f"  scipy {row['scipy_seconds']:8.3f} s   p = {row['scipy_p_value']:.4f}   (batch {row['scipy_batch']})")
    print(f"  scipy takes {row['ratio']:.0f} times as long")
    if args.json:
        args.json.write_text(json.dumps(row, indent=2) + "\n")
    p = row["scipy_p_value"]
    apart = abs(row["p_value"] - p) > 5 * (2 * p * (1 - p) / row["permutations"]) ** 0.5
    return int(apart or row["seconds"] >= 1)


if __name__ == "__main__":
    sys.exit(main())
