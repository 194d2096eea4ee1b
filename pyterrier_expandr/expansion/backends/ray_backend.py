"""Texts written on the machines of a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from ...common.ray_cluster import Cluster
from .base import Backend, Generation, Message, Request, Sampling, Stream


class RayBackend(Backend):
    """A backend whose texts are written by copies of another one, on the machines of a Ray cluster.

    It has the fingerprint of the other backend, so that both share what a `GenerationCache` holds: a run that was
    interrupted continues from there, on a cluster or without one. A request's text depends on its seed alone, and not
    on the worker that wrote it. (Transformers in 16 bits may choose another token in a batch of another size, with or
    without Ray.) Texts that were under way on a worker or a machine that died are written again by another.

    Args:
        backend: `HuggingFaceBackend`, `VLLMBackend` ...; each worker opens its own copy on first use. A model in a
            folder must be in the same folder on all machines.
        cluster: where, and what a worker occupies.
        requests: number of requests that a worker takes at once, and at most as many are lost with it.

    Raises:
        ValueError: `requests` is below 1.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend, LLMExpander
        >>> backend = RayBackend(HuggingFaceBackend("Qwen/Qwen2.5-7B-Instruct"), cluster=Cluster("auto", num_gpus=1))
        >>> LLMExpander(backend, cache="passages.sqlite").transform(topics)  # doctest: +SKIP
    """

    def __init__(self, backend: Backend, *, cluster: Cluster | None = None, requests: int = 64) -> None:
        if requests < 1:
            raise ValueError(f"requests, which a worker takes at once, must be 1 or more, got {requests}")
        self.backend, self.cluster, self.requests = backend, cluster or Cluster(), requests
        self.prices = backend.prices

    #: many samples are under way at a time, and a worker that dies costs few
    samples_apart = True

    @property
    def context_length(self) -> int | None:  # type: ignore[override]  # an attribute there, computed here
        """That of the other backend."""
        return self.backend.context_length

    def fingerprint(self) -> dict[str, Any]:
        """That of the other backend: where a text is written does not change it."""
        return self.backend.fingerprint()

    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index of the request, one Generation per requested sample)` as the workers finish their batches."""
        rows = [{"place": place, "request": json.dumps(asdict(request))} for place, request in enumerate(requests)]
        if not rows:
            return
        for frame in self.cluster.spread(rows, Writer, (self.backend,), self.requests):
            for place, texts in zip(frame["place"], frame["texts"], strict=True):
                yield int(place), [_generation(**one) for one in json.loads(texts)]

    def prompt_tokens(self, messages: Sequence[Message], thinking: bool = False) -> int | None:
        """Counted here, by the other backend."""
        return self.backend.prompt_tokens(messages, thinking)

    def surely_fits(self, messages: Sequence[Message], tokens: int) -> bool:
        """Decided here, by the other backend."""
        return self.backend.surely_fits(messages, tokens)

    def template_variables(self, thinking: bool = False) -> dict[str, Any]:
        """Those of the other backend."""
        return self.backend.template_variables(thinking)

    def rendered_prompt(self, messages: Sequence[Message], thinking: bool = False) -> str | None:
        """That of the other backend."""
        return self.backend.rendered_prompt(messages, thinking)

    def close(self) -> None:
        """Free what the other backend holds here; Ray frees the workers."""
        self.backend.close()

    def __repr__(self) -> str:
        return f"RayBackend({self.backend!r}, cluster={self.cluster!r})"


class Writer:
    """A worker: it holds a copy of the backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`[place, request]` -> `[place, texts]`, both as JSON."""
        found = self.backend.generate([_request(**json.loads(text)) for text in frame["request"]])
        return pd.DataFrame({"place": frame["place"], "texts": [json.dumps([asdict(g) for g in own]) for own in found]})


def _request(messages: list[Message], sampling: dict[str, Any], samples: list[int], thinking: bool) -> Request:
    return Request(tuple(messages), Sampling(**sampling), tuple(samples), thinking)


def _generation(tokens: list[int] | None, **fields: Any) -> Generation:
    return Generation(**fields, tokens=None if tokens is None else (tokens[0], tokens[1]))
