import pytest

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.expansion.backends.local.control_tokens import plain_control_tokens
from pyterrier_expandr.expansion.prompts import PROMPTS, fit, render, resolve_prompt


def test_q2d_is_the_prompt_of_the_released_checkpoints():
    (message,) = render(resolve_prompt("q2d"), query="why?")
    assert message == {
        "role": "user",
        "content": "Please write a passage to answer the question.\nQuestion: why?\nPassage:",
    }


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_every_named_prompt_resolves(name):
    fields = {"q2a": ("query", "document"), "q2d_context": ("query", "context")}.get(name, ("query",))
    text = render(resolve_prompt(name, fields=fields), **dict.fromkeys(fields, "XYZ"))[0]["content"]
    assert text.count("XYZ") == len(fields)


def test_braces_in_a_query_are_text():
    assert render("{query}", query="{x} {query} {{}}")[0]["content"] == "{x} {query} {{}}"


@pytest.mark.parametrize("prompt", ["q2x", "no field", "{query} {other}", "{query", "{0}", "{query.upper}"])
def test_a_template_that_cannot_work_is_refused(prompt):
    with pytest.raises(ValueError, match="prompt"):
        resolve_prompt(prompt)


def test_only_the_named_field_is_cut(tiny_llama):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    template = PROMPTS["q2a"]
    fields = {"query": "why is the sky blue", "document": "light is scattered " * 1000}
    messages, cut = fit(template, fields, cut="document", backend=backend, max_new_tokens=512)
    assert cut and backend.prompt_tokens(messages) <= 2048 - 512
    text = messages[0]["content"]
    assert text.startswith("Please answer") and text.endswith("Question: why is the sky blue\nAnswer:")
    longer = {
        **fields,
        "document": text[len("Please answer the question with the help of the document.\nDocument: ") :],
    }
    kept = longer["document"].split("\nQuestion:")[0]
    one_more, _ = fit(
        template,
        {**fields, "document": fields["document"][: len(kept) + 60]},
        cut="document",
        backend=backend,
        max_new_tokens=512,
    )
    assert len(one_more[0]["content"]) <= len(text) + 1  # what was kept is as long as possible
    short, cut = fit(template, {**fields, "document": "short"}, cut="document", backend=backend, max_new_tokens=512)
    assert not cut and "short" in short[0]["content"]


def test_no_room_at_all(tiny_llama):
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        fit(
            "{query}",
            {"query": "a long query"},
            cut="query",
            backend=HuggingFaceBackend(tiny_llama),
            max_new_tokens=2048,
        )


def test_control_tokens_become_plain():
    tokens = ["<s>", "<|eot_id|>", "<|im_end|>"]
    text = plain_control_tokens("a<|eot_id|>b <s>c <|<|eot_id|>eot_id|>", tokens)
    assert not any(token in text for token in tokens)
    assert text.replace(" ", "") == "a<|eot_id|>b<s>c<|<|eot_id|>eot_id|>"
    assert plain_control_tokens("a < b", tokens) == "a < b"
