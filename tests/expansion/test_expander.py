import json
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import ExpandREncoder, GenerationCache, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.expansion.backends.base import Backend, Generation, Request, Sampling
from pyterrier_expandr.expansion.prompts import render
from pyterrier_expandr.expansion.recorded import write_expansions
from tests.contract import check_contract

TOPICS = pd.DataFrame({"qid": ["1", "2", "3"], "query": ["why is the sky blue", "sea", "why is the sky blue"]})
RECORDS = [
    {"query_id": "1", "query": "why is the sky blue", "passage": "Here is a passage: Air scatters light."},
    {"query": "sea", "passages": ["Salt water.", " "]},
    {"query_id": 1, "passage": "Short waves scatter most."},
]


class CountingBackend(HuggingFaceBackend):
    """The real backend, with a count of the samples that it was asked for."""

    def __init__(self, model, **options):
        super().__init__(model, device="cpu", **options)
        self._asked = []

    def stream(self, requests):
        self._asked += [(r.messages[0]["content"], s) for r in requests for s in r.samples]
        yield from super().stream(requests)


class Saying(Backend):
    """A backend of a user's own, whose texts are known."""

    def __init__(self, *texts, tokens=None):
        self.texts, self.tokens = texts, tokens

    def fingerprint(self):
        return {"model": "saying"}

    def stream(self, requests):
        for i, request in enumerate(requests):
            yield i, [Generation(self.texts[sample], tokens=self.tokens) for sample in request.samples]


@pytest.fixture
def backend(tiny_llama):
    return CountingBackend(tiny_llama)


@pytest.fixture(autouse=True)
def quiet_truncation():
    """A random model does not end its turn: most texts are truncated, which is tested once below."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="of .* expansions")
        yield


class TestLLMExpanderInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return LLMExpander(HuggingFaceBackend("no/such-model"))


class TestRecordedExpanderInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return RecordedExpander(RECORDS)


def test_contract(tiny_llama):
    check_contract(lambda: LLMExpander(HuggingFaceBackend(tiny_llama, device="cpu"), max_new_tokens=8), TOPICS)
    check_contract(lambda: RecordedExpander(RECORDS, on_missing="query-only"), TOPICS)


def test_each_distinct_query_is_asked_once_and_never_again(backend):
    expander = LLMExpander(backend, n=2, max_new_tokens=8)
    first = expander(TOPICS)
    assert len(backend._asked) == 4
    assert first["query_expansions"][0] == first["query_expansions"][2] and len(first["query_expansions"][0]) == 2
    assert list(first["query"]) == list(TOPICS["query"])
    pd.testing.assert_frame_equal(expander(TOPICS), first)
    assert len(backend._asked) == 4
    assert (
        backend._asked[0][0]
        == "Please write a passage to answer the question.\nQuestion: why is the sky blue\nPassage:"
    )


def test_more_samples_keep_the_first_ones(backend, tmp_path):
    two = LLMExpander(backend, n=2, max_new_tokens=8, cache=tmp_path / "c.sqlite")(TOPICS)
    three = LLMExpander(backend, n=3, max_new_tokens=8, cache=tmp_path / "c.sqlite")(TOPICS)
    assert [sample for _, sample in backend._asked] == [0, 1, 0, 1, 2, 2]
    for few, many in zip(two["query_expansions"], three["query_expansions"], strict=True):
        assert many[:2] == few


def test_the_same_seed_gives_the_same_texts_and_another_does_not(backend):
    texts = LLMExpander(backend, max_new_tokens=8)(TOPICS)["query_expansions"]
    assert list(LLMExpander(backend, max_new_tokens=8)(TOPICS)["query_expansions"]) == list(texts)
    assert list(LLMExpander(backend, max_new_tokens=8, seed=1)(TOPICS)["query_expansions"]) != list(texts)


def test_texts_are_cleaned_on_reading_and_stored_raw():
    cache, backend = GenerationCache(), Saying("Sure! Here is a passage:\n\nSalt water.", " \n")
    with pytest.warns(UserWarning, match=r"of 2 expansions: 1 expansions came back empty$"):
        cleaned = LLMExpander(backend, n=2, cache=cache).search("sea")
    assert cleaned["query_expansions"][0] == ["Salt water."]
    raw = LLMExpander(backend, n=2, cache=cache, clean=False).search("sea")
    assert raw["query_expansions"][0] == ["Sure! Here is a passage:\n\nSalt water."]
    assert [record["text"] for record in cache.records()] == list(backend.texts)


REFUSED = ["I'm sorry, but I can't help with that.", "Salt water.\n\nLet me know if you have any questions!", " "]


def test_refusals_are_left_out_and_counted():
    backend = Saying(*REFUSED)
    both = r"of 3 expansions: 1 expansions came back empty; 1 were refusals and were left out$"
    with pytest.warns(UserWarning, match=both):
        found = LLMExpander(backend, n=3).search("sea")
    assert found["query_expansions"][0] == ["Salt water."]
    with pytest.warns(UserWarning, match=r"of 3 expansions: 1 expansions came back empty$"):
        found = LLMExpander(backend, n=3, keep_refusals=True).search("sea")
    assert found["query_expansions"][0] == [REFUSED[0], "Salt water."]


def test_a_text_is_warned_of_when_it_is_written_and_not_again(tmp_path):
    path, frame = tmp_path / "c.sqlite", pd.DataFrame({"qid": ["1"], "query": ["sea"]})
    expander = LLMExpander(Saying(*REFUSED), n=2, cache=path)
    with pytest.warns(UserWarning, match=r"of 2 expansions: 1 were refusals and were left out$"):
        expander(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expander(frame)["query_expansions"][0] == ["Salt water."]
    more = LLMExpander(Saying(*REFUSED), n=3, cache=path)
    with pytest.warns(UserWarning, match=r"of 1 expansions: 1 expansions came back empty$"):
        assert more(frame)["query_expansions"][0] == ["Salt water."]


def test_a_run_tells_its_size_before_and_its_tokens_after(capsys, caplog):
    expander = LLMExpander(Saying("Salt water.", "Waves.", tokens=(20, 5)), n=1, max_new_tokens=64, verbose=True)
    expander(TOPICS[:1])
    first = capsys.readouterr().err
    assert "Generating: 1 texts requested, 0 of them cached; at most 64 tokens to write" in first
    assert re.search(r"Generating: 100%.* 1/1 .*tokens/s\]", first)
    assert re.search(r"1 texts written in 0 s: 20 tokens in, 5 tokens out, [\d,]+ tokens/s$", first.strip())
    expander(TOPICS)  # the same query twice, and another
    assert "2 texts requested, 1 of them cached; at most 64 tokens to write" in capsys.readouterr().err
    expander(TOPICS)
    assert capsys.readouterr().err == ""  # nothing to write: no bar and no lines
    quiet = LLMExpander(Saying("Salt water."), max_new_tokens=64)
    with caplog.at_level("INFO", logger="pyterrier_expandr"):
        quiet(TOPICS[:1])
    assert capsys.readouterr().err == ""
    assert "1 texts written in 0 s; the backend does not count tokens" in caplog.text


def test_the_cost_of_a_run_is_told_at_the_given_prices(capsys):
    backend = Saying("Salt water.", tokens=(2_000, 500))
    backend.prices = (1.0, 4.0)
    LLMExpander(backend, verbose=True)(TOPICS)
    assert "4,000 tokens in, 1,000 tokens out" in (said := capsys.readouterr().err)
    assert "cost 0.0080 at the given prices" in said


def test_recorded_refusals_are_left_out_and_counted():
    records = [{"qid": "1", "query": "sea", "passages": REFUSED}]
    sea = pd.DataFrame({"qid": ["1"], "query": ["sea"]})
    with pytest.warns(UserWarning, match="of 3 recorded expansions: 1 were refusals and were left out$") as caught:
        assert RecordedExpander(records).transform(sea)["query_expansions"][0] == ["Salt water."]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = RecordedExpander(records, keep_refusals=True)
        assert kept.transform(sea)["query_expansions"][0] == [REFUSED[0], "Salt water."]
        older = RecordedExpander(records, clean="strip_preamble")
        assert older.transform(sea)["query_expansions"][0] == REFUSED[:2]
    assert kept != RecordedExpander(records) and kept.describe()["keep_refusals"] is True
    assert "keep_refusals" not in older.describe()  # as it was recorded when refusals were not looked for


def test_the_prompt_that_was_asked_is_taken_off(backend):
    template, cache = "Explain to a child:\n{query}?", GenerationCache()
    asked = Request(render(template, query="sea"), Sampling(), (0,))
    cache.put(backend.fingerprint(), asked, {0: Generation("Explain to a child:\nsea?\n\nSalt water.")})
    found = LLMExpander(backend, prompt=template, cache=cache).search("sea")
    assert found["query_expansions"][0] == ["Salt water."]


def test_one_warning_counts_what_was_truncated(backend):
    with pytest.warns(UserWarning) as caught:
        LLMExpander(backend, n=3, max_new_tokens=4)(TOPICS)
    said = [str(w.message) for w in caught if w.category is UserWarning]  # an object of another test may be freed now
    assert said == ["of 6 expansions: 6 expansions were truncated at 4 tokens"]


def test_a_long_query_is_cut_and_the_prompt_is_not(backend):
    frame = pd.DataFrame({"qid": ["1"], "query": ["why is the sky blue " * 5000]})
    with pytest.warns(UserWarning, match="1 queries were cut"):
        out = LLMExpander(backend, max_new_tokens=8)(frame)
    (text, _) = backend._asked[0]
    assert text.startswith("Please write a passage") and text.endswith("\nPassage:") and len(text) > 2000
    assert out["query"][0] == frame["query"][0]


def test_several_prompts_give_their_texts_in_order(backend):
    both = LLMExpander(backend, prompt=["q2d", "q2e"], n=2, max_new_tokens=8)
    lists = both(TOPICS)["query_expansions"]
    parts = [LLMExpander(backend, prompt=p, n=2, max_new_tokens=8)(TOPICS)["query_expansions"] for p in ("q2d", "q2e")]
    assert list(lists) == [one + two for one, two in zip(*parts, strict=True)] and len(lists[0]) == 4
    assert both != LLMExpander(backend, prompt=["q2e", "q2d"], n=2, max_new_tokens=8)
    for wrong in ([], ["q2d", "q2d"], ["q2d", "no field"]):
        with pytest.raises(ValueError, match="prompt"):
            LLMExpander(backend, prompt=wrong)


RANKING = pd.DataFrame(
    {
        "qid": ["2", "1", "1", "1"],
        "query": ["sea", "sky", "sky", "sky"],
        "docno": ["d", "a", "b", "c"],
        "title": [None, "Air", "", "Dust"],
        "text": ["Salt.", "scatters.", "Blue.", "Red."],
        "rank": [0, 2, 0, 1],
        "score": [1.0, 0.1, 3.0, 2.0],
        "query_note": ["n2", "n1", "n1", "n1"],
    }
)


def test_a_prompt_shows_what_was_found_first(backend):
    prompt = "Seen: {context} Question: {query}"
    expander = LLMExpander(backend, prompt=[prompt, "q2d"], context_documents=2, max_new_tokens=8)
    out = expander(RANKING)
    assert backend._asked[1][0] == "Seen: Blue.\n\nDust Red. Question: sky"
    assert backend._asked[0][0] == "Seen: Salt. Question: sea" and len(backend._asked) == 4
    assert out.columns.tolist() == ["qid", "query", "query_note", "query_expansions"] and out["qid"].tolist() == [
        "2",
        "1",
    ]
    assert [len(texts) for texts in out["query_expansions"]] == [2, 2]
    empty = expander(RANKING.iloc[:0])
    assert len(empty) == 0 and empty.columns.tolist() == out.columns.tolist()
    with pytest.raises(pt.validate.InputValidationError):
        expander(TOPICS)
    with pytest.raises(ValueError, match="text of document 'd' is missing"):
        expander(RANKING.assign(text=[None, "a", "b", "c"]))
    with pytest.raises(ValueError, match="context_documents"):
        LLMExpander(backend, prompt=prompt, context_documents=0)


def test_a_long_context_is_cut_and_the_query_is_not(backend):
    long = RANKING.head(1).assign(text="light is scattered " * 5000)
    LLMExpander(backend, prompt="q2d_context", max_new_tokens=8)(long)
    ((text, _),) = backend._asked
    assert text.endswith("\nQuestion: sea\nPassage:") and 1000 < len(text) < 20_000


def test_equal_expanders_run_once_in_a_tree(backend, encoder, tmp_path):
    from pyterrier_expandr import FaissIndex

    index = FaissIndex(tmp_path / "i")
    docs = [{"docno": "a", "text": "Air scatters light."}, {"docno": "b", "text": "Salt water."}]
    (encoder.doc_encoder() >> index).index(docs)
    make = lambda: LLMExpander(backend, max_new_tokens=8)  # noqa: E731
    systems = [make() >> encoder.query_encoder(fusion=f) >> index.retriever() for f in (0.2, 0.5, 0.8)]
    qrels = pd.DataFrame({"qid": ["1", "2", "3"], "docno": ["a", "b", "a"], "label": [1, 1, 1]})
    table = pt.Experiment(systems, TOPICS, qrels, ["recip_rank"], plan="tree")
    assert len(table) == 3
    assert len(backend._asked) == 2  # two distinct queries, one sample each, for all three pipelines


def test_inspecting_loads_no_model(tiny_llama, tmp_path):
    from pyterrier_expandr import FaissIndex

    backend = HuggingFaceBackend(tiny_llama)
    encoder = ExpandREncoder("no/such-model")
    pipeline = LLMExpander(backend) >> encoder.query_encoder() >> FaissIndex(tmp_path / "none").retriever()
    assert "query_expansions" in pt.inspect.transformer_outputs(pipeline, ["qid", "query"])
    pt.schematic.draw(pipeline)
    assert backend._model is None and backend._tokenizer is None and encoder._model is None


def test_describe_names_everything(backend):
    said = json.loads(json.dumps(LLMExpander(backend, prompt="Q: {query}", seed=5).describe()))
    assert said["prompt"] == "Q: {query}" and said["seed"] == 5 and said["top_p"] == 0.9
    assert len(said["model"]["sha256"]) == 64 and "transformers" in said["versions"]


KILLED = """
import sys
import pandas as pd
from pyterrier_expandr import HuggingFaceBackend, LLMExpander
class Telling(HuggingFaceBackend):
    def stream(self, requests):
        for item in super().stream(requests):
            yield item
            print("done", flush=True)
frame = pd.DataFrame({"qid": [str(i) for i in range(400)], "query": [f"question {i}" for i in range(400)]})
LLMExpander(Telling(sys.argv[1], device="cpu", batch_size=4), max_new_tokens=8, cache=sys.argv[2])(frame)
"""


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_a_killed_run_continues_to_the_same_result(tiny_llama, tmp_path):
    path = tmp_path / "c.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tiny_llama, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    for _ in range(30):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = len(GenerationCache(path))
    assert 26 <= kept < 400
    frame = pd.DataFrame({"qid": [str(i) for i in range(400)], "query": [f"question {i}" for i in range(400)]})
    resumed = CountingBackend(tiny_llama)
    out = LLMExpander(resumed, max_new_tokens=8, cache=path)(frame)
    assert len(resumed._asked) == 400 - kept
    whole = LLMExpander(CountingBackend(tiny_llama), max_new_tokens=8)(frame)
    assert list(out["query_expansions"]) == list(whole["query_expansions"])


def test_recorded_expansions_are_joined_by_id_then_by_text():
    out = RecordedExpander(RECORDS)(TOPICS.iloc[:2])
    assert list(out["query_expansions"]) == [["Air scatters light.", "Short waves scatter most."], ["Salt water."]]
    shuffled = RecordedExpander(RECORDS)(TOPICS.iloc[[1, 0]])
    assert list(shuffled["query_expansions"]) == list(out["query_expansions"])[::-1]
    other_id = RecordedExpander(RECORDS)(pd.DataFrame({"qid": ["99"], "query": ["why is the sky blue"]}))
    assert len(other_id["query_expansions"][0]) == 2


def test_white_space_and_case_of_a_query_may_differ_from_the_recorded_one():
    frame = pd.DataFrame({"qid": ["1"], "query": ["Why is  the sky\tBLUE"]})
    assert len(RecordedExpander(RECORDS)(frame)["query_expansions"][0]) == 2


def test_what_is_written_is_what_is_read(tmp_path):
    frame = TOPICS.iloc[:2].assign(query_expansions=[["a\n\u2028é", "b"], []])
    write_expansions(tmp_path / "sub" / "e.jsonl", frame)
    assert list(RecordedExpander(tmp_path / "sub" / "e.jsonl")(TOPICS.iloc[:2])["query_expansions"]) == [
        ["a\n\u2028é", "b"],
        [],
    ]


def test_lines_with_and_without_an_id_add_up_in_either_order():
    lines = [{"query": "sea", "passage": "A"}, {"query_id": "2", "query": "sea", "passage": "B"}]
    assert list(RecordedExpander(lines)(TOPICS.iloc[[1]])["query_expansions"]) == [["A", "B"]]
    assert list(RecordedExpander(lines[::-1])(TOPICS.iloc[[1]])["query_expansions"]) == [["B", "A"]]


def test_recorded_surrogates_are_replaced_and_can_be_written(tmp_path):
    out = RecordedExpander([{"query": "sea", "passage": "a\ud800b"}]).search("sea")
    assert out["query_expansions"][0] == ["a\ufffdb"]
    write_expansions(tmp_path / "e.jsonl", out)


def test_equal_settings_give_equal_texts(backend):
    one = LLMExpander(backend, temperature=1, top_p=1, seed=np.int64(3), max_new_tokens=8)
    two = LLMExpander(backend, temperature=np.float32(1.0), top_p=1.0, seed=3, max_new_tokens=8)
    assert one == two and hash(one) == hash(two)
    assert list(one(TOPICS)["query_expansions"]) == list(two(TOPICS)["query_expansions"])
    with pytest.raises(TypeError, match="max_new_tokens must be a whole number"):
        LLMExpander(backend, max_new_tokens=2.5)


def test_real_recordings(expandr_data):
    for file in sorted((expandr_data / "expansions" / "scifact").glob("*.jsonl")):
        by_qid = RecordedExpander(file)._by_qid
        assert len(by_qid) == 300 and all(len(r.passages) == 1 for r in by_qid.values())


class TestBadInput:
    @pytest.mark.parametrize("query", [None, float("nan"), "", " "])
    def test_queries_that_are_none(self, backend, query):
        frame = pd.DataFrame({"qid": ["ok", "bad"], "query": pd.Series(["fine", query], dtype=object)})
        for expander in (LLMExpander(backend), RecordedExpander(RECORDS)):
            with pytest.raises(ValueError, match="bad"):
                expander(frame)
        assert backend._asked == []

    def test_a_query_that_is_a_number(self, backend):
        with pytest.raises(TypeError, match="7 \\(int\\)"):
            LLMExpander(backend)(pd.DataFrame({"qid": ["7"], "query": [7]}))

    def test_missing_columns(self, backend):
        with pytest.raises(pt.validate.InputValidationError):
            LLMExpander(backend)(pd.DataFrame({"qid": ["1"]}))

    def test_surrogates_and_control_characters(self, backend):
        frame = pd.DataFrame({"qid": ["1", "2"], "query": pd.Series(["a\ud800b", "x\x00\x1b"], dtype=object)})
        out = LLMExpander(backend, max_new_tokens=8)(frame)
        assert "a\ufffdb" in backend._asked[0][0] and len(out) == 2

    def test_duplicate_qids(self, backend):
        out = LLMExpander(backend, max_new_tokens=8)(pd.DataFrame({"qid": ["1", "1"], "query": ["sky", "sea"]}))
        assert out["query_expansions"][0] != out["query_expansions"][1]

    def test_engines_of_other_packages(self):
        with pytest.raises(TypeError, match="takes no seed"):
            LLMExpander(object())

    @pytest.mark.parametrize("wrong", [{"n": 0}, {"temperature": -1}, {"prompt": "no field"}, {"top_p": 0}])
    def test_settings_out_of_range(self, backend, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LLMExpander(backend, **wrong)

    def test_unwritable_cache(self, backend, tmp_path):
        with pytest.raises(OSError, match="cannot write the cache"):
            LLMExpander(backend, cache=tmp_path / "missing" / "c.sqlite")

    def test_recordings_that_do_not_fit(self, tmp_path):
        with pytest.raises(ValueError, match=r"1 of 3 queries.*\['9'\]"):
            RecordedExpander(RECORDS)(pd.concat([TOPICS.iloc[:2], pd.DataFrame({"qid": ["9"], "query": ["new"]})]))
        alone = RecordedExpander(RECORDS, on_missing="query-only")(pd.DataFrame({"qid": ["9"], "query": ["new"]}))
        assert alone["query_expansions"][0] == []
        with pytest.raises(ValueError, match="recorded for the query 'why is the sky blue', but the frame has 'other'"):
            RecordedExpander(RECORDS)(pd.DataFrame({"qid": ["1"], "query": ["other"]}))
        with pytest.raises(ValueError, match="on_missing"):
            RecordedExpander(RECORDS, on_missing="ignore")

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{broken", ":2 is not valid JSON"),
            ('{"query": "caf\xe9", "passage": "x"}', ":2 is not UTF-8: it has the byte 0xe9 after "),
            ('{"query_id": null, "query": null, "passage": "x"}', ":2 needs"),
            ('{"query_id": "1"}', r":2 needs .* it has \['query_id'\]"),
            ('{"query": "x", "passage": 3}', ":2: passage must be"),
        ],
    )
    def test_broken_lines(self, tmp_path, line, said):
        path = tmp_path / "e.jsonl"
        path.write_bytes(('{"query": "sea", "passage": "x"}\n' + line + "\n").encode("latin-1"))
        with pytest.raises(ValueError, match=said):
            RecordedExpander(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            RecordedExpander(tmp_path / "none.jsonl")


def test_fused_retrieval_uses_the_expansion(encoder, tmp_path):
    from pyterrier_expandr import FaissIndex

    index = FaissIndex(tmp_path / "i")
    docs = [
        {"docno": "a", "text": "Rayleigh scattering of light by air"},
        {"docno": "b", "text": "a blue whale in the sky"},
    ]
    (encoder.doc_encoder() >> index).index(docs)
    dense = encoder.query_encoder() >> index.retriever()
    query = TOPICS.iloc[[0]]
    expander = RecordedExpander([{"query_id": "1", "passage": "Rayleigh scattering: air molecules scatter light."}])
    alone, fused = dense(query).set_index("docno"), (expander >> dense)(query).set_index("docno")
    assert fused.score["a"] > alone.score["a"] and fused["rank"]["a"] == 0
    both = (
        encoder.encode_queries([query["query"].iloc[0]])[0],
        encoder.encode_expansions(["Rayleigh scattering: air molecules scatter light."])[0],
    )
    np.testing.assert_allclose(
        fused.score["a"], float(encoder.encode_docs([docs[0]["text"]])[0] @ (both[0] + both[1]) / 2), atol=1e-5
    )
