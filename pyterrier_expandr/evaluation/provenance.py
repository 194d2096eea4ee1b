"""What determines the output of a pipeline, as JSON values, so that stale results are recognised."""

from __future__ import annotations

from typing import Any

import pyterrier as pt

from ..common.fingerprint import digest as digest
from ..common.fingerprint import stable_repr


def describe_pipeline(pipeline: pt.Transformer) -> Any:
    """What determines the rankings of a pipeline, part by part, without running it or loading a model.

    A part with a `describe()` method describes itself; this package's parts do: the model's content, prompt, sampling
    and cleaning of an expander or the recorded texts; the encoder's weights and settings; the bytes of the index. Other
    parts are described by class and `repr` alone, which do not show what a lambda does, for instance, or what an index
    holds that was rebuilt under the same path. Package versions do not count.

    Example:
        >>> describe_pipeline(pt.RankCutoff(10))
        ['pyterrier._ops.RankCutoff', 'RankCutoff(10)']
    """
    if hasattr(pipeline, "describe"):
        return {name: value for name, value in pipeline.describe().items() if name != "versions"}
    parts = [part for group in pt.inspect.subtransformers(pipeline).values() for part in _as_list(group)]
    if isinstance(pipeline, pt.Compose):
        return list(map(describe_pipeline, parts))
    kind = type(pipeline)
    return [f"{kind.__module__}.{kind.__qualname__}", stable_repr(pipeline), *map(describe_pipeline, parts)]


def index_of(pipeline: pt.Transformer) -> str | None:
    """The folder of the dense index that a pipeline searches, or None; nothing is run or loaded.

    Example:
        >>> index_of(pt.RankCutoff(10)) is None
        True
    """
    if hasattr(pipeline, "faiss_index"):
        return str(pipeline.faiss_index.path)
    parts = [part for group in pt.inspect.subtransformers(pipeline).values() for part in _as_list(group)]
    return next((folder for folder in map(index_of, parts) if folder is not None), None)


def _as_list(group: Any) -> list[Any]:
    return list(group) if isinstance(group, (list, tuple)) else [group]
