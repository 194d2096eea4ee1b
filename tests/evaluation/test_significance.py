import time

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy import stats

from pyterrier_expandr.evaluation.significance import EXACT_UP_TO, permutation_test


def scipy_pvalue(a, b, n_resamples, rng=None):
    done = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=rng,
        batch=1000,
    )
    return done.pvalue


@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, EXACT_UP_TO])
def test_exact_p_values_are_scipy_s(n):
    rng = np.random.default_rng(n)
    a, b = rng.random(n), rng.random(n) - 0.2
    assert permutation_test(a, b).pvalue == scipy_pvalue(a, b, 2**n)
    # Values with many ties, as measures have them; rounding must not decide.
    a, b = rng.integers(0, 4, n) / 3, rng.integers(0, 4, n) / 3
    assert permutation_test(a, b).pvalue == scipy_pvalue(a, b, 2**n)


def test_by_hand():
    # +-3 +-1 +-1 is 5, 3, 3 or 1, and the mirror images: 2 of 8 reach 5, and 6 of 8 reach 3.
    assert permutation_test([3, 1, 1], [0, 0, 0]) == (pytest.approx(5 / 3), 2 / 8)
    assert permutation_test([3, 1, 0], [0, 0, 1]) == (pytest.approx(1), 6 / 8)


@pytest.mark.parametrize(("n", "shift"), [(15, 0.1), (300, 0.03), (1001, 0.02)])
def test_estimated_p_values_agree_with_scipy(n, shift):
    rng = np.random.default_rng(n)
    b = rng.random(n)
    a = b + rng.normal(shift, 0.3, n)
    ours, theirs = permutation_test(a, b).pvalue, scipy_pvalue(a, b, 10_000, rng)
    assert abs(ours - theirs) < 5 * np.sqrt(2 * theirs * (1 - theirs) / 10_000)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = [permutation_test(rng.random(40), rng.random(40), permutations=999, seed=i).pvalue for i in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_two_sided_and_seeded():
    rng = np.random.default_rng(3)
    a, b = rng.random(100), rng.random(100)
    there, back = permutation_test(a, b), permutation_test(b, a)
    assert there.statistic == -back.statistic and there.pvalue == back.pvalue
    assert permutation_test(a, b) == there != permutation_test(a, b, seed=1)
    assert permutation_test(a + 1, b).pvalue == 1 / 10_001


def test_queries_that_do_not_differ_change_nothing_but_the_mean():
    a, b = np.arange(10) / 9, np.arange(10)[::-1] / 9 - 0.1
    same = np.full(5000, 0.5)
    exact, padded = permutation_test(a, b), permutation_test(np.append(a, same), np.append(b, same))
    assert padded.pvalue == exact.pvalue and padded.statistic == pytest.approx(exact.statistic * 10 / 5010)
    assert permutation_test(same, same) == (0.0, 1.0)


def test_weights_make_the_mean():
    a, b = [1.0, 1.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.5]
    result = permutation_test(a, b, weights=[0.5, 0.3, 0.1, 0.1])
    assert result.statistic == pytest.approx(0.5) and result.pvalue == 6 / 8  # 0.5 +- 0.05 +- 0.05; half reach 0.5
    assert permutation_test(a, b, weights=[0.25] * 4) == permutation_test(a, b)


@pytest.mark.parametrize(
    ("a", "b", "options", "said"),
    [
        ([1.0], [0.0], {}, "a test needs at least 2 queries, got 1"),
        ([], [], {}, "at least 2 queries, got 0"),
        ([1.0, 2.0], [1.0], {}, "two values per query"),
        ([1.0, float("nan")], [0.0, 1.0], {}, "1 values are NaN"),
        ([1.0, 2.0], [0.0, 1.0], {"permutations": 0}, "permutations must be"),
        ([1.0, 2.0], [0.0, 1.0], {"weights": [1.0]}, "weights have shape"),
    ],
)
def test_what_cannot_be_tested(a, b, options, said):
    with pytest.raises(ValueError, match=said):
        permutation_test(a, b, **options)


def test_in_an_experiment_with_correction():
    rng = np.random.default_rng(5)
    qids = [str(i) for i in range(40)]
    qrels = pd.DataFrame({"qid": qids, "docno": "d", "label": 1})
    topics = pd.DataFrame({"qid": qids, "query": "q"})

    def system(top):
        found = rng.random(40) < top
        rows = pd.DataFrame({"qid": qids, "docno": np.where(found, "d", "e"), "score": 1.0, "rank": 0})
        return rows

    systems = [system(0.3), system(0.4), system(0.9)]
    table = pt.Experiment(
        systems, topics, qrels, ["P.1"], names=list("abc"), baseline=0, test=permutation_test, correction="holm"
    )
    hits = [(s["docno"] == "d").to_numpy(float) for s in systems]
    p = [permutation_test(hits[i], hits[0]).pvalue for i in (1, 2)]
    assert table["P.1 p-value"].tolist()[1:] == p and p[1] < 0.001 < p[0]
    assert table["P.1 reject"].tolist() == [False, False, True]
    assert table["P.1 p-value corrected"].tolist()[1:] == pytest.approx([max(p[0], 2 * p[1]), 2 * p[1]])


def test_ten_thousand_permutations_of_seven_thousand_queries_in_under_a_second():
    rng = np.random.default_rng(0)
    a, b = rng.random(7000), rng.random(7000)
    start = time.process_time()
    permutation_test(a, b)
    assert time.process_time() - start < 1
