import numpy as np
import pytest

from pyterrier_expandr.training.rewards import combined_reward, ranks, retriever_reward, self_reward


def test_ranks_start_at_one_for_the_most_similar():
    np.testing.assert_array_equal(ranks(np.array([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])), [[3, 1, 2], [1, 2, 3]])


def test_of_equal_candidates_the_first_is_ahead():
    np.testing.assert_array_equal(ranks(np.array([[0.5, 0.9, 0.5, 0.9]])), [[3, 1, 4, 2]])


def test_both_rewards_are_reciprocal_ranks_and_their_sum_is_equation_11():
    answer, gold = np.array([[0.9, 0.8, 0.1]]), np.array([[0.2, 0.7, 0.3]])
    np.testing.assert_allclose(self_reward(answer), [[1, 1 / 2, 1 / 3]])
    np.testing.assert_allclose(retriever_reward(gold), [[1 / 3, 1, 1 / 2]])
    total = combined_reward([self_reward(answer), retriever_reward(gold)])
    np.testing.assert_allclose(total, [[4 / 3, 3 / 2, 5 / 6]])
    np.testing.assert_allclose(combined_reward([self_reward(answer), retriever_reward(gold)], (0, 2)), [[2 / 3, 2, 1]])


def test_permuting_candidates_permutes_ranks():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(5, 32))
    order = rng.permutation(32)
    np.testing.assert_array_equal(ranks(similarity)[:, order], ranks(similarity[:, order]))
    np.testing.assert_array_equal(np.sort(ranks(similarity), axis=1), np.tile(np.arange(1, 33), (5, 1)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"NaN in rows \[1\]"):
        ranks(np.array([[1.0, 2.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match="n_candidates"):
        ranks(np.array([1.0]))
    with pytest.raises(ValueError, match="one shape"):
        combined_reward([np.ones((1, 2)), np.ones((1, 3))])
    with pytest.raises(ValueError, match="one weight each"):
        combined_reward([np.ones((1, 2))], (1, 2))
