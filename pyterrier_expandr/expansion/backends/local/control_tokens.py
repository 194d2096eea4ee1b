"""Control tokens: inactive when spelled out in a message; in generated text, only reasoning marks are kept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...thinking import CHANNEL, CHANNEL_TOKENS, MARKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def plain_control_tokens(text: str, tokens: list[str]) -> str:
    """`text` with a space inserted into each spelled-out control token, so that a tokenizer reads it as ordinary text.

    Example:
        >>> plain_control_tokens("what does <|eot_id|> mean", ["<|eot_id|>"])
        'what does < |eot_id|> mean'
    """
    spelled = [token for token in tokens if len(token) > 1]
    if not spelled:
        return text
    pattern = re.compile("|".join(re.escape(token) for token in sorted(spelled, key=len, reverse=True)))
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The control tokens of a model, as text."""
    # Some models mark turns with added tokens that are not flagged as special: those that the template itself writes.
    template = str(tokenizer.chat_template)
    control = [
        t.content
        for t in tokenizer.added_tokens_decoder.values()
        if t.special
        or t.content.startswith(("<|", "<\uff5c"))
        or (t.content[:1] in ("<", "[") and t.content in template)
    ]
    return [*control, *tokenizer.all_special_tokens]


def visible_ids(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`ids` without control tokens other than reasoning marks; `ids` itself if no mark is a control token.

    Decoding drops control tokens. If the marks were among them, the reasoning would run into the answer.
    """
    control = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = {mark for pair in MARKS for mark in pair}
    if CHANNEL in control.values():
        marks.update(CHANNEL_TOKENS)
    if not any(control.get(i) in marks for i in ids):
        return ids
    return [i for i in ids if i not in control or control[i] in marks]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a generation: those of the model's generation configuration and of the tokenizer."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return list(dict.fromkeys([*ends, int(tokenizer.eos_token_id)]))
