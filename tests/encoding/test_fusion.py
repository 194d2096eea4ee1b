import numpy as np
import pytest
import torch

from pyterrier_expandr.encoding.fusion import check_fusion, fuse, query_weight

QUERY = np.array([1.0, 2.0])
ONE = np.array([[3.0, -2.0]])
TWO = np.array([[3.0, -2.0], [5.0, 4.0]])


def test_average_is_equation_8():
    np.testing.assert_array_equal(fuse(QUERY, ONE), (QUERY + ONE[0]) / 2)


def test_average_of_several_weighs_the_query_one_half():
    np.testing.assert_allclose(fuse(QUERY, TWO), [2.5, 1.5])


def test_uniform_is_one_mean_over_all():
    np.testing.assert_allclose(fuse(QUERY, TWO, "uniform"), [3.0, 4 / 3])


def test_named_rules_agree_for_one_expansion():
    np.testing.assert_array_equal(fuse(QUERY, ONE, "uniform"), fuse(QUERY, ONE, "average"))


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, [1, 2]), (0.0, [4, 1]), (0.75, [1.75, 1.75])])
def test_weight_of_the_query(alpha, expected):
    np.testing.assert_allclose(fuse(QUERY, TWO, alpha), expected)


def test_callable():
    np.testing.assert_array_equal(fuse(QUERY, TWO, lambda q, e: np.maximum(q, e.max(0))), [5, 4])


def test_batched_torch_equals_numpy_and_carries_gradients():
    queries, expansions = np.random.default_rng(0).normal(size=(4, 3)), np.random.default_rng(1).normal(size=(4, 2, 3))
    tensor = torch.tensor(queries, requires_grad=True)
    fused = fuse(tensor, torch.tensor(expansions))
    np.testing.assert_allclose(fused.detach().numpy(), fuse(queries, expansions), atol=1e-12)
    fused.sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), 0.5)


@pytest.mark.parametrize("fusion", ["mean", -0.1, 1.1, float("nan")])
def test_values_out_of_range_are_refused(fusion):
    with pytest.raises(ValueError, match="fusion"):
        check_fusion(fusion)


@pytest.mark.parametrize("fusion", [None, True, [0.5]])
def test_other_types_are_refused(fusion):
    with pytest.raises(TypeError, match="fusion"):
        check_fusion(fusion)


def test_query_weight():
    assert query_weight("uniform", 1) == query_weight("average", 9) == 0.5
