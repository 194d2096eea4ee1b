"""Thoughts and dates: what a template is told, what of a text is kept, and what the cache's address sees of it."""

import datetime
import json
import time
import warnings

import pandas as pd
import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from pyterrier_expandr import GenerationCache, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.expansion.backends.base import Generation, Request, Sampling
from pyterrier_expandr.expansion.backends.local.templates import template_variables
from pyterrier_expandr.expansion.generation import generate_cached
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.expansion.thinking import CHANNEL_TOKENS, begins_thought, without_thought
from tests.tiny import TEMPLATE, build_tiny_llama

SKY = "Air scatters light."
FINAL = f"<|start|>assistant<|channel|>final<|message|>{SKY}"
ASKED = Request(render(PROMPTS["q2d"], query="sky"), Sampling(max_new_tokens=8))

#: as Qwen3's, R1's and Llama 3.2's templates have it
SWITCHED = TEMPLATE.replace(
    "{% if add_generation_prompt %}",
    "{% if add_generation_prompt %}{% if enable_thinking is defined and enable_thinking is false %}off {% endif %}",
)
BEGUN = TEMPLATE.replace("assistant<|end_header_id|>\n\n", "assistant<|end_header_id|>\n\n<think>\n")
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}. " + TEMPLATE
)
OWN_DATE = (
    "{% if not date_string is defined %}{% set date_string = '1 May 2020' %}{% endif %}{{ date_string }}" + TEMPLATE
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"<think>\nThe user asks.\n</think>\n\n{SKY}", SKY),
        (f"<think></think>{SKY}", SKY),
        (f" <THINK>So.</THINK> {SKY}", SKY),
        ("<think>\nThe user asks about", ""),
        (f"The user asks.\n</think>\n\n{SKY}", SKY),  # the template opened it
        (f"<think>a</think><think>b</think>{SKY}", SKY),
        (f"<think>a <think> b</think> c</think>{SKY}", SKY),
        (f"<think>a</think>\n<answer>\n{SKY}\n</answer>", SKY),
        (f"[THINK]a[/THINK]{SKY}", SKY),
        (f"<|START_THINKING|>a<|END_THINKING|>{SKY}", SKY),
        (f"<|channel>thought\na<channel|>{SKY}", SKY),
        (f"<|channel|>analysis<|message|>Hm.<|end|>{FINAL}", SKY),
        (f"<|channel|>analysis<|message|>Hm.<|end|>{FINAL}<|return|>", SKY),
        (f"<|channel|>final <|constrain|>text<|message|>{SKY}", SKY),
        ("<|channel|>analysis<|message|>Hm, the final answer", ""),
        (f"analysisThe user asks.assistantfinal{SKY}", SKY),  # decoded without control tokens
        ("analysisThe user asks", ""),
    ],
)
def test_a_thought_is_taken_off(text, answer):
    assert without_thought(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        SKY,
        "",
        " \n kept as it is \n",
        "In HTML, <think> is no element.",
        "I think that <b>air</b> scatters light.",
        "analysis of light shows",
        "Analysis: the final answer",
        "Thinking, Fast and Slow is a book.",
        "<thinker> is a tag of ours",
        "The [THINK] foundation",
        "A channel of <|channel|> kind",
    ],
)
def test_what_only_looks_like_a_thought_stays(text):
    assert without_thought(text) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [(f"So.</think>{SKY}", SKY), ("So", ""), (SKY, ""), (f"<think>So.</think>{SKY}", SKY), ("<think>So", "")],
)
def test_a_text_that_begins_inside_a_thought(text, answer):
    assert without_thought(text, begun=True) == answer


def test_prompts_that_open_a_thought():
    assert begins_thought("<|im_start|>assistant\n<think>\n") and begins_thought("x[THINK]")
    assert not begins_thought("assistant\n<think>\n\n</think>\n\n") and not begins_thought("assistant\n")


@pytest.mark.parametrize(
    ("template", "off", "on"),
    [
        (TEMPLATE, {}, {}),
        (SWITCHED, {"enable_thinking": False}, {"enable_thinking": True}),
        ("{% if thinking %}think{% endif %}", {"thinking": False}, {"thinking": True}),
        ("{{ reasoning_effort or 'medium' }}", {"reasoning_effort": "low"}, {"reasoning_effort": "medium"}),
        ("{% if reasoning_effort == 'none' %}{% endif %}", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}),
        (DATED, {"date": "2024-07-26"}, {"date": "2024-07-26"}),
        (OWN_DATE, {}, {}),
        ("{# enable_thinking #}{{ 'enable_thinking' }}{% set thinking = m.thinking %}{{ thinking }}", {}, {}),
        (
            "{% generation %}{{ enable_thinking }}{% endgeneration %}",
            {"enable_thinking": False},
            {"enable_thinking": True},
        ),
        ("{% broken", {}, {}),
    ],
)
def test_what_a_template_is_told(template, off, on):
    assert template_variables(template, thinking=False) == off
    assert template_variables(template, thinking=True) == on


def backend_with(folder, template):
    build_tiny_llama(folder, template=template)
    return HuggingFaceBackend(folder, device="cpu")


def addresses(cache):
    return [row["model"] for row in cache.records()]


def search(backend, cache, **settings):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="of .* expansions")
        return LLMExpander(backend, max_new_tokens=8, cache=cache, **settings).search("sky")["query_expansions"][0]


def test_the_switch_is_off_unless_asked_for_recorded_and_part_of_the_address(tmp_path):
    backend, cache = backend_with(tmp_path, SWITCHED), GenerationCache()
    assert "off" in backend.rendered_prompt(ASKED.messages) and "off" not in backend.rendered_prompt(
        ASKED.messages, True
    )
    assert backend.prompt_tokens(ASKED.messages) > backend.prompt_tokens(ASKED.messages, True)
    texts = [search(backend, cache), search(backend, cache, thinking=True)]
    assert texts[0] != texts[1] and len(cache) == 2
    assert [model["template"] for model in addresses(cache)] == [{"enable_thinking": False}, {"enable_thinking": True}]
    off, on = LLMExpander(backend), LLMExpander(backend, thinking=True)
    assert off != on
    assert off.describe()["template"] == {"enable_thinking": False} and "thinking" not in off.describe()
    assert on.describe()["template"] == {"enable_thinking": True} and on.describe()["thinking"] is True


def test_addresses_of_templates_without_variables_stay(tmp_path):
    backend, cache = backend_with(tmp_path, TEMPLATE), GenerationCache()
    assert search(backend, cache) == search(backend, cache, thinking=True)
    assert addresses(cache) == [backend.fingerprint()]
    assert "template" not in LLMExpander(backend).describe()


def test_the_clock_of_a_template_stands_still(tmp_path, monkeypatch):
    backend, cache = backend_with(tmp_path, DATED), GenerationCache()

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    before = search(backend, cache)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert "Today: 02 Jan 2031." in tokenizer.apply_chat_template(list(ASKED.messages), tokenize=False)
    assert "Today: 26 Jul 2024." in backend.rendered_prompt(ASKED.messages)
    assert search(HuggingFaceBackend(tmp_path, device="cpu"), cache) == before and len(cache) == 1
    (model,) = addresses(cache)
    assert model["template"] == {"date": "2024-07-26"} and len(model["prompt_sha256"]) == 64


def test_a_clock_within_a_macro_and_with_a_format_of_its_own(tmp_path):
    template = "{% macro day(f) %}{{ strftime_now(f) }}, {{ strftime_now('%Y-%m-%d').split('-')[0] }}{% endmacro %}"
    backend = backend_with(tmp_path, "\n" + template + "{{ day('%A, %B %-d') }}" + TEMPLATE)
    assert backend.rendered_prompt(ASKED.messages).startswith("\nFriday, July 26, 2024<|begin_of_text|>")


def test_a_template_with_a_date_of_its_own_keeps_it(tmp_path):
    assert backend_with(tmp_path, OWN_DATE).rendered_prompt(ASKED.messages).startswith("1 May 2020")


def test_an_unclosed_thought_is_an_empty_expansion_and_stays_in_the_cache(tmp_path):
    backend, cache = backend_with(tmp_path, TEMPLATE), GenerationCache()
    asked = Request(render(PROMPTS["q2d"], query="sky"), Sampling(), (0, 1))
    written = {0: Generation(f"<think>Hm.</think>Here is a passage: {SKY}"), 1: Generation("<think>Hm", True)}
    cache.put(backend.fingerprint(), asked, written)
    assert LLMExpander(backend, n=2, cache=cache).search("sky")["query_expansions"][0] == [SKY]
    assert [row["text"] for row in cache.records()] == [g.text for g in written.values()]


def test_a_template_that_opens_the_thought(tmp_path):
    backend, cache = backend_with(tmp_path, BEGUN), GenerationCache()
    asked = Request(ASKED.messages, Sampling(), (0, 1))
    cache.put(backend.fingerprint(), asked, {0: Generation(f"Hm.\n</think>\n{SKY}"), 1: Generation("Hm. It is", True)})
    assert generate_cached(backend, [asked], cache) == [[Generation(SKY), Generation("", True)]]


def test_marks_that_are_control_tokens_are_decoded(tmp_path):
    backend = backend_with(tmp_path, TEMPLATE)
    plain = backend.tokenizer("So. <|eot_id|>", add_special_tokens=False)["input_ids"]
    assert backend.text_of(plain) == "So. "
    backend.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", *CHANNEL_TOKENS]})
    for text in (f"[THINK]So.[/THINK]{SKY}", f"<|channel|>analysis<|message|>So.<|end|>{FINAL}"):
        ids = backend.tokenizer(f"{text}<|eot_id|>", add_special_tokens=False)["input_ids"]
        assert without_thought(backend.text_of(ids)) == SKY
    assert backend.text_of(plain) == "So. "


def test_recorded_thoughts_are_taken_off():
    records = [{"query_id": "1", "passage": f"<think>Hm.</think>{SKY}"}, {"query_id": "1", "passage": "<think>Hm"}]
    frame = RecordedExpander(records)(pd.DataFrame({"qid": ["1"], "query": ["sky"]}))
    assert frame["query_expansions"][0] == [SKY]


def test_reading_a_long_text_takes_no_time():
    start = time.perf_counter()
    for text in (
        "<think>" * 20_000,
        "<|channel|>final" * 20_000,
        "analysisA" + "assistant" * 20_000,
        "</think>" * 20_000,
    ):
        without_thought(text)
    assert time.perf_counter() - start < 2


def test_a_saved_setting_is_json(tmp_path):
    backend = backend_with(tmp_path, DATED)
    assert json.loads(json.dumps(LLMExpander(backend).describe()["template"])) == {"date": "2024-07-26"}
