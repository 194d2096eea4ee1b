"""The variables of a chat template besides the messages: whether the model should think, and the date."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

#: the date used in every prompt: the default of Llama 3.1's template
DATE = datetime(2024, 7, 26)

#: variables that switch reasoning on and off
SWITCHES = ("enable_thinking", "thinking")

#: string constants of a template that may be date formats; others could contain the end of a template tag
_FORMAT = re.compile(r"[^{}\n]*%[^{}\n]*")


def template_variables(template: str, thinking: bool) -> dict[str, Any]:
    """The variables that `template` reads and that a request determines, with their values, as JSON values.

    - `enable_thinking` or `thinking`: true or false.
    - `reasoning_effort`: the reasoning of gpt-oss cannot be switched off, so this is "low" instead of "medium"; if the
      template knows "none", it is "none" instead of "high".
    - `date`: the fixed day `DATE`, if the template asks for the time (`strftime_now`); with today's date a prompt would
      give a different text tomorrow. A template with its own date (`date_string` of Llama 3.1) keeps it.

    {} if the template reads none of them.

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
    """`variables` of `template` in the form that `apply_chat_template` expects.

    transformers passes only plain values to a template, so the fixed date is written into the template itself, as a
    macro that replaces `strftime_now`.

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
    """The variables that a template takes from outside, and its string constants; both empty if it is malformed."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols", _GenerationBlock])
    try:
        tree = environment.parse(template)
        read = meta.find_undeclared_variables(tree)
    except (TemplateError, AssertionError):  # the error is reported when rendering
        return frozenset(), frozenset()
    constants = (constant.value for constant in tree.find_all(nodes.Const))
    return frozenset(read), frozenset(value for value in constants if isinstance(value, str))


class _GenerationBlock(Extension):
    """transformers' block `{% generation %}`, which marks the model's own words for training."""

    tags = {"generation"}  # noqa: RUF012  declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
