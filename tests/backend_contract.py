"""What every backend must do: one class of tests; a subclass gives the fixtures `backend` and `saying`."""

import warnings
from dataclasses import replace

import pytest

from pyterrier_expandr import GenerationCache, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.expansion.backends.base import Generation, Request, Sampling
from pyterrier_expandr.expansion.generation import generate_cached

ANSWER = "the sky"


def ask(text, samples=(0,), **sampling):
    return Request(({"role": "user", "content": text},), Sampling(**{"max_new_tokens": 16, **sampling}), tuple(samples))


REQUESTS = [
    ask("why is the sky blue"),
    ask("light " * 30, samples=(0, 1, 2), temperature=0.7),
    ask("sea", samples=(5,), top_p=1.0, max_new_tokens=9),
    ask("fog", temperature=0),
]


class BackendContract:
    #: whether the backend promises the same text for the same request, whatever else it does at the same time
    independent = True

    #: whether a text that was cut within a character ends with that character's mark (U+FFFD), as in transformers
    marks_cut_characters = True

    @pytest.fixture
    def backend(self):
        """The backend with the model of the fixture `tiny_llama`, in float32."""
        raise NotImplementedError

    @pytest.fixture
    def saying(self):
        """The backend with a model that answers `ANSWER` (`tests.tiny.build_saying_llama`)."""
        raise NotImplementedError

    def test_greedy_texts_are_those_of_transformers_in_order(self, backend, tiny_llama):
        """So the prompt is rendered alike, with one begin-of-sequence token, and no request is mistaken for another."""
        texts = ["why is the sky blue", "light " * 30, *(f"question {i}" for i in range(10)), "sea"]
        greedy = [ask(text, temperature=0) for text in texts]
        given, expected = backend.generate(greedy), HuggingFaceBackend(tiny_llama, device="cpu").generate(greedy)
        if not self.marks_cut_characters:
            given, expected = (
                [[replace(g, text=g.text.rstrip("\ufffd")) for g in samples] for samples in texts]
                for texts in (given, expected)
            )
        assert given == expected

    def test_as_many_samples_as_asked(self, backend):
        assert [len(texts) for texts in backend.generate(REQUESTS)] == [1, 3, 1, 1]
        assert sorted(index for index, _ in backend.stream(REQUESTS)) == [0, 1, 2, 3]

    def test_samples_and_seeds_differ_and_repeat(self, backend):
        many = backend.generate([ask("sky", samples=range(8))])[0]
        assert len({g.text for g in many}) == 8
        assert backend.generate([ask("sky", samples=(3,))])[0][0] == many[3]
        assert backend.generate([ask("sky", samples=(3,), seed=7)])[0][0] != many[3]

    def test_a_text_does_not_depend_on_its_batch(self, backend):
        if not self.independent:
            pytest.skip("this backend promises no independence of the batch")
        together = backend.generate(REQUESTS)
        alone = [[backend.generate([Request(r.messages, r.sampling, (s,))])[0][0] for s in r.samples] for r in REQUESTS]
        assert together == alone
        assert backend.generate(REQUESTS[::-1]) == alone[::-1]

    def test_an_empty_batch(self, backend):
        assert backend.generate([]) == []

    def test_any_text_can_be_asked(self, backend):
        texts = backend.generate([ask(text) for text in ("naïve 東京 🙂", "a\ud800b", "\x00\x07")])
        assert len(texts) == 3 and all(isinstance(g[0].text, str) for g in texts)

    def test_a_turn_ends_and_is_no_truncation(self, saying):
        assert saying.generate([ask("why", samples=range(3))]) == [[Generation(ANSWER)] * 3]

    def test_a_text_without_its_end_is_truncated(self, saying):
        cut = saying.generate([ask("why", max_new_tokens=1)])[0][0]
        assert cut.truncated and cut.text and ANSWER.startswith(cut.text)

    def test_texts_reach_the_cache_and_are_not_asked_again(self, backend, tmp_path, monkeypatch):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="of .* expansions")
            cache = GenerationCache(tmp_path / "c.sqlite")
            first = LLMExpander(backend, n=2, max_new_tokens=8, cache=cache).search("sky")
            assert len(cache) == 2
            monkeypatch.setattr(type(backend), "stream", lambda self, requests: iter_nothing(requests))
            again = LLMExpander(backend, n=2, max_new_tokens=8, cache=cache).search("sky")
        assert list(first["query_expansions"]) == list(again["query_expansions"])


def iter_nothing(requests):
    assert requests == [], "nothing is missing"
    yield from ()


def generate_cached_until(backend, requests, cache, count, then):
    """A call of `generate_cached` that does `then` when `count` texts are in the cache."""

    class Watched(GenerationCache):
        def put(self, *args):
            super().put(*args)
            if len(self) == count:
                then()

    cache.__class__ = Watched
    return lambda: generate_cached(backend, requests, cache)
