"""Removes what is not text: leftovers of chat templates, and tags, a code fence or a JSON object around the passage."""
# ruff: noqa: RUF001  models write full-width marks

from __future__ import annotations

import json
import re

_TOKEN = r"(?:<\|[a-z_]{1,24}\|>|</?s>|<(?:bos|eos)>|<(?:start|end)_of_turn>|<</?SYS>>|\[/INST\])"
# If a lower-case letter follows, the text is about the token or tag ("[INST] and [/INST] enclose an instruction").
_NEW_SENTENCE = r"(?:\s*\n\s*|[ \t]*(?-i:(?![a-z\s])))"
_BEFORE = re.compile(
    rf"""(?:
        (?:<s>\s*)?\[INST\].*?\[/INST\]{_NEW_SENTENCE}                                    # the instruction again
      | (?:{_TOKEN}(?:[ \t]*(?:assistant|model)(?=[ \t]*[\n<]))?\s*(?={_TOKEN}))*
        {_TOKEN}(?:[ \t]*(?:assistant|model)(?=[ \t]*\n))?{_NEW_SENTENCE}
      | assistant[ \t]*\n\s*
      | (?:\#+[ \t]*|\*\*)?Assistant(?:\*\*)?[ \t]*:(?:\*\*)?{_NEW_SENTENCE}
      | (?:<think>.*?|[^<]*\n)</think>\s*                                   # the reasoning of a model that thinks first
    )""",
    re.VERBOSE | re.DOTALL,
)
_TEMPLATE_TOKEN = re.compile(rf"{_TOKEN}|\[INST\]")
_END = re.compile(r"<\|(?:im_end|eot_id|endoftext|end|end_of_text)\|>|</s>|<end_of_turn>|<eos>|\[/INST\]")
# After the end of a turn: nothing, or another turn.
_NOTHING = re.compile(
    rf"\s*(?:{_END.pattern}|<\|(?:im_start|start_header_id|user)\|>|<start_of_turn>|<s>|\[INST\]"
    r"|(?:user|assistant)[ \t]*\n|\Z)"
)
_NAME = r"(?:passage|paragraph|answer|response|text|output|document|result)"
_TAG = re.compile(rf"<(/?){_NAME}>", re.IGNORECASE)

_FENCE = re.compile(r"```[ \t]*(|text|txt|plain|plaintext|markdown|md|passage|json)[ \t]*\n")
_PROSE = re.compile(r"\w[\"”’»)*_]*(?:[.!?…](?:\s|\Z|[\"”’»)*_])|[。！？])")
_CODE_LINE = re.compile(r"[;{}=][ \t]*$", re.MULTILINE)

#: keys of a JSON object that name the passage, alone or as part of a key ("generated_passage"), and keys that repeat
#: the task
_PASSAGE_KEY = re.compile(
    r"passage|paragraph|answer|response|text|output|document|result|content|expansion|explanation|summary"
    r"|r[ée]ponse|respuesta|resposta|pasaje|passagem|antwort|段落|回答|答案|文章|内容",
    re.IGNORECASE,
)
_TASK_KEY = re.compile(r"(?:query|question|title|prompt|topic)", re.IGNORECASE)


def without_markup(text: str) -> str:
    """`text` without leftovers of a chat template at its beginning and end; further chat turns are removed too.

    Example:
        >>> without_markup("<|im_start|>assistant\\nThe sky is blue.<|im_end|>")
        'The sky is blue.'
    """
    start = _BEFORE.match(text, len(text) - len(text.lstrip()))
    if start and re.search(r"\w", text[start.end() :]):
        text = text[start.end() :]
    # Only the first token counts: if another one came before, the text is about templates.
    token = _TEMPLATE_TOKEN.search(text)
    return text[: token.start()].rstrip() if token and _ends_here(text, token) else text


def _ends_here(text: str, token: re.Match[str]) -> bool:
    """Whether the passage ends before this token; prose about templates has such tokens inside a phrase."""
    before = text[: token.start()]
    attached = bool(before) and not before[-1].isspace()
    ends = _END.fullmatch(token[0]) and _NOTHING.match(text, token.end())
    return bool(ends and (attached or _is_finished(before)) and re.search(r"\w", before))


def _is_finished(text: str) -> bool:
    """Whether `text` ends in a whole sentence or line."""
    last = text.rstrip(" \t")[-1:]
    return last != "" and last in '.!?…。！？"”’»)]*_`\n'


def without_wrapping(text: str) -> str:
    """The text inside a tag, a code fence or a JSON object that encloses all of `text`, else `text` itself.

    Example:
        >>> without_wrapping('{"answer": "The sky is blue."}')
        'The sky is blue.'
    """
    for inside in (_inside_tag(text.strip()), _inside_fence(text.strip()), _inside_json(text)):
        if inside is not None and re.search(r"\w", inside):
            return inside
    return text


def _inside_tag(text: str) -> str | None:
    """The inside of `<passage>...</passage>`, even if one of the two is missing; other tags like it are content."""
    tags = list(_TAG.finditer(text))
    opened = bool(tags) and tags[0].start() == 0 and not tags[0][1]
    closed = bool(tags) and tags[-1].end() == len(text) and bool(tags[-1][1])
    if len(tags) != opened + closed:
        return None
    start, end = tags[0].end() if opened else 0, tags[-1].start() if closed else len(text)
    if closed and not _is_finished(text[:end]):
        return None
    if opened and not closed and not re.match(_NEW_SENTENCE, text[start:]):
        return None
    return text[start:end].strip() if tags else None


def _inside_fence(text: str) -> str | None:
    """The prose inside one fence around all of `text`, or after one that is never closed; code keeps its fence."""
    fence = _FENCE.match(text)
    if not fence:
        return None
    inside = text[fence.end() :].removesuffix("```").strip()
    if fence[1] == "json":
        return _inside_json(inside)
    return inside if "```" not in inside and _PROSE.search(inside) and not _CODE_LINE.search(inside) else None


def _inside_json(text: str) -> str | None:
    """The only text of a JSON object, under a key that names it; numbers and a repetition of the task are ignored."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
        others = {key: value for key, value in found.items() if not _TASK_KEY.fullmatch(key)}
        texts = [key for key, value in others.items() if isinstance(value, str)]
        if (
            len(texts) != 1
            or not _PASSAGE_KEY.search(texts[0])
            or any(isinstance(v, list | dict) for v in found.values())
        ):
            return None
        found[texts[0]].encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError):
        return None
    return str(found[texts[0]])
