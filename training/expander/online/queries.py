"""The queries that the LLM writes for while it is trained, as exactly the tokens that it reads when it expands them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ....common.files import path_of
from ....common.jsonl import read_jsonl
from ....expansion.backends.base import Message
from ....expansion.backends.huggingface import HuggingFaceBackend
from ....expansion.prompts import requests_for, resolve_prompt
from ...data.examples import examples_from_jsonl
from ...preferences.candidates import CandidateSet
from ..pair_tokens import TokenizedPairs, end_of_turn
from .settings import OnlineSettings


def read_queries(path: str | Path, *, answers: bool) -> list[CandidateSet]:
    """Queries with their first positive and, if the file has them, the LLM's answers; they have no candidates.

    Args:
        path: a JSONL file of training examples, or the `candidates.jsonl` of `build_pairs`, which has answers.
        answers: whether each query must have an answer.

    Raises:
        ValueError: a malformed row, a repeated query id, or a missing answer. FileNotFoundError: there is no such file.
    """
    path = Path(path_of(path))
    rows = [row for _, row in read_jsonl(path)]
    examples = list(examples_from_jsonl(path))
    found = [
        CandidateSet(one.query_id, one.query, one.positive_ids[0], one.positives[0], str(row.get("answer") or ""), ())
        for one, row in zip(examples, rows, strict=True)
    ]
    if repeated := [name for name, count in Counter(one.query_id for one in found).items() if count > 1]:
        raise ValueError(f"{path}: the query ids {repeated[:5]} are repeated, so their texts cannot be told apart")
    if answers and (lacking := [one.query_id for one in found if not one.answer.strip()]):
        raise ValueError(
            f'{path}: the reward "self" compares with an answer, but {len(lacking)} queries have none, such as '
            f"{lacking[:5]}: take the candidates.jsonl of `expandr train pairs`, or leave that reward out"
        )
    return found


def tokenize_queries(
    queries: Sequence[CandidateSet], backend: HuggingFaceBackend, settings: OnlineSettings, max_length: int
) -> TokenizedPairs:
    """Rows with `query_id` and `prompt`, the rendered text whose tokens are those of inference.

    A query whose prompt and `max_new_tokens` exceed `max_length` is left out and counted as "too long".

    Raises:
        ValueError: a prompt whose text does not give its tokens, or a chat template without a generation prompt.
    """
    result = TokenizedPairs(end_of_turn(backend), dropped={"too long": 0})
    template = resolve_prompt(settings.prompt)
    asked = [(one.query, "") for one in queries]
    requests, _ = requests_for([template], asked, settings.sampling(0), 1, backend)
    for one in queries:
        messages = requests[template, one.query, ""].messages
        if len(backend.prompt_ids(messages)) + settings.max_new_tokens > max_length:
            result.dropped["too long"] += 1
            continue
        result.rows.append({"query_id": one.query_id, "prompt": prompt_text(backend, messages)})
        result.prompts.append(tuple(messages))
    return result


def prompt_text(backend: HuggingFaceBackend, messages: Sequence[Message]) -> str:
    """The rendered prompt as a text whose tokens, without added ones, are `backend.prompt_ids(messages)`.

    TRL tokenises prompts by itself. It is given this text, in which the begin-of-sequence token is spelled out.

    Raises:
        ValueError: the tokenizer reads the text otherwise.
    """
    tokenizer, text, expected = backend.tokenizer, backend.rendered_prompt(messages), backend.prompt_ids(messages)
    for begin in ("", tokenizer.bos_token or ""):
        if list(tokenizer(begin + text, add_special_tokens=False)["input_ids"]) == expected:
            return begin + text
    raise ValueError(
        f"the tokenizer of {backend.model!r} does not give the prompt's tokens for its text, so it cannot be trained "
        "on what it reads"
    )
