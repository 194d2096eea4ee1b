"""The paired permutation test: how often would chance alone produce a difference this large?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: up to this many differing queries, all 2^n sign patterns are tried: 16,384
EXACT_UP_TO = 14


class PermutationTestResult(NamedTuple):
    """The difference that was tested, and its p-value; read by `pt.Experiment`, with scipy's names."""

    statistic: float
    pvalue: float


def permutation_test(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    permutations: int = 10_000,
    seed: int = 42,
) -> PermutationTestResult:
    """The difference of two systems' means and the two-sided p-value of a paired permutation test (METHOD 5).

    If the two systems were equally good, each query's difference could just as well have the other sign. The p-value is
    the share of sign patterns whose mean difference is at least as far from 0 as the observed one. If at most 14
    queries differ, all patterns are tried and the p-value is exact; otherwise it is estimated from `permutations`
    random ones as (hits + 1) / (permutations + 1), which is never 0. Queries with equal values count only in the mean,
    since their sign changes nothing.

    Args:
        a, b: the values of each query under the two systems, shape (n,), in the same order of queries.
        weights: each query's weight in the mean, shape (n,), summing to 1; equal by default. The test of an
            average over collections weights a query by 1 / (collections x queries of its collection).
        permutations: number of random sign patterns.
        seed: for the random patterns; the same seed gives the same p-value.

    Raises:
        ValueError: only one query (no test is possible), unequal lengths, NaN, or `permutations` below 1.

    Example:
        >>> permutation_test([1.0, 1.0, 0.75, 0.5], [0.5, 0.5, 0.25, 0.0])
        PermutationTestResult(statistic=0.5, pvalue=0.125)
        >>> import pyterrier as pt
        >>> pt.Experiment(systems, topics, qrels, ["ndcg_cut_10"], baseline=0, test=permutation_test,
        ...               correction="holm")  # doctest: +SKIP
    """
    if permutations < 1:
        raise ValueError(f"permutations must be 1 or more, got {permutations}")
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(f"a paired test needs two values per query, got shapes {left.shape} and {right.shape}")
    if len(left) < 2:
        raise ValueError(f"a test needs at least 2 queries, got {len(left)}: a single difference proves nothing")
    share = np.full(len(left), 1 / len(left)) if weights is None else np.asarray(weights, dtype=float)
    if share.shape != left.shape:
        raise ValueError(f"weights have shape {share.shape}, but the values have {left.shape}")
    difference = (left - right) * share
    if not np.isfinite(difference).all():
        raise ValueError(
            f"{int((~np.isfinite(difference)).sum())} values are NaN or infinite: evaluate those queries again"
        )
    statistic = float(difference.sum())
    sizes = np.sort(np.abs(difference[difference != 0]))  # sorted: the order of the queries must not matter
    return PermutationTestResult(statistic, _pvalue(sizes, abs(statistic), permutations, seed))


def _pvalue(sizes: np.ndarray, observed: float, permutations: int, seed: int) -> float:
    """The share of sign patterns over `sizes` (n,) whose sum is at least `observed` away from 0."""
    n = len(sizes)
    if n == 0:
        return 1.0
    exact = n <= EXACT_UP_TO
    if exact:
        patterns = np.arange(2**n, dtype="<u2").view(np.uint8).reshape(-1, 2).T
    else:
        patterns = np.random.default_rng(seed).integers(256, size=(-(-n // 8), permutations), dtype=np.uint8)
    # Sums in a different order differ by rounding, which must not turn "as far" into "less far".
    hits = int((np.abs(_signed_sums(sizes, patterns)) >= observed - 1e-12 * sizes.sum()).sum())
    return hits / 2**n if exact else (hits + 1) / (permutations + 1)


def _signed_sums(sizes: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """The sum of `sizes` (n,) under each sign pattern, shape (p,).

    Bit i of byte j in a column of `patterns` (>= n/8, p) says whether query 8j + i counts as positive. The 256 signed
    sums of eight queries are computed once and looked up for all patterns, instead of multiplying n x p signs.
    """
    groups = -(-len(sizes) // 8)
    padded = np.zeros((groups, 8))
    padded.ravel()[: len(sizes)] = sizes
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")  # (256, 8)
    tables = padded @ (2.0 * bits - 1).T  # (groups, 256)
    sums = np.zeros(patterns.shape[1])
    for table, codes in zip(tables, patterns, strict=False):
        sums += table[codes]
    return sums
