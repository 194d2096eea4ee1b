import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

from pyterrier_expandr import GenerationCache, HuggingFaceBackend
from pyterrier_expandr.expansion.backends.base import Backend, Generation
from pyterrier_expandr.training.data.examples import TrainingExample, open_examples
from pyterrier_expandr.training.preferences.candidates import (
    CandidateSet,
    CandidateSettings,
    generate_candidates,
    read_candidates,
    write_candidates,
)

SMALL = CandidateSettings(temperatures=(0.8, 1.1), samples=2, max_new_tokens=6)


@pytest.fixture(scope="module")
def backend(tiny_llama):
    return HuggingFaceBackend(tiny_llama, device="cpu", batch_size=8)


@pytest.fixture(scope="module")
def examples():
    return list(open_examples("pocket", "train"))[:4]


def test_the_papers_settings():
    assert CandidateSettings().count == 32
    assert CandidateSettings().sampling(0.9).top_p == 0.9 and CandidateSettings().sampling(0.9).max_new_tokens == 512


def test_order_is_by_temperature_then_sample(backend, examples):
    found = list(generate_candidates(examples, backend, SMALL))
    assert [one.query_id for one in found] == [e.query_id for e in examples]
    for one, example in zip(found, examples, strict=True):
        assert one.temperatures == (0.8, 0.8, 1.1, 1.1) and len(one.candidates) == 4
        assert (one.positive_id, one.positive) == (example.positive_ids[0], example.positives[0])
    for temperature, part in ((0.8, slice(0, 2)), (1.1, slice(2, 4))):
        alone = CandidateSettings(temperatures=(temperature,), samples=2, max_new_tokens=6)
        again = list(generate_candidates(examples, backend, alone))
        assert [one.candidates for one in again] == [one.candidates[part] for one in found]
    more = list(generate_candidates(examples, backend, replace(SMALL, samples=3)))
    assert [one.candidates[3:5] for one in more] == [one.candidates[2:] for one in found]


def test_candidates_without_answers_are_the_same(backend, examples):
    found = list(generate_candidates(examples, backend, replace(SMALL, answers=False)))
    with_answers = list(generate_candidates(examples, backend, SMALL))
    assert [replace(one, answer="") for one in with_answers] == found and any(one.answer for one in with_answers)


class Scripted(Backend):
    """Answers as the test says; what is sent and how is kept."""

    def __init__(self, reply, context=None):
        self._reply, self.context_length, self._sent = reply, context, []

    def fingerprint(self):
        return {"scripted": id(self)}

    def prompt_tokens(self, messages, thinking=False):
        return len(messages[0]["content"].split())

    def stream(self, requests):
        for place, request in enumerate(requests):
            self._sent.append(request)
            yield place, [Generation(self._reply(request)) for _ in request.samples]


EXAMPLE = TrainingExample("1", "why is the sky blue", ("d",), ("Air scatters light. " * 50,))


def test_texts_are_cleaned_and_an_empty_answer_is_asked_for_once_more():
    def reply(request):
        if request.messages[0]["content"].startswith("Please answer"):
            return "Scattering." if request.sampling.seed == 43 else " \n"
        return "Here is a passage that answers the question: Air scatters light."

    backend = Scripted(reply)
    found = next(generate_candidates([EXAMPLE], backend, SMALL))
    assert found.answer == "Scattering." and set(found.candidates) == {"Air scatters light."}
    assert [r.sampling.seed for r in backend._sent if "Document:" in r.messages[0]["content"]] == [42, 43]
    silent = Scripted(lambda request: "")
    found = next(generate_candidates([EXAMPLE], silent, SMALL))
    assert found.answer == "" and found.candidates == ("",) * 4
    assert len(silent._sent) == 4  # two temperatures, an answer, and the answer once more


def test_texts_that_were_cut_at_the_limit_are_marked():
    class Cut(Scripted):
        def stream(self, requests):
            for place, request in enumerate(requests):
                yield place, [Generation("text", truncated=sample == 1) for sample in request.samples]

    found = next(generate_candidates([EXAMPLE], Cut(None), SMALL))
    assert found.truncated == (False, True, False, True)


def test_a_long_document_is_cut_and_the_prompts_own_words_are_not():
    backend = Scripted(lambda request: "text", context=60)
    next(generate_candidates([EXAMPLE], backend, SMALL))
    prompt = backend._sent[-1].messages[0]["content"]
    assert prompt.endswith("Question: why is the sky blue\nAnswer:") and prompt.startswith("Please answer the question")
    assert 40 < len(prompt.split()) <= 54


def test_a_query_that_is_too_long_is_cut_for_the_answer_too():
    backend = Scripted(lambda request: "text", context=80)
    long = TrainingExample("1", "why is the sky blue " * 50, ("d",), ("Air scatters light. " * 50,))
    assert next(generate_candidates([long], backend, SMALL)).answer == "text"
    prompt = backend._sent[-1].messages[0]["content"]
    assert len(prompt.split()) <= 74 and "Air scatters light." in prompt and prompt.endswith("\nAnswer:")


def test_equal_queries_are_generated_once(backend, examples):
    sent = Scripted(lambda request: "text")
    twice = [examples[0], replace(examples[0], query_id="again")]
    found = list(generate_candidates(twice, sent, SMALL))
    assert len(sent._sent) == 3 and found[0].candidates == found[1].candidates


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_a_killed_run_ends_in_the_same_texts(tiny_llama, tmp_path):
    code = (
        "import sys\n"
        "from pyterrier_expandr import HuggingFaceBackend\n"
        "from pyterrier_expandr.training.preferences.candidates import *\n"
        "from pyterrier_expandr.training.data.examples import open_examples\n"
        "settings = CandidateSettings(temperatures=(0.8, 1.1), samples=2, max_new_tokens=40)\n"
        "backend = HuggingFaceBackend(sys.argv[1], device='cpu', batch_size=4)\n"
        "write_candidates(sys.argv[3], generate_candidates(open_examples('pocket'), backend, settings, cache=sys.argv[2]))\n"
    )

    def run(name):
        arguments = [tiny_llama, str(tmp_path / f"{name}.sqlite"), str(tmp_path / f"{name}.jsonl")]
        return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)

    def stored(name):
        try:
            with sqlite3.connect(tmp_path / f"{name}.sqlite") as connection:
                return connection.execute("SELECT * FROM generation").fetchall()
        except sqlite3.OperationalError:
            return []

    assert run("whole").wait() == 0
    process = run("killed")
    while process.poll() is None and len(stored("killed")) < 20:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = stored("killed")
    assert 20 <= len(before) < len(stored("whole")) and not (tmp_path / "killed.jsonl").exists()
    assert run("killed").wait() == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert set(before) <= set(stored("killed"))  # rows carry their time: none was written again


def test_texts_that_another_stage_cached_are_not_taken_for_this_ones(backend, examples, tmp_path, capfd):
    """The stages of a recipe share one cache: a later round has to tell how much it writes, and how far it is."""
    with closing(GenerationCache(tmp_path / "texts.sqlite")) as cache:
        told = {"cache": cache, "total": 2, "verbose": True}
        list(generate_candidates(examples[:2], backend, SMALL, **told))
        capfd.readouterr()
        list(generate_candidates(examples[1:3], backend, SMALL, **told))  # the first of them is known
    said = capfd.readouterr().err
    assert "Candidates: 10 texts requested; at most 60 tokens to write, less what is cached" in said
    assert "Candidates: 100%" in said and "5/5" in said and "Candidates: 5 texts written in " in said


def test_nothing_is_generated_twice(examples, tmp_path):
    backend = Scripted(lambda request: "text")
    cache = GenerationCache(tmp_path / "c.sqlite")
    first = list(generate_candidates(examples, backend, SMALL, cache=cache))
    sent = len(backend._sent)
    assert list(generate_candidates(examples, backend, SMALL, cache=cache)) == first and len(backend._sent) == sent


def test_candidate_files(tmp_path):
    path = tmp_path / "c.jsonl"
    sets = [
        CandidateSet("1", "q", "d", "gold", "answer", ("a", "b"), (0.8, 0.9), (False, True)),
        CandidateSet("2", "r", "d", "g", "", ()),
    ]
    assert write_candidates(path, sets) == 2 and list(read_candidates(path)) == sets
    path.write_text(
        json.dumps({"qid": "1", "query": "q", "positive_id": "d", "positive": "g", "answer": "a", "passages": ["x"]})
    )
    assert next(read_candidates(path)).candidates == ("x",)
    path.write_text('{"query_id": "1", "query": "q"}\n')
    for broken in ({"candidates": "abc"}, {"candidates": [3]}, {"candidates": ["a"], "temperatures": [0.8, 0.9]}):
        lines = json.dumps({"query_id": "1", "query": "q", "positive_id": "d", "positive": "g", "answer": "a"} | broken)
        (tmp_path / "broken.jsonl").write_text(lines)
        with pytest.raises(ValueError, match=r"broken.jsonl:1: candidates must be a list of strings"):
            next(read_candidates(tmp_path / "broken.jsonl"))
    with pytest.raises(ValueError, match=r"c.jsonl:1 lacks .*'candidates'.*it has \['query', 'query_id'"):
        next(read_candidates(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperatures": ()}, "one or more distinct"),
        ({"temperatures": (1.0, 1)}, "one or more distinct"),
        ({"temperatures": (-1,)}, "temperature must be 0 or more"),
        ({"samples": 0}, "samples must be 1"),
        ({"answer_prompt": "q2d"}, "must contain {document}, {query}"),
        ({"prompt": "q2a"}, "must contain {query}"),
    ],
)
def test_settings_that_draw_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CandidateSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 2.5}, "samples must be a whole number, got 2.5"),
        ({"samples": "3"}, "samples must be a whole number, got '3'"),
        ({"max_new_tokens": "48"}, "max_new_tokens must be a whole number, got '48'"),
        ({"temperatures": ["hot"]}, "each of temperatures must be a number, got 'hot'"),
        ({"answer_temperature": "1"}, "answer_temperature must be a number"),
        ({"top_p": "0.9"}, "top_p must be a number"),
        ({"seed": "x"}, "seed must be a whole number"),
    ],
)
def test_what_is_no_number_is_refused_by_name(values, message):
    with pytest.raises(TypeError, match=message):
        CandidateSettings(**values)


def test_an_example_without_a_positive():
    with pytest.raises(ValueError, match="'1' has no positive"):
        next(generate_candidates([TrainingExample("1", "q", (), ())], Scripted(lambda r: "x"), SMALL))


def test_refusals_count_as_empty():
    def reply(request):
        if request.messages[0]["content"].startswith("Please answer") and request.sampling.seed == 43:
            return "Scattering."
        return "I'm sorry, but I can't help with that."

    found = next(generate_candidates([EXAMPLE], Scripted(reply), SMALL))
    assert found.answer == "Scattering." and found.candidates == ("",) * 4
