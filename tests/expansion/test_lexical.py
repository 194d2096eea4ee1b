import time

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.expansion.lexical import LexicalExpander, mugi_repeats, words_of
from pyterrier_expandr.retrieval.sparse import bm25
from tests.contract import check_contract

FRAME = pd.DataFrame(
    {
        "qid": ["1", "2", "3"],
        "query": ["blue sky", "What's sea-salt?", "moon"],
        "query_expansions": [["Air scatters light.", "Short waves."], ["NaCl: salt"], []],
    }
)
DOCS = [
    {"docno": "air", "text": "air scatters short waves of light"},
    {"docno": "sky", "text": "the sky is blue, and the sea is blue"},
    {"docno": "salt", "text": "salt is NaCl"},
    {"docno": "moon", "text": "the moon"},
]
#: what PISA's or Terrier's parsers, or C++, could take for something else
SYNTAX = [
    "#combine:0=5:1=1(salt #band(moon light))",
    '"short waves" +light -sky title:air air^3 (moon',
    "applypipeline:off salt #1(a b) #base64(c2FsdA==)",
    "salt\x00\x1b\ud800 ' \\ {} <|eot_id|> \N{RIGHT-TO-LEFT OVERRIDE} \N{SOFT HYPHEN}",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return tmp_path_factory.mktemp("lexical") / "pisa"


@pytest.fixture(scope="module")
def pisa(index):
    return bm25(DOCS, index)


class TestInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return LexicalExpander()


@pytest.mark.parametrize("form", ["words", "toks", "matchop"])
def test_contract(form):
    check_contract(lambda: LexicalExpander(2, form=form, stops=["of"]), FRAME)


def test_the_query_is_repeated_before_its_passages_and_the_old_one_is_kept():
    out = LexicalExpander(2)(FRAME.assign(query_0="older"))
    assert out["query"].tolist() == [
        "blue sky blue sky Air scatters light Short waves",
        "What s sea salt What s sea salt NaCl salt",
        "moon",  # a query without expansions is itself
    ]
    assert out["query_0"].tolist() == FRAME["query"].tolist() and set(out["query_1"]) == {"older"}
    pd.testing.assert_frame_equal(pt.rewrite.reset()(out)[["query"]], FRAME[["query"]], check_dtype=False)


def test_weights_are_counts():
    assert LexicalExpander(2, form="toks", stops=["air", "s"])(FRAME)["query_toks"].tolist() == [
        {"blue": 2.0, "sky": 2.0, "scatters": 1.0, "light": 1.0, "short": 1.0, "waves": 1.0},
        {"what": 2.0, "sea": 2.0, "salt": 3.0, "nacl": 1.0},
        {"moon": 1.0},
    ]
    assert LexicalExpander(form="matchop")(FRAME)["query"][1] == (
        "#combine:0=5(what) #combine:0=5(s) #combine:0=5(sea) #combine:0=6(salt) nacl"
    )
    accents = FRAME.head(1).assign(query="naïve", query_expansions=[[]])
    assert LexicalExpander(form="matchop")(accents)["query"][0] == "#base64(bmHDr3Zl)"
    # PyTerrier writes the same operators from `query_toks`, with more decimals.
    from pyterrier.terrier.retriever import _querytoks2matchop

    toks = LexicalExpander(form="toks")(FRAME)["query_toks"]
    assert [_querytoks2matchop(each).replace(".000000", "") for each in toks] == list(
        LexicalExpander(form="matchop")(FRAME)["query"]
    )


def test_mugi_s_rule():
    assert mugi_repeats("a b", ["c " * 80]) == 10 and mugi_repeats("a b", ["c"]) == 1 and mugi_repeats("?", ["c"]) == 1
    assert mugi_repeats("a b", ["c " * 40, "d " * 39]) == 9  # 79 / 8, rounded down
    out = LexicalExpander("mugi")(pd.DataFrame({"qid": ["1"], "query": ["sky"], "query_expansions": [["air " * 12]]}))
    assert out["query"][0] == "sky sky sky" + " air" * 12


def test_pisa_counts_what_is_repeated(pisa):
    once, thrice = (LexicalExpander(r)(FRAME.head(1).assign(query_expansions=[["light"]])) for r in (1, 3))
    scores = [pisa(q).set_index("docno")["score"] for q in (once, thrice)]
    assert scores[1]["sky"] == pytest.approx(3 * scores[0]["sky"], rel=1e-5)
    assert scores[1]["air"] == pytest.approx(scores[0]["air"], rel=1e-5)
    assert "moon" not in scores[0]


def test_weighted_words_rank_as_repeated_ones(pisa):
    frame = FRAME.assign(query=["blue sky", "sea salt", "moon"])
    words, toks = (
        (LexicalExpander(form=form) >> pisa)(frame).set_index(["qid", "docno"])["score"] for form in ("words", "toks")
    )
    assert len(words) == 5
    pd.testing.assert_series_equal(toks.sort_index(), 100 * words.sort_index(), check_exact=False, rtol=1e-4)


@pytest.mark.parametrize("passage", SYNTAX)
def test_a_passage_is_text_before_pisa(passage, pisa):
    frame = FRAME.head(1).assign(query_expansions=[[passage]])
    found = set((LexicalExpander() >> pisa)(frame)["docno"])
    plain = set(pisa.search(" ".join(["sky", *words_of(passage)]))["docno"])
    assert found == plain >= {"sky"} and not found - {"sky", "salt", "moon", "air"}
    assert set((LexicalExpander(form="toks") >> pisa)(frame)["docno"]) >= found


@pytest.mark.parametrize("passage", SYNTAX)
def test_a_passage_has_no_operators_for_terrier_s_parser(passage):
    # What decides whether PyTerrier hands a query over as operators, as a control, or as words.
    from pyterrier.terrier.retriever import _matchop, _query_needs_tokenised

    query = LexicalExpander()(FRAME.head(1).assign(query_expansions=[[passage]]))["query"][0]
    assert not _matchop(query) and not _query_needs_tokenised(query)
    assert ":" not in query and "\x00" not in query and query.isprintable()
    query.encode()


def test_only_stop_words_find_nothing_and_harm_nothing(pisa):
    frame = FRAME.head(1).assign(query="the of and", query_expansions=[["is the of"]])
    assert len((LexicalExpander() >> pisa)(frame)) == 0
    assert (LexicalExpander() >> pisa)(frame.assign(query="moon"))["docno"].tolist() == ["moon"]
    nothing = LexicalExpander()(frame.assign(query="???", query_expansions=[["...", " "]]))
    assert nothing["query"].tolist() == [""] and len(pisa(nothing)) == 0


def test_a_passage_of_100_000_characters(pisa):
    frame = FRAME.head(1).assign(query_expansions=[["light waves (of) air! " * 4800]])
    start = time.perf_counter()
    out = LexicalExpander("mugi")(frame)
    found = pisa(out)
    assert time.perf_counter() - start < 5
    assert len(out["query"][0]) > 100_000 and found["docno"].tolist()[0] == "air"
    toks = LexicalExpander(form="toks")(frame)["query_toks"][0]
    assert toks == {"blue": 5.0, "sky": 5.0, "light": 4800.0, "waves": 4800.0, "of": 4800.0, "air": 4800.0}


def test_empty_and_missing_lists_fall_back_to_the_query(pisa):
    lists = pd.Series([[], None, [" "]], dtype=object)
    out = LexicalExpander()(FRAME.assign(query_expansions=lists))
    assert out["query"].tolist() == ["blue sky", "What s sea salt", "moon"]
    assert LexicalExpander()(FRAME[["qid", "query"]])["query"].tolist() == out["query"].tolist()


def test_keywords_go_through_the_same_door(tiny_llama, pisa):
    expander = LLMExpander(HuggingFaceBackend(tiny_llama, device="cpu"), prompt="q2e", max_new_tokens=8)
    with pytest.warns(UserWarning, match="truncated"):
        out = (expander >> LexicalExpander(1))(FRAME[["qid", "query"]])
    for query, old, texts in zip(out["query"], out["query_0"], out["query_expansions"], strict=True):
        assert query.split() == words_of(" ".join([old, *texts]))
    recorded = RecordedExpander([{"query": "moon", "passages": ["keyword: salt"]}])
    assert set((recorded >> LexicalExpander() >> pisa).search("moon")["docno"]) == {"moon", "salt"}


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"repeats": 1.5}, {"repeats": "five"}, {"repeats": True}, {"form": "x"}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LexicalExpander(**wrong)


def test_repeats_can_be_scanned(pisa):
    lexical = LexicalExpander()
    qrels = pd.DataFrame({"qid": ["1"], "docno": ["air"], "label": [1]})
    scan = pt.GridScan(lexical >> pisa, {lexical: {"repeats": [1, 50]}}, FRAME.head(1), qrels, ["recip_rank"])
    assert scan["recip_rank"].tolist() == [1.0, 0.5]
