"""How the embeddings of a query and of its expansions become one vector (Eq. 8 and variants)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

#: a named rule, the query's weight alpha, or `f(query (..., d), expansions (..., m, d)) -> (..., d)`
Fusion = Literal["average", "uniform"] | float | Callable[[Any, Any], Any]

NAMED_FUSIONS = ("average", "uniform")


def query_weight(fusion: Literal["average", "uniform"] | float, n_expansions: int) -> float:
    """The weight alpha of the query when it is fused with `n_expansions` expansions.

    "average" is 1/2 whatever their number: the query is averaged with the mean of the expansions. "uniform" is 1/(m+1):
    a single mean over the query and all m expansions. With one expansion, both are Eq. 8.

    Example:
        >>> query_weight("average", 3), query_weight("uniform", 3), query_weight(0.8, 3)
        (0.5, 0.25, 0.8)
    """
    if fusion == "average":
        return 0.5
    if fusion == "uniform":
        return 1 / (n_expansions + 1)
    return float(fusion)


def fuse(query: Any, expansions: Any, fusion: Fusion = "average") -> Any:
    """`alpha * query + (1 - alpha) * mean(expansions)`: Eq. 8 for "average" and one expansion.

    The same formula works on NumPy arrays and torch tensors, so that retrieval and the training loss share it.

    Args:
        query: (..., d), floating point.
        expansions: (..., m, d) with m >= 1; the caller must handle queries without expansions, whose vector is their
            own embedding.
        fusion: see `query_weight`, or a callable of (query, expansions).

    Returns:
        (..., d), with the dtype of the inputs.

    Example:
        >>> import numpy as np
        >>> fuse(np.array([1.0, 0.0]), np.array([[0.0, 1.0]]))
        array([0.5, 0.5])
    """
    if callable(fusion):
        return fusion(query, expansions)
    alpha = query_weight(fusion, expansions.shape[-2])
    return alpha * query + (1 - alpha) * expansions.mean(-2)


def check_fusion(fusion: Fusion) -> Fusion:
    """`fusion` itself if it is valid.

    Raises:
        ValueError: an unknown name, or a weight outside [0, 1].
        TypeError: `fusion` is neither a name, a number nor a callable.
    """
    if callable(fusion):
        return fusion
    if isinstance(fusion, str):
        if fusion not in NAMED_FUSIONS:
            raise ValueError(
                f"fusion {fusion!r} is unknown: use one of {NAMED_FUSIONS}, a weight in [0, 1] or a callable"
            )
        return fusion
    if isinstance(fusion, bool) or not isinstance(fusion, (int, float)):
        raise TypeError(f"fusion must be one of {NAMED_FUSIONS}, a weight in [0, 1] or a callable, got {fusion!r}")
    if not 0 <= fusion <= 1:
        raise ValueError(f"fusion as the query's weight (alpha) must be between 0 and 1, got {fusion!r}")
    return float(fusion)
