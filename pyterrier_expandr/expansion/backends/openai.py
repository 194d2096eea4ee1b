"""The backend for servers that speak OpenAI's chat completions."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from itertools import count, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...common.frames import without_surrogates
from .base import Backend, Generation, Request, Stream, complete
from .retries import may_pass, pause_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI

#: fields of a request that `Request` and `Sampling` decide
OWN_FIELDS = frozenset({"model", "messages", "temperature", "top_p", "max_tokens", "seed", "n", "stream"})

#: characters of a server's own words in an error message
QUOTED = 300


class OpenAIBackend(Backend):
    """Generates with a server that speaks OpenAI's chat completions: vLLM's, llama.cpp's, a vendor's.

    Each sample is a request of its own with its own seed, so servers that refuse `n > 1` serve as well, and each is
    stored as soon as it is there. How far a seed repeats a text is up to the server. Failed tries (429, 5xx, lost
    connections, timeouts) are repeated with growing random pauses, or after the pause that the server's `Retry-After`
    asks for. What then still fails stops the batch with an error; samples that were on their way are awaited first.
    An answer counts only if it is one completion that ended by itself or at `max_new_tokens`. A completion that the
    server's content filter stopped counts as empty.

    The key is read from an environment variable when it is needed. It is in no message, log, cache or pickle.

    Args:
        model: the model's name at the server.
        base_url: where the API is, such as "http://localhost:8000/v1".
        api_key_env: the environment variable with the key; servers without keys need none.
        concurrency: requests in flight at once.
        timeout: seconds to wait for one try.
        max_retries: tries after the first one.
        deadline: seconds for one sample with all its tries and pauses.
        extra_body: more fields for each request, e.g. `{"top_k": -1}`; they are part of the cache's address.

    Raises:
        ValueError: the URL is none or carries a key (at once); wrong key, unknown model, or a request that the server
            refuses, e.g. because the context is exceeded (when generating).
        ConnectionError: the server cannot be reached, keeps failing, or answers with anything but a completion.
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
        self.model, self.api_key_env = model, api_key_env
        self.base_url = _checked(base_url, self._key())
        self.concurrency, self.timeout = concurrency, timeout
        self.max_retries, self.deadline = max_retries, deadline
        self.extra_body = None if extra_body is None else json.loads(json.dumps(extra_body))

    def fingerprint(self) -> dict[str, Any]:
        """Server, model and extra fields; never the key."""
        extra = {} if self.extra_body is None else {"extra_body": self.extra_body}
        return {"engine": "openai", "base_url": self.base_url, "model": self.model, **extra}

    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index, one Generation per sample)` as they are ready; long prompts are sent first."""
        yield from complete(requests, self._samples(requests))

    def _samples(self, requests: Sequence[Request]) -> Generator[tuple[int, int, Generation], None, None]:
        """Each `(index of the request, sample, text)` as it is ready; the first error is raised after the others."""
        if not requests:
            return
        openai = _client_library()
        from anyio.from_thread import start_blocking_portal

        # A prompt that the server's context does not hold fails at the start and not after hours.
        order = sorted(range(len(requests)), key=lambda i: -sum(len(m["content"]) for m in requests[i].messages))
        waiting: Iterator[tuple[int, int]] = iter([(i, s) for i in order for s in dict.fromkeys(requests[i].samples)])
        running: dict[Future[Generation], tuple[int, int]] = {}
        finished: SimpleQueue[Future[Generation]] = SimpleQueue()
        error: BaseException | None = None
        written = 0
        client = openai.AsyncOpenAI(
            api_key=self._key() or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=0,  # the library's own retries do not keep longer pauses that a server asks for
        )
        # The event loop runs in a thread of its own: a notebook's thread has one already.
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
                        yield i, sample, future.result()
                    elif error is None:
                        error = problem
            finally:
                for future in running:
                    future.cancel()
        if error is not None:
            raise self._explained(error, f"{written} samples of this call were written before")

    async def _ask(self, client: AsyncOpenAI, request: Request, sample: int) -> Generation:
        import anyio
        import openai

        with anyio.fail_after(self.deadline):
            for number in count():
                try:
                    return _generation(await self._try(client, request, sample))
                except openai.APIError as error:
                    if number == self.max_retries or not may_pass(error):
                        raise
                    pause = pause_after(error, number)
                    if anyio.current_time() + pause > anyio.current_effective_deadline():
                        raise TimeoutError(f"{_words(error)}; the next try would be in {pause:.0f} s") from error
                await anyio.sleep(pause)
        raise AssertionError("the loop ends by an answer or an error")

    async def _try(self, client: AsyncOpenAI, request: Request, sample: int) -> Any:
        return await client.chat.completions.create(
            model=self.model,
            messages=[{"role": m["role"], "content": without_surrogates(m["content"])} for m in request.messages],  # type: ignore[misc]
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_new_tokens,
            seed=request.sample_seed(sample) % 2**31,  # some servers keep seeds in 32 bits
            extra_body=self.extra_body,
        )

    def _key(self) -> str | None:
        return os.environ.get(self.api_key_env, "").strip() or None

    def _explained(self, error: BaseException, written: str) -> BaseException:
        """`error` in words that say how to mend it, without the key, which some servers repeat."""
        openai = _client_library()
        key = self._key()
        said = _words(error)
        said = " ".join((said.replace(key, "***") if key else said).split())
        said = said if len(said) <= QUOTED else said[:QUOTED] + " ..."
        tries = f"after {self.max_retries + 1} tries"
        if isinstance(error, (openai.APITimeoutError, TimeoutError)):
            limits = f"timeout={self.timeout:g} s for a try, deadline={self.deadline:g} s for all"
            return TimeoutError(f"{self!r} gave no answer in time ({limits}): {said or 'no answer'}; {written}")
        if isinstance(error, openai.APIConnectionError):
            return ConnectionError(f"{self!r} cannot be reached {tries}: {said}; is the server running? {written}")
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            state = "its value was refused" if key else "it is not set"
            return ValueError(
                f"{self!r} refused the key: {said}\nThe key comes from the environment variable {self.api_key_env}: "
                f"{state}; {written}"
            )
        if isinstance(error, openai.NotFoundError):
            return ValueError(f"{self!r} has no model {self.model!r}, or no chat completions there: {said}; {written}")
        if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code != 429:
            mend = "if the context is exceeded, shorten the prompt or lower max_new_tokens"
            return ValueError(f"{self!r} refused a request: {said} ({mend}; {written})")
        if isinstance(error, openai.APIStatusError):
            return ConnectionError(f"{self!r} failed {tries}: {said}; {written}")
        if isinstance(error, (ValueError, openai.APIError)):
            return ConnectionError(f"{self!r} answered with no completion: {said}; {written}")
        return error

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.model!r}, base_url={self.base_url!r})"


def _words(error: BaseException) -> str:
    """What an error says, with the server's own words."""
    openai = _client_library()
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {error.response.text}"
    if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        return f"{error} ({type(error.__cause__).__name__}: {error.__cause__})"
    return str(error)


def _client_library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError("OpenAIBackend needs the package openai: pip install 'pyterrier_expandr[openai]'") from error
    return openai


def _checked(base_url: str, key: str | None) -> str:
    """The URL without a slash at its end; ValueError, which never shows the URL, if it is none or carries a key."""
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query or parts.fragment or (key and key in base_url):
        raise ValueError(
            "base_url must be scheme, host, port and path alone: no user, query or key "
            "(a key comes from the environment variable that api_key_env names)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('base_url must be such as "http://localhost:8000/v1"')
    return base_url.rstrip("/")


def _generation(answer: Any) -> Generation:
    """The one completion in `answer`; ValueError if it is anything else: the client library does not look inside."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1:
        found = f"{len(choices)} choices instead of one" if isinstance(choices, list) else repr(answer)
        raise ValueError(found)
    reason = getattr(choices[0], "finish_reason", None)
    if reason == "content_filter":
        return Generation("")
    text = getattr(getattr(choices[0], "message", None), "content", None)
    if text is None and reason == "length":
        text = ""  # all tokens went into a reasoning that the server keeps apart
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise ValueError(f"a choice that ended with {reason!r} and the text {text!r}")
    return Generation(without_surrogates(text), truncated=reason == "length")
