"""What a chat completions server answered: the text of a completion, and the meaning of its errors."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ...common.frames import without_surrogates
from .base import Generation

#: how servers report that the model ended the text itself; some report nothing
FINISHED = frozenset({"", "stop", "eos", "eos_token", "stop_sequence", "end_turn"})

#: how servers report that the text was cut off at `max_new_tokens`
CUT = frozenset({"length", "max_tokens", "model_length"})

#: how servers report that the context is exceeded
CONTEXT = re.compile(
    r"context[ _](length|window|size)|maximum context|exceeds? the (available |model'?s )?context|prompt is too long|"
    r"input is too long|too many (input )?tokens",
    re.IGNORECASE,
)

#: where such a message gives the number of tokens in the prompt
COUNTS = (
    r"n_prompt_tokens\W+(\d+)",
    r"(\d+) in the messages",
    r"(?:prompt|request|input)[^.\d]{0,40}?(\d+) (?:input |prompt )?tokens",
    r"(\d+) (?:input|prompt) tokens",
    r"(?:resulted in|requested) (\d+) tokens",
)


def generation(answer: Any) -> Generation:
    """The single completion in `answer`; ValueError if it is anything else, which the client library does not check."""
    return replace(_completion(answer), tokens=used_tokens(answer))


def used_tokens(answer: Any) -> tuple[int, int] | None:
    """The numbers of tokens read and written that an answer reports, or None if it does not report both."""
    usage = getattr(answer, "usage", None)
    read, written = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return (read, written) if isinstance(read, int) and isinstance(written, int) else None


def _completion(answer: Any) -> Generation:
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
        text = ""  # all that was written is reasoning, which the server returns separately
    if text is None or reason not in FINISHED | CUT:
        raise ValueError(f"a choice that ended with {said!r} and the text {content!r}")
    return Generation(without_surrogates(text), truncated=reason in CUT)


def without_key(written: Generation, key: str | None) -> Generation:
    """The generation with the server's key replaced by `***`, in case the server repeats it: no file keeps it then.

    Keys of fewer than 8 characters are placeholders such as "EMPTY", and may be words of the text.

    Example:
        >>> without_key(Generation("use sk-12345678"), "sk-12345678").text
        'use ***'
    """
    return written if not key or len(key) < 8 else replace(written, text=written.text.replace(key, "***"))


def _joined(content: Any) -> str | None:
    """The texts in a list of parts, without any reasoning; None if it is not such a list."""
    kinds = ("text", "output_text", "thinking", "reasoning")
    if not isinstance(content, list) or not content or len(_parts(content, *kinds)) < len(content):
        return None
    texts: list[Any] = [part.get("text") for part in _parts(content, *kinds[:2])]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def _parts(content: Any, *kinds: str) -> list[dict[str, Any]]:
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") in kinds]


def context_exceeded(said: str) -> bool:
    """Whether a server's error message says that prompt and answer exceed its context.

    Example:
        >>> context_exceeded("This model's maximum context length is 8 tokens.")
        True
    """
    return CONTEXT.search(said) is not None


def counted_tokens(said: str) -> int | None:
    """The number of tokens in the prompt, if a server's error message gives it, else None.

    Example:
        >>> counted_tokens("maximum context length is 100 tokens and your request has 93 input tokens")
        93
    """
    found = (re.search(pattern, said, re.IGNORECASE) for pattern in COUNTS)
    return next((int(match[1]) for match in found if match), None)
