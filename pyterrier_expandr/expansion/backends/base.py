"""The interface of every LLM backend: `Request` in, `Generation` out."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Self


class Message(TypedDict):
    """One chat message; `content` is always read as text, never as control tokens that steer the model."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults are the paper's released evaluation setting, with a seed added.

    `temperature=0` takes the most probable token each time. Raises ValueError if a value is out of range, and TypeError
    if a value that must be a whole number is not.

    Example:
        >>> Sampling(temperature=0.8).top_p
        0.9
    """

    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p!r}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens!r}")
        # Equal settings must be written alike: seeds and cache addresses are hashes of their JSON, where 1 is not 1.0.
        for name in ("temperature", "top_p"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("max_new_tokens", "seed"):
            value = getattr(self, name)
            if not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            object.__setattr__(self, name, int(value))


@dataclass(frozen=True)
class Request:
    """One conversation, how to sample from it, which of its numbered samples are wanted, and whether to think first.

    Samples are numbered so that a cache that holds samples 0 to 3 can request only 4 to 7 and get the same texts that a
    request for all eight would have given.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    samples: tuple[int, ...] = (0,)
    thinking: bool = False

    def sample_seed(self, sample: int) -> int:
        """The 63-bit seed of one sample: it depends only on this request, not on other requests in the batch."""
        identity = json.dumps([self.messages, asdict(self.sampling), sample], ensure_ascii=True, sort_keys=True)
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Generation:
    """One text as the model wrote it.

    `truncated` means that it reached `max_new_tokens` before its end of turn; `refused`, with an empty text, means that
    the server marked the model's output as a refusal. What the text took is no part of its identity: `tokens`, the
    numbers of tokens read and written (None if unknown), and `cached`, that a cache had the text already.
    """

    text: str
    truncated: bool = False
    refused: bool = False
    tokens: tuple[int, int] | None = field(default=None, compare=False, repr=False)
    cached: bool = field(default=False, compare=False, repr=False)


Stream: TypeAlias = Generator[tuple[int, list[Generation]], None, None]


class Backend(ABC):
    """A backend that writes texts. Subclasses load their model on first use, never in the constructor."""

    #: maximum number of tokens of prompt and generation together; None if the backend does not know it
    context_length: int | None = None

    #: whether requesting samples one by one costs no more than all together; if so, each is stored once ready
    samples_apart: bool = False

    #: price of a million tokens read, and of a million tokens written, in any currency; None if there is no price
    prices: tuple[float, float] | None = None

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What determines this backend's texts besides the request (model, revision, dtype), as JSON values.

        This must not load the model, because cache addresses are computed from it.
        """

    @abstractmethod
    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index of the request, one Generation per requested sample)` as they become ready, in any order."""

    def prompt_tokens(self, messages: Sequence[Message], thinking: bool = False) -> int | None:
        """Number of tokens of the rendered prompt, or None if the backend cannot count them."""
        return None

    def surely_fits(self, messages: Sequence[Message], tokens: int) -> bool:
        """Whether the rendered prompt certainly has no more than `tokens` tokens, without counting them."""
        return False

    def learned(self) -> dict[str, Any]:
        """What generating has added to the fingerprint; it is recorded with all texts written from then on."""
        return {}

    def template_variables(self, thinking: bool = False) -> dict[str, Any]:
        """The variables of the model's chat template besides the messages, as JSON values; {} if it reads no others.

        This must not load the model, because cache addresses are computed from it.
        """
        return {}

    def rendered_prompt(self, messages: Sequence[Message], thinking: bool = False) -> str | None:
        """The prompt as the model reads it, or None if the backend does not know it."""
        return None

    def generate(self, requests: Sequence[Request]) -> list[list[Generation]]:
        """All generations, in the order of `requests`."""
        results = dict(self.stream(requests))
        if missing := [i for i in range(len(requests)) if i not in results]:
            raise RuntimeError(f"{self!r} gave no answer to {len(missing)} of {len(requests)} requests: {missing[:5]}")
        return [results[i] for i in range(len(requests))]

    def close(self) -> None:  # noqa: B027  most backends hold nothing
        """Free the backend's resources; they are acquired again when needed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _settings(self) -> dict[str, Any]:
        """The constructor's arguments, i.e. attributes without a leading underscore."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __eq__(self, other: object) -> bool:
        # By settings rather than fingerprint: the fingerprint of a hub model changes when the model is downloaded.
        return self._settings() == other._settings() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self._settings(), sort_keys=True, default=str)))


def complete(requests: Sequence[Request], samples: Iterable[tuple[int, int, Generation]]) -> Stream:
    """Collect samples `(index of the request, sample, text)`, in any order, into what `Backend.stream` yields."""
    found: list[dict[int, Generation]] = [{} for _ in requests]
    for i, sample, generation in samples:
        found[i][sample] = generation
        wanted = requests[i].samples
        if len(found[i]) == len(set(wanted)):
            yield i, [found[i][s] for s in wanted]


def check_context(request: Request, prompt_tokens: int, context: int | None) -> None:
    """Raise ValueError if the prompt and `max_new_tokens` together exceed `context`, if that is known."""
    new = request.sampling.max_new_tokens
    if context is not None and prompt_tokens + new > context:
        raise ValueError(
            f"a prompt of {prompt_tokens} tokens and max_new_tokens={new} exceed the model's context of {context}: "
            f"shorten the prompt or lower max_new_tokens ({request.messages[-1]['content']!r:.60})"
        )
