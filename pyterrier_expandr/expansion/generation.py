"""Requests in, generations out: the backend writes what the cache lacks, and each result is stored as it arrives."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

from .backends.base import Backend, Generation, Request
from .cache import GenerationCache
from .progress import GenerationProgress, generation_progress
from .thinking import begins_thought, without_thought


def generate_cached(
    backend: Backend,
    requests: list[Request],
    cache: GenerationCache,
    *,
    verbose: bool = False,
    progress: GenerationProgress | None = None,
) -> list[list[Generation]]:
    """All samples of all requests, in order; only what the cache lacks is generated, and it is stored as it arrives.

    Equal requests are generated once. The cache keeps the text as the model wrote it; the returned texts have the
    model's reasoning removed. `progress` is that of a longer run, of which this call is a part.
    """
    places: dict[str, int] = {}  # each distinct request -> the position where it first occurs
    first = [places.setdefault(json.dumps(asdict(request)), i) for i, request in enumerate(requests)]
    plain = backend.fingerprint()
    fingerprints = {i: full_fingerprint(backend, plain, requests[i]) for i in places.values()}
    known = {i: cache.get(fingerprints[i], requests[i]) for i in places.values()}
    absent = {i: tuple(s for s in requests[i].samples if s not in known[i]) for i in known}
    missing = [
        (i, replace(requests[i], samples=part))
        for i in known
        for part in ([(s,) for s in absent[i]] if backend.samples_apart else [absent[i]])
        if part
    ]
    texts, cached = sum(map(len, absent.values())), sum(map(len, known.values()))
    if progress is not None:
        progress.expect(texts - sum(len(request.samples) for request in requests))
        told: AbstractContextManager[GenerationProgress] = nullcontext(progress)
    else:
        tokens = sum(len(request.samples) * request.sampling.max_new_tokens for _, request in missing)
        run = {"texts": texts, "cached": cached, "tokens": tokens}
        told = generation_progress("Generating", backend, **run, verbose=verbose)
    with closing(backend.stream([request for _, request in missing])) as stream, told as progress:
        for place, generations in stream:
            i, request = missing[place]
            fresh = dict(zip(request.samples, generations, strict=True))
            cache.put(fingerprints[i] | backend.learned(), request, fresh)
            known[i].update(fresh)
            progress.add(generations)
    begun = _begun(backend, requests)
    return [
        [replace(g, text=without_thought(g.text, begun=begun[r.thinking])) for g in (known[i][s] for s in r.samples)]
        for i, r in zip(first, requests, strict=True)
    ]


def _begun(backend: Backend, requests: list[Request]) -> dict[bool, bool]:
    """Whether the model's texts begin inside its reasoning, by thinking mode; only the template decides this."""
    of_kind = {request.thinking: request for request in requests}
    prompts = {thinking: backend.rendered_prompt(r.messages, thinking) for thinking, r in of_kind.items()}
    return {thinking: prompt is not None and begins_thought(prompt) for thinking, prompt in prompts.items()}


def full_fingerprint(backend: Backend, fingerprint: dict[str, Any], request: Request) -> dict[str, Any]:
    """`fingerprint` of `backend`, plus anything else that the prompt of `request` depended on.

    The messages and the model's files determine a prompt, and both are already in the cache address, unless the chat
    template reads variables: whether to think, and the date. In that case their values (`template`) and the hash of the
    rendered prompt (`prompt_sha256`) are added. For all other templates the address is the same as before these were
    recorded.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend
        >>> from pyterrier_expandr.expansion.backends.base import Sampling
        >>> request = Request(({"role": "user", "content": "Hi"},), Sampling())
        >>> full_fingerprint(HuggingFaceBackend("no/such-model"), {"model": "m"}, request)
        {'model': 'm'}
    """
    variables = backend.template_variables(request.thinking)
    if not variables:
        return fingerprint
    prompt = backend.rendered_prompt(request.messages, request.thinking) or ""
    return fingerprint | {"template": variables, "prompt_sha256": sha256(prompt.encode()).hexdigest()}
