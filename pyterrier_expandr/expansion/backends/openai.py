"""The backend for servers that speak OpenAI's chat completions."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import count, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ...common.frames import without_surrogates
from .answers import context_exceeded, counted_tokens, generation, without_key
from .base import Backend, Generation, Message, Request, Sampling, Stream, complete
from .failures import Failure, client_library, explained, shortened, words
from .quirks import Quirks, remember, remembered
from .retries import may_pass, pause_after
from .transport import UnusableAnswer, bounded_client, checked_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

#: fields of a request that are set by `Request` and `Sampling`
OWN_FIELDS = frozenset({"model", "messages", "temperature", "top_p", "max_tokens", "seed", "n", "stream"})

#: seconds to wait for a server's list of models
LIST_TIMEOUT = 10.0

#: how servers name the context length in that list: vLLM and SGLang, then vendors
CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window")

#: an upper bound for the tokens that a chat template adds around the messages
TEMPLATE_TOKENS = 256

logger = logging.getLogger(__name__)


class OpenAIBackend(Backend):
    """Generates with a server that speaks OpenAI's chat completions: vLLM's, llama.cpp's, a vendor's.

    Each sample is a separate request with its own seed, so servers that refuse `n > 1` also work, and each is stored as
    soon as it arrives. Whether a seed reproduces a text is up to the server. Failed requests (429, 5xx, lost
    connections, timeouts) are repeated after growing random pauses, or after the pause given in the server's
    `Retry-After` header. A request that still fails stops the batch with an error, after waiting for the samples in
    flight. An answer counts only if it is a single completion that ended by itself or at `max_new_tokens`. A completion
    that the server's content filter stopped counts as empty, as does a refusal that the server marks as one.

    If the model refuses `seed`, `temperature` or `top_p`, the request is sent again without it; a warning says so and
    the fingerprint records it (`not_honoured`). `max_tokens` is sent as `max_completion_tokens` to models that require
    it. What was learned is kept for later processes in `servers.json` in the cache folder (`EXPANDR_CACHE`). A query is
    cut to the context length given in the server's list of models, if any. Redirects to another server are refused.

    The key is read from an environment variable when it is needed. It appears in no message, log, cache or pickle.

    Args:
        model: the model's name on the server.
        base_url: the address of the API, such as "http://localhost:8000/v1".
        api_key_env: the environment variable with the key; servers without keys need none.
        concurrency: number of requests in flight at once.
        timeout: seconds to wait for one attempt.
        max_retries: number of attempts after the first one.
        deadline: seconds for one sample including all attempts and pauses.
        extra_body: more fields for each request, e.g. `{"top_k": -1}`; they are part of the cache address.
        prices: the price of a million tokens read and of a million tokens written, to tell what a run has cost.

    Raises:
        ValueError: the URL is invalid or contains a key (immediately); wrong key, unknown model, or a request that the
            server refuses, e.g. because the context is exceeded (when generating).
        ConnectionError: the server cannot be reached, keeps failing, or answers with something other than a completion.
        TimeoutError: no answer in time.
        ImportError: the package openai is missing (when generating).

    Example:
        >>> backend = OpenAIBackend("Qwen/Qwen2.5-7B-Instruct", base_url="http://localhost:8000/v1")
        >>> backend.fingerprint()["model"]
        'Qwen/Qwen2.5-7B-Instruct'
    """

    samples_apart = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout: float = 600.0,
        max_retries: int = 5,
        deadline: float = 1800.0,
        extra_body: dict[str, Any] | None = None,
        prices: Sequence[float] | None = None,
    ) -> None:
        if not model:
            raise ValueError("model is empty: name a model that the server offers")
        if concurrency < 1 or max_retries < 0 or timeout <= 0 or deadline <= 0:
            raise ValueError(
                "concurrency must be 1 or more, max_retries 0 or more, timeout and deadline above 0, got "
                f"{concurrency}, {max_retries}, {timeout}, {deadline}"
            )
        if taken := OWN_FIELDS & set(extra_body or {}):
            raise ValueError(f"extra_body must not set {sorted(taken)}: the request's sampling decides them")
        if prices is not None and (len(prices) != 2 or min(prices) < 0):
            raise ValueError(
                "prices must be two numbers, the price of a million tokens read and of a million tokens written, got "
                f"{prices!r}"
            )
        self.prices = None if prices is None else (float(prices[0]), float(prices[1]))
        self.model, self.api_key_env = model, api_key_env
        self.base_url = checked_url(base_url, self._key())
        self.concurrency, self.timeout = concurrency, timeout
        self.max_retries, self.deadline = max_retries, deadline
        self.extra_body = None if extra_body is None else json.loads(json.dumps(extra_body))
        self._quirks = remembered(self.base_url, self.model)
        self._asked_context = self._warned = False

    def fingerprint(self) -> dict[str, Any]:
        """Server, model, extra fields and what the model is known not to honour; never the key."""
        extra = {} if self.extra_body is None else {"extra_body": self.extra_body}
        return {"engine": "openai", "base_url": self.base_url, "model": self.model, **extra, **self.learned()}

    def learned(self) -> dict[str, Any]:
        """The request fields that the model refuses, as `not_honoured`; empty if it accepts all of them."""
        refused = self._quirks.not_honoured
        return {"not_honoured": list(refused)} if refused else {}

    @property
    def context_length(self) -> int | None:  # type: ignore[override]
        """The context length in the server's list of models, queried once; the last known one if the server is down."""
        if not self._asked_context:
            self._asked_context = True
            try:
                context = self._now(self._listed_context)
            except Exception as error:  # no server, no list: the error is reported when generating
                logger.info("%r lists no models: %s", self, shortened(words(error)))
            else:
                self._learn(replace(self._quirks, context=context))
        return self._quirks.context

    async def _listed_context(self, client: AsyncOpenAI) -> int | None:
        raw = await client.models.with_raw_response.list(timeout=min(LIST_TIMEOUT, self.timeout))
        listed: dict[str, Any] = next((m for m in json.loads(raw.content)["data"] if m["id"] == self.model), {})
        told = [listed[name] for name in CONTEXT_FIELDS if type(listed.get(name)) is int and listed[name] > 0]
        return told[0] if told else None

    def surely_fits(self, messages: Sequence[Message], tokens: int) -> bool:
        """Whether the prompt fits into `tokens` even if every byte were a token."""
        return sum(len(without_surrogates(m["content"]).encode()) for m in messages) + TEMPLATE_TOKENS <= tokens

    def prompt_tokens(self, messages: Sequence[Message], thinking: bool = False) -> int | None:
        """The number of prompt tokens that the server reports when asked for an answer of one token."""
        request = Request(tuple(messages), Sampling(temperature=0, max_new_tokens=1))
        try:
            answer = self._now(self._answer, request, 0)
        except Exception as error:
            said = words(error)
            if context_exceeded(said):
                return counted_tokens(said) or (self.context_length or 0) + 1
            raise self._explained(error, "nothing was written", request) from None
        return getattr(getattr(answer, "usage", None), "prompt_tokens", None)

    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index, one Generation per sample)` as they become ready; long prompts are sent first."""
        yield from complete(requests, self._samples(requests))

    def _samples(self, requests: Sequence[Request]) -> Generator[tuple[int, int, Generation], None, None]:
        """Yield each `(index of the request, sample, text)` once ready; the first error is raised at the end."""
        if not requests:
            return
        from anyio.from_thread import start_blocking_portal

        # Fail at the start, not after hours, if a prompt exceeds the server's context.
        order = sorted(range(len(requests)), key=lambda i: -sum(len(m["content"]) for m in requests[i].messages))
        waiting: Iterator[tuple[int, int]] = iter([(i, s) for i in order for s in dict.fromkeys(requests[i].samples)])
        running: dict[Future[Generation], tuple[int, int]] = {}
        finished: SimpleQueue[Future[Generation]] = SimpleQueue()
        error: tuple[BaseException, Request] | None = None
        written = 0
        client = self._client()
        # The event loop runs in its own thread, because a notebook's thread already has one.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            try:
                while True:
                    for i, sample in islice(waiting, self.concurrency - len(running) if error is None else 0):
                        future = portal.start_task_soon(self._ask, client, requests[i], sample)
                        running[future] = (i, sample)
                        future.add_done_callback(finished.put)
                    if not running:
                        break
                    future = finished.get()
                    i, sample = running.pop(future)
                    if (problem := future.exception()) is None:
                        written += 1
                        self._warn()
                        yield i, sample, future.result()
                    elif error is None:
                        error = problem, requests[i]
            finally:
                for future in running:
                    future.cancel()
        if error is not None:
            raise self._explained(error[0], f"{written} samples of this call were written before", error[1])

    def _client(self) -> AsyncOpenAI:
        openai = client_library()
        return openai.AsyncOpenAI(
            api_key=self._key() or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=0,  # the library's own retries do not respect longer pauses that a server asks for
            http_client=bounded_client()(timeout=self.timeout),
        )

    def _now(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `call(client, *arguments)`, with a client created only for this call."""
        from anyio.from_thread import start_blocking_portal

        client = self._client()
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            return portal.call(call, client, *arguments)

    async def _ask(self, client: AsyncOpenAI, request: Request, sample: int) -> Generation:
        return without_key(generation(await self._answer(client, request, sample)), self._key())

    async def _answer(self, client: AsyncOpenAI, request: Request, sample: int) -> Any:
        """The server's answer, after as many attempts as needed and allowed."""
        import anyio
        import openai

        with anyio.fail_after(self.deadline):
            for number in count():
                try:
                    return await self._try(client, request, sample)
                except openai.APIError as error:
                    if isinstance(error.__cause__, UnusableAnswer):
                        raise error.__cause__ from None
                    if number == self.max_retries or not may_pass(error):
                        raise
                    pause = pause_after(error, number)
                    if anyio.current_time() + pause > anyio.current_effective_deadline():
                        raise TimeoutError(f"{words(error)}; the next try would be in {pause:.0f} s") from error
                await anyio.sleep(pause)
        raise AssertionError("the loop ends by an answer or an error")

    async def _try(self, client: AsyncOpenAI, request: Request, sample: int) -> Any:
        """One answer; fields that the model refuses are left out, or sent under another name, until it answers."""
        import openai

        fields = {
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.sampling.max_new_tokens,
            "seed": request.sample_seed(sample) % 2**31,  # some servers store seeds in 32 bits
        }
        messages = [{"role": m["role"], "content": without_surrogates(m["content"])} for m in request.messages]
        quirks = self._quirks
        while True:
            try:
                answer = await client.chat.completions.create(
                    model=self.model,
                    messages=messages,  # type: ignore[arg-type]
                    extra_body=self.extra_body,
                    **quirks.applied(fields),
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = words(error)
                if context_exceeded(said) or (more := quirks.after(said)) is None:
                    raise
                quirks = more
            else:
                if quirks != self._quirks:  # do not learn changes that did not help
                    self._learn(quirks.joined(self._quirks))
                return answer

    def _learn(self, quirks: Quirks) -> None:
        if quirks != self._quirks:
            self._quirks = quirks
            remember(self.base_url, self.model, quirks)

    def _warn(self) -> None:
        """Warn, once per backend, about what its model does not honour."""
        if self._quirks.not_honoured and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self!r} does not take {', '.join(self._quirks.not_honoured)}: the server's own values are used, and "
                "its texts cannot be repeated, except from the cache",
                stacklevel=4,
            )

    def _key(self) -> str | None:
        return os.environ.get(self.api_key_env, "").strip() or None

    def _explained(self, error: BaseException, written: str, request: Request) -> BaseException:
        tries = f"after {self.max_retries + 1} tries"
        limits = f"timeout={self.timeout:g} s for a try, deadline={self.deadline:g} s for all"
        context = Failure(repr(self), self.model, self.api_key_env, self._key(), tries, limits, written, request)
        return explained(error, context)

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.model!r}, base_url={self.base_url!r})"
