"""Error messages for a server that cannot be reached, refuses a request, or does not answer with a completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...common.extras import needed_for
from ...common.printable import printable
from .answers import context_exceeded, counted_tokens
from .base import Request

#: maximum number of characters of the server's own words in an error message
QUOTED = 300


@dataclass(frozen=True)
class Failure:
    """What an error message says besides the error itself: which server, how long was tried, and which request."""

    backend: str
    model: str
    api_key_env: str
    key: str | None
    tries: str
    limits: str
    written: str
    request: Request


def explained(error: BaseException, failure: Failure) -> BaseException:
    """`error` in words that say how to fix it, without the key, which some servers repeat."""
    openai = client_library()
    who, written, key = failure.backend, failure.written, failure.key
    whole = words(error)
    said = shortened(" ".join((whole.replace(key, "***") if key else whole).split()))
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return TimeoutError(f"{who} gave no answer in time ({failure.limits}): {said or 'no answer'}; {written}")
    if isinstance(error, openai.APIConnectionError):
        return ConnectionError(f"{who} cannot be reached {failure.tries}: {said}; is the server running? {written}")
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        state = "its value was refused" if key else "it is not set"
        return ValueError(
            f"{who} refused the key: {said}\nThe key comes from the environment variable {failure.api_key_env}: "
            f"{state}; {written}"
        )
    if isinstance(error, openai.NotFoundError):
        return ValueError(f"{who} has no model {failure.model!r}, or no chat completions there: {said}; {written}")
    if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code != 429:
        mend = f"{_too_long(failure.request, whole)}; " if context_exceeded(whole) else ""
        return ValueError(f"{who} refused a request: {said} ({mend}{written})")
    if isinstance(error, openai.APIStatusError):
        return ConnectionError(f"{who} failed {failure.tries}: {said}; {written}")
    if isinstance(error, (ValueError, openai.APIError)):
        return ConnectionError(f"{who} did not answer with a completion: {said}; {written}")
    return error


def words(error: BaseException) -> str:
    """The text of an error, including the server's own words."""
    openai = client_library()
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {error.response.text}"
    if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        return f"{error} ({type(error.__cause__).__name__}: {error.__cause__})"
    return str(error)


def shortened(said: str) -> str:
    """The beginning of a text from outside, with characters that would control a terminal made harmless."""
    return printable(said if len(said) <= QUOTED else said[:QUOTED] + " ...")


def _too_long(request: Request, said: str) -> str:
    """Which prompt exceeds the context, and how long it is."""
    prompt, new = request.messages[-1]["content"], request.sampling.max_new_tokens
    tokens = counted_tokens(said)
    size = f"{len(prompt)} characters" if tokens is None else f"{tokens} tokens"
    return (
        f"a prompt of {size} and max_new_tokens={new} exceed the context: shorten the prompt or lower max_new_tokens; "
        f"it is {shortened(repr(prompt))}"
    )


def client_library() -> Any:
    """The package openai, or an ImportError that says how to install it."""
    with needed_for("OpenAIBackend", "openai"):
        import openai
    return openai
