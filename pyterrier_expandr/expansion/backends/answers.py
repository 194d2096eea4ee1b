"""What a chat completions server answered: the text in a completion, and what its errors say."""

from __future__ import annotations

import re
from typing import Any

from ...common.frames import without_surrogates
from .base import Generation

#: how servers name the end of a text that the model ended itself; some say nothing
FINISHED = frozenset({"", "stop", "eos", "eos_token", "stop_sequence", "end_turn"})

#: how they name the end of one that `max_new_tokens` cut
CUT = frozenset({"length", "max_tokens", "model_length"})

#: what a server says whose context is exceeded
CONTEXT = re.compile(
    r"context[ _](length|window|size)|maximum context|exceeds? the (available |model'?s )?context|prompt is too long|"
    r"input is too long|too many (input )?tokens",
    re.IGNORECASE,
)

#: where it says how many tokens the prompt has
COUNTS = (
    r"n_prompt_tokens\W+(\d+)",
    r"(\d+) in the messages",
    r"(?:prompt|request|input)[^.\d]{0,40}?(\d+) (?:input |prompt )?tokens",
    r"(\d+) (?:input|prompt) tokens",
    r"(?:resulted in|requested) (\d+) tokens",
)


def generation(answer: Any) -> Generation:
    """The one completion in `answer`; ValueError if it is anything else: the client library does not look inside."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1:
        found = f"{len(choices)} choices instead of one" if isinstance(choices, list) else repr(answer)
        raise ValueError(found)
    said = getattr(choices[0], "finish_reason", None)
    reason = said.lower() if isinstance(said, str) else "" if said is None else repr(said)
    if reason == "content_filter":
        return Generation("")
    message = getattr(choices[0], "message", None)
    content = getattr(message, "content", None)
    if getattr(message, "refusal", None) or _parts(content, "refusal"):
        return Generation("", refused=True)
    text = content if isinstance(content, str) else _joined(content)
    apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if content is None and (reason in CUT or (apart and reason in FINISHED)):
        text = ""  # all that was written is a reasoning that the server keeps apart
    if text is None or reason not in FINISHED | CUT:
        raise ValueError(f"a choice that ended with {said!r} and the text {content!r}")
    return Generation(without_surrogates(text), truncated=reason in CUT)


def _joined(content: Any) -> str | None:
    """The texts in a list of parts; None where it is no such list. A reasoning among them is left out."""
    kinds = ("text", "output_text", "thinking", "reasoning")
    if not isinstance(content, list) or not content or len(_parts(content, *kinds)) < len(content):
        return None
    texts: list[Any] = [part.get("text") for part in _parts(content, *kinds[:2])]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def _parts(content: Any, *kinds: str) -> list[dict[str, Any]]:
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") in kinds]


def context_exceeded(said: str) -> bool:
    """Whether a server's words say that prompt and answer exceed its context.

    Example:
        >>> context_exceeded("This model's maximum context length is 8 tokens.")
        True
    """
    return CONTEXT.search(said) is not None


def counted_tokens(said: str) -> int | None:
    """The tokens of the prompt, where a server's words name them.

    Example:
        >>> counted_tokens("maximum context length is 100 tokens and your request has 93 input tokens")
        93
    """
    found = (re.search(pattern, said, re.IGNORECASE) for pattern in COUNTS)
    return next((int(match[1]) for match in found if match), None)
