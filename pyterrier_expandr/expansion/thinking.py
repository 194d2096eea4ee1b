"""Texts of models that reason before they answer: what is left once the reasoning is removed."""

from __future__ import annotations

import re

#: the pairs of marks that open and close the reasoning: Qwen, DeepSeek and others; two rarer spellings; Seed;
#: Magistral; Command; Kimi; Gemma
MARKS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
)

#: the control tokens of gpt-oss, which writes each part of its turn to a channel: `analysis`, `commentary`, `final`
CHANNEL, CHANNEL_TOKENS = "<|channel|>", ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>")

_FINAL = re.compile(r"<\|channel\|>\s{0,9}final\b[^<]{0,99}(?:<\|constrain\|>[^<]{0,99})?<\|message\|>")
_END_OF_PART = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
#: the same when the control tokens were dropped on decoding, as some servers do
_BARE_THOUGHT, _BARE_FINAL = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z\"'])"), "assistantfinal"
#: what some models wrap their answer in after reasoning
_WRAPPED = re.compile(r"\s*<(answer|response)>(.*?)(?:</\1>\s*)?", re.DOTALL | re.IGNORECASE)
_CLOSING = re.compile("|".join(re.escape(closing) for _, closing in MARKS), re.IGNORECASE)


def without_thought(text: str, *, begun: bool = False) -> str:
    """The answer in `text`, without the reasoning before it; "" if the reasoning does not end.

    Only reasoning before the answer is removed, and a text without reasoning is returned unchanged: a mark inside a
    passage is part of the passage. A closing mark without an opening one ends reasoning that the chat template opened.

    Args:
        text: a text as the model wrote it, with its marks.
        begun: whether the prompt itself opened the reasoning, see `begins_thought`; everything up to the closing mark
            is then reasoning.

    Example:
        >>> without_thought("<think>The user asks about the sky.</think> Air scatters light.")
        'Air scatters light.'
        >>> without_thought("<think>The user asks about"), without_thought("Air scatters light.")
        ('', 'Air scatters light.')
        >>> without_thought("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Air.")
        'Air.'
    """
    if text.lstrip().startswith((CHANNEL, "<|start|>")):
        parts = _FINAL.split(text)
        return _END_OF_PART.split(parts[-1])[0].strip() if len(parts) > 1 else ""
    if _BARE_THOUGHT.match(text):
        return text.rpartition(_BARE_FINAL)[2].strip() if _BARE_FINAL in text else ""
    end = _end_of_thought(text, begun)
    if end == 0:
        return text
    answer = text[end:].strip()
    wrapped = _WRAPPED.fullmatch(answer)
    return wrapped[2].strip() if wrapped else answer


def begins_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends with a mark that opens the reasoning, so that the model's text begins inside it.

    Example:
        >>> begins_thought("<|assistant|><think>\\n"), begins_thought("<|assistant|><think>\\n\\n</think>\\n\\n")
        (True, False)
    """
    return prompt.rstrip().endswith(tuple(opening for opening, _ in MARKS))


def _end_of_thought(text: str, begun: bool) -> int:
    """Where the last reasoning at the beginning of `text` ends: 0 if there is none, the length if it does not end."""
    end = 0
    while True:
        opened = _opening(text, end)
        found = (
            _CLOSING.search(text, end) if opened is None else re.compile(re.escape(opened[1]), re.I).search(text, end)
        )
        inside = opened is not None or (begun and end == 0)
        if found is None:
            return len(text) if inside else end
        opening = next(first for first, closing in MARKS if closing.casefold() == found[0].casefold())
        if not inside and opening in text[end : found.start()]:
            return end  # a pair of marks within the answer
        end = found.end()


def _opening(text: str, start: int) -> tuple[str, str] | None:
    """The pair of marks whose opening one is found at `start`, after any white space."""
    while start < len(text) and text[start].isspace():
        start += 1
    head = text[start : start + 20].casefold()
    return next((pair for pair in MARKS if head.startswith(pair[0].casefold())), None)
