"""Neutralises control tokens that a text spells out, so that it cannot end a turn or begin another."""

from __future__ import annotations

import re


def plain_control_tokens(text: str, tokens: list[str]) -> str:
    """`text` with a space put into each spelling of a control token, so that a tokenizer reads it as ordinary text.

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
