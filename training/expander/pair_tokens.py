"""Preference pairs as tokens: DPO sees exactly the tokens the model reads and writes when it expands a query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jinja2 import TemplateError

from ...expansion.backends.base import Message
from ...expansion.backends.huggingface import HuggingFaceBackend

#: what to do with a pair that exceeds the maximum length: leave it out, or cut its completions
Overlong = Literal["drop", "cut"]

#: a text whose position in a rendered chat shows what the template writes around an answer
_MARK = "expansion-goes-here"


@dataclass
class TokenizedPairs:
    """Pairs as token ids, the messages of their prompts in the same order, and counts of pairs dropped or cut.

    `rows` have `prompt_ids`, `chosen_ids` and `rejected_ids`; those of queries without texts have `query_id` and
    `prompt`. `dropped` counts pairs by reason, `cut` those with a completion that was cut, and `end` is the token that
    ends a turn.
    """

    end: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=lambda: {"equal texts": 0, "too long": 0})
    cut: int = 0

    def select(self, places: Sequence[int]) -> TokenizedPairs:
        """The pairs at `places`, with the same counts."""
        return replace(self, rows=[self.rows[i] for i in places], prompts=[self.prompts[i] for i in places])


def tokenize_pairs(
    pairs: Iterable[dict[str, Any]],
    backend: HuggingFaceBackend,
    *,
    max_length: int,
    overlong: Overlong = "drop",
    source: str = "pairs",
) -> TokenizedPairs:
    """Conversational preference rows as tokens; the DPO loss covers all of `chosen_ids` and `rejected_ids`.

    A prompt becomes exactly the tokens that `backend` would read, with one begin-of-sequence token, and is never cut. A
    completion is its text plus the chat template's end-of-turn token. A completion that is cut to fit has no end of
    turn: the model must not learn to stop there. Pairs of equal texts, and pairs that no cut can fit, are left out.

    Args:
        pairs: rows with `prompt` (messages, the last one from the user), `chosen` and `rejected` (one assistant message
            each).
        backend: the model that will write the expansions.
        max_length: most tokens of prompt and completion together.
        overlong: "drop" leaves out a pair that is longer, "cut" shortens its completions.
        source: what the pairs are called in errors, such as their file.

    Raises:
        ValueError: a row in another format (its number is named), a prompt that the chat template rejects, or a chat
            template that does not show where an answer begins.
    """
    end = end_of_turn(backend)
    result = TokenizedPairs(end)
    for number, pair in enumerate(pairs, 1):
        where = f"{source}, pair {number}"
        prompt, chosen, rejected = _checked(pair, where)
        try:
            prompt_ids = backend.prompt_ids(prompt)
        except TemplateError as error:
            raise ValueError(f"{where}: the chat template of {backend.model!r} rejects the prompt: {error}") from error
        room = max_length - len(prompt_ids)
        sides = [[*backend.text_ids(text), end] for text in (chosen, rejected)]
        longest = max(map(len, sides))
        if room < 1 or (longest > room and overlong == "drop"):
            result.dropped["too long"] += 1
            continue
        sides = [side[:room] for side in sides]
        if sides[0] == sides[1]:
            result.dropped["equal texts"] += 1
            continue
        result.cut += longest > room
        result.rows.append({"prompt_ids": prompt_ids, "chosen_ids": sides[0], "rejected_ids": sides[1]})
        result.prompts.append(prompt)
    return result


def end_of_turn(backend: HuggingFaceBackend) -> int:
    """The token with which the model ends its answer: the first special token that the template writes after one.

    Raises:
        ValueError: the template opens an answer with a header that its generation prompt lacks, so that the model is
            never prompted to answer.
    """
    tokenizer = backend.tokenizer
    if tokenizer.chat_template is None:
        return int(tokenizer.eos_token_id)
    user = {"role": "user", "content": "question"}
    answer = {"role": "assistant", "content": _MARK}
    try:
        chat = str(tokenizer.apply_chat_template([user, answer], tokenize=False))
        prompt, bare = (
            str(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=asked))
            for asked in (True, False)
        )
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {backend.model!r} cannot render a question and its answer: {error}"
        ) from error
    header, _, behind = chat.partition(_MARK)
    if prompt == bare and header != bare and header.startswith(bare):
        raise ValueError(
            f"the chat template of {backend.model!r} starts an answer with {header[len(bare) :]!r} but has no "
            "generation prompt, so the model would not know that it should answer: append "
            f"{{% if add_generation_prompt %}}{header[len(bare) :]!r}{{% endif %}} to it"
        )
    special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return int(next((token for token in ids if token in special), tokenizer.eos_token_id))


def held_out(pairs: TokenizedPairs, fraction: float, seed: int) -> tuple[TokenizedPairs, TokenizedPairs]:
    """(training, held-out) pairs: a seeded `fraction` of the distinct prompts, and thus of the queries, is held out."""
    keys = [json.dumps([seed, prompt]) for prompt in pairs.prompts]
    ordered = sorted(dict.fromkeys(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    count = 0 if fraction == 0 else max(1, round(fraction * len(ordered)))
    apart = set(ordered[:count])
    places = range(len(keys))
    return (
        pairs.select([i for i in places if keys[i] not in apart]),
        pairs.select([i for i in places if keys[i] in apart]),
    )


def _checked(pair: dict[str, Any], where: str) -> tuple[tuple[Message, ...], str, str]:
    """Prompt messages and both completions of a row. Raises a ValueError that gives its location."""
    prompt = pair.get("prompt")
    messages = prompt if isinstance(prompt, list) and all(map(_is_message, prompt)) else []
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise ValueError(
            f"{where}: prompt must be a list of chat messages with role and content, the last one by the user"
        )
    texts = []
    for side in ("chosen", "rejected"):
        answer = pair.get(side)
        if not isinstance(answer, list) or len(answer) != 1 or not _is_answer(answer[0]):
            raise ValueError(f"{where}: {side} must be a list with one assistant message that contains text")
        texts.append(answer[0]["content"])
    return tuple(Message(role=m["role"], content=m["content"]) for m in messages), texts[0], texts[1]


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )


def _is_answer(message: Any) -> bool:
    return _is_message(message) and message["role"] == "assistant" and bool(message["content"].strip())
