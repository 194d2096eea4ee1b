"""The named prompts, and how they are turned into chat messages that fit a model's context."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from string import Formatter
from typing import Any

from .backends.base import Backend, Message, Request, Sampling

#: q2d is the prompt that the released checkpoints were trained on. The others are worded by this project.
PROMPTS: dict[str, str] = {
    "q2d": "Please write a passage to answer the question.\nQuestion: {query}\nPassage:",
    "q2a": (
        "Please answer the question with the help of the document.\nDocument: {document}\nQuestion: {query}\nAnswer:"
    ),
    "q2q": "Please rewrite the question for a search engine.\nQuestion: {query}\nRewritten question:",
    "q2e": "Please write a list of keywords for the question.\nQuestion: {query}\nKeywords:",
    "q2c": "Please answer the question. Give the reasoning before the answer.\nQuestion: {query}\nReasoning:",
    "q2d_context": (
        "Please write a passage to answer the question. The search results may help, and may be wrong.\n"
        "Search results:\n{context}\nQuestion: {query}\nPassage:"
    ),
}


def resolve_prompt(prompt: str, *, fields: tuple[str, ...] = ("query",)) -> str:
    """The template that `prompt` names, or `prompt` itself if it is already a template.

    Args:
        prompt: a key of `PROMPTS`, or a template with exactly `fields` in braces.
        fields: what the template must contain.

    Raises:
        ValueError: an unknown name, or a template with missing or unknown fields.

    Example:
        >>> resolve_prompt("q2e")
        'Please write a list of keywords for the question.\\nQuestion: {query}\\nKeywords:'
    """
    template = PROMPTS.get(prompt, prompt)
    try:
        found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"prompt {prompt!r} is not a valid template: {error}; {{{{ is a literal brace") from error
    if found != set(fields):
        wanted = ", ".join(f"{{{name}}}" for name in fields)
        raise ValueError(
            f"prompt {prompt!r} must contain {wanted} and no other field, found {sorted(found)}; "
            f"named prompts are {sorted(PROMPTS)}"
        )
    return template


def resolve_prompts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """The templates of one or more prompts, each with `{query}`, and with `{context}` if it shows search results.

    Raises:
        ValueError: no prompt, a repeated prompt, or any error of `resolve_prompt`.

    Example:
        >>> [len(template) for template in resolve_prompts(["q2d", "{context} {query}"])]
        [73, 17]
    """
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"prompt must be one prompt or several different ones, got {prompts!r}")
    with_context = ["{context}" in PROMPTS.get(name, name) for name in names]
    fields = [("query", "context") if shown else ("query",) for shown in with_context]
    return tuple(resolve_prompt(name, fields=each) for name, each in zip(names, fields, strict=True))


def render(template: str, **fields: str) -> tuple[Message, ...]:
    """One user message: `template` with its fields filled in. Braces inside a field's text are treated as plain text.

    Example:
        >>> render("Q: {query}", query="what is {x}?")
        ({'role': 'user', 'content': 'Q: what is {x}?'},)
    """
    return (Message(role="user", content=template.format(**fields)),)


def fit(
    template: str,
    fields: dict[str, str],
    *,
    cut: str,
    backend: Backend,
    max_new_tokens: int,
    thinking: bool = False,
) -> tuple[tuple[Message, ...], bool]:
    """The messages for `fields`, with field `cut` truncated at the end if the model's context is too short.

    Returns:
        The messages, and whether the field was cut; see `cut_to_fit`.
    """
    kept = cut_to_fit(template, fields, cut=cut, backend=backend, max_new_tokens=max_new_tokens, thinking=thinking)
    return render(template, **{**fields, cut: kept}), kept != fields[cut]


def cut_to_fit(
    template: str,
    fields: dict[str, str],
    *,
    cut: str,
    backend: Backend,
    max_new_tokens: int,
    thinking: bool = False,
) -> str:
    """Field `cut`, truncated at the end if all of `fields` and `max_new_tokens` together exceed the model's context.

    The prompt's own words and the other fields are never truncated. If the backend does not report its context or
    cannot count tokens, nothing is truncated.

    Raises:
        ValueError: not even the first 8 characters of the field fit alongside `max_new_tokens`.
    """
    whole, context = fields[cut], backend.context_length
    if context is None:
        return whole
    room = context - max_new_tokens

    def shortened(length: int) -> str:
        return whole if length == len(whole) else whole[:length].rstrip()

    def fits(length: int) -> bool:
        tokens = backend.prompt_tokens(render(template, **{**fields, cut: shortened(length)}), thinking=thinking)
        return tokens is None or tokens <= room

    if backend.surely_fits(render(template, **fields), room) or fits(len(whole)):
        return whole
    longest = _largest(len(whole), fits)
    if longest < min(8, len(whole)):
        raise ValueError(
            f"the prompt leaves no room for the {cut}: the model's context is {context} tokens, of which "
            f"max_new_tokens={max_new_tokens} are kept for the answer; lower max_new_tokens or shorten the prompt"
        )
    return shortened(longest)


def _largest(high: int, fits: Callable[[int], bool]) -> int:
    """The largest number below `high` that fits, by bisection; 0 if none does."""
    low = 0
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def requests_for(
    templates: Iterable[str],
    rows: Sequence[tuple[str, str]],
    sampling: Sampling,
    n: int,
    backend: Backend,
    *,
    thinking: bool = False,
) -> tuple[dict[tuple[str, str, str], Request], set[tuple[str, str, str]]]:
    """The requests for each (template, query, context), and those for which the query had to be truncated.

    If a template shows a context, the context is truncated to fit the model and the query never is.

    Raises:
        ValueError: a query leaves no room for its context.
    """
    requests: dict[tuple[str, str, str], Request] = {}
    cut = set()
    room: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "thinking": thinking}
    for template in templates:
        what = "context" if "{context}" in template else "query"
        for query, context in dict.fromkeys(rows):
            fields = {"query": query, "context": context} if what == "context" else {"query": query}
            messages, was_cut = fit(template, fields, cut=what, backend=backend, **room)
            requests[template, query, context] = Request(messages, sampling, tuple(range(n)), thinking)
            if was_cut and what == "query":
                cut.add((template, query, context))
    return requests, cut
