"""What a chat template is told besides the messages: whether the model is to think, and which day it is."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

#: the day on which every prompt is written: the one that Llama 3.1's template names where it is told none
DATE = datetime(2024, 7, 26)

#: variables that switch the thought on and off
SWITCHES = ("enable_thinking", "thinking")

#: text constants of a template that may be formats of a date; the rest could hold what ends a tag of the template
_FORMAT = re.compile(r"[^{}\n]*%[^{}\n]*")


def template_variables(template: str, thinking: bool) -> dict[str, Any]:
    """The variables that `template` reads and a request decides, with their values, as JSON values.

    - `enable_thinking` or `thinking`: true or false.
    - `reasoning_effort`: the thought of gpt-oss cannot be switched off, so it is "low" instead of "medium"; where the
      template knows "none", that instead of "high".
    - `date`: the fixed day `DATE`, where the template asks for the time (`strftime_now`). A prompt with today's date
      gives another text tomorrow. A template that has a date of its own (`date_string` of Llama 3.1) keeps it.

    A template that reads none of them gives {}.

    Example:
        >>> template_variables("{% if enable_thinking is false %}<think></think>{% endif %}", thinking=False)
        {'enable_thinking': False}
        >>> template_variables("Today is {{ strftime_now('%d %b %Y') }}.", thinking=False)
        {'date': '2024-07-26'}
    """
    read, constants = _read(template)
    variables: dict[str, Any] = {name: thinking for name in SWITCHES if name in read}
    if "reasoning_effort" in read:
        least, more = ("none", "high") if "none" in constants else ("low", "medium")
        variables["reasoning_effort"] = more if thinking else least
    if "strftime_now" in read:
        variables["date"] = DATE.date().isoformat()
    return variables


def rendering_options(template: str, variables: dict[str, Any]) -> dict[str, Any]:
    """`variables` of `template` as `apply_chat_template` takes them.

    transformers hands a template plain values only, so a clock that stands still is written into the template itself,
    as a macro in place of `strftime_now`.

    Example:
        >>> print(rendering_options("{{ strftime_now('%d %b') }}", {"date": "2024-07-26"})["chat_template"])
        {% macro strftime_now(format) %}{{ {"%d %b": "26 Jul"}[format] }}{% endmacro +%}{{ strftime_now('%d %b') }}
    """
    options = {name: value for name, value in variables.items() if name != "date"}
    if "date" in variables:
        days = {text: DATE.strftime(text) for text in sorted(_read(template)[1]) if _FORMAT.fullmatch(text)}
        clock = f"{{% macro strftime_now(format) %}}{{{{ {json.dumps(days)}[format] }}}}{{% endmacro +%}}"
        options["chat_template"] = clock + template
    return options


@lru_cache(maxsize=64)
def _read(template: str) -> tuple[frozenset[str], frozenset[str]]:
    """The variables that a template takes from outside, and its text constants; none of a template that is broken."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols", _GenerationBlock])
    try:
        tree = environment.parse(template)
        read = meta.find_undeclared_variables(tree)
    except (TemplateError, AssertionError):  # rendering it says what is wrong
        return frozenset(), frozenset()
    constants = (constant.value for constant in tree.find_all(nodes.Const))
    return frozenset(read), frozenset(value for value in constants if isinstance(value, str))


class _GenerationBlock(Extension):
    """transformers' block `{% generation %}`, which marks the model's own words for training."""

    tags = {"generation"}  # noqa: RUF012  declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
