"""Entailment and case studies: what is said about single texts."""

import html.parser

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.analysis import case_study, entailment
from pyterrier_expandr.analysis.case import CasePart, CaseStudy
from pyterrier_expandr.analysis.phrases import shared_phrases
from pyterrier_expandr.collections import pocket
from tests.tiny_nli import build_tiny_nli


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    """A function that saves a tiny model for natural language inference, its labels in any order."""
    return lambda labels: build_tiny_nli(tmp_path_factory.mktemp("nli"), labels)


EXPANSIONS = {
    "vanilla": pd.DataFrame({"qid": ["1", "2"], "query_expansions": [["the moon turns", "once"], ["red light"]]}),
    "ExpandR": pd.DataFrame({"qid": ["1"], "query_expansions": [["its same side faces us"]]}),
}
GOLD = pd.DataFrame({"qid": ["1", "2"], "text": ["the moon turns once", "red light is scattered by air"]})


def test_entailment_is_the_model_s_probability_in_percent(nli):
    folder = nli(["contradiction", "entailment", "neutral"])
    scores = entailment(EXPANSIONS, GOLD, folder, device="cpu").set_index("system")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        BertForSequenceClassification.from_pretrained(folder).eval(),
    )

    def probability(premise, hypothesis):
        with torch.no_grad():
            logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits
        return 100 * float(logits.softmax(-1)[0, 1])

    first = [probability(GOLD["text"][0], text) for text in ("the moon turns", "once")]
    second = probability(GOLD["text"][1], "red light")
    assert scores.loc["vanilla", "entailment"] == pytest.approx((np.mean(first) + second) / 2, abs=1e-3)
    assert scores.loc["ExpandR", "entailment"] == pytest.approx(
        probability(GOLD["text"][0], "its same side faces us"), abs=1e-3
    )
    assert scores["length"].to_dict() == {"vanilla": 2.0, "ExpandR": 5.0}
    assert scores["queries"].to_dict() == {"vanilla": 2, "ExpandR": 1} and set(scores["model"]) == {folder}


def test_the_order_of_labels_is_the_model_s(nli):
    orders = [
        ["entailment", "neutral", "contradiction"],
        ["neutral", "ENTAILMENT", "x"],
        ["x", "neutral", "entailment"],
    ]
    scores = [entailment(EXPANSIONS, GOLD, nli(order), device="cpu")["entailment"] for order in orders]
    assert sum(scores).tolist() == pytest.approx([100, 100], abs=1e-3)
    assert np.ptp([score[0] for score in scores]) > 1


def test_a_model_of_another_kind_is_refused(nli):
    with pytest.raises(ValueError, match="one must be 'entailment'"):
        entailment(EXPANSIONS, GOLD, nli(["LABEL_0", "LABEL_1", "LABEL_2"]), device="cpu")


def test_entailment_without_a_common_query(nli):
    with pytest.raises(ValueError, match="no expanded query has a reference"):
        entailment(EXPANSIONS, GOLD.assign(qid="x"), "unused")


# Case studies (Table 10)


def phrases(text, other, **options):
    return [text[start:end] for start, end in shared_phrases(text, other, **options)]


def test_shared_phrases():
    text = "The Moon keeps the same side turned to us; of the Sun, THE-MOON."
    assert phrases(text, "the moon shows the same side of the planet") == ["Moon", "same side", "MOON"]
    assert phrases(text, "of the", min_words=1) == []  # function words alone
    assert phrases(text, "side moon", min_words=1) == ["Moon", "side", "MOON"]
    assert phrases("", "x") == phrases("x", "") == []
    with pytest.raises(ValueError, match="min_words"):
        shared_phrases("a", "a", 0)


class Parser(html.parser.HTMLParser):
    """What a browser would see: tags, and the text within marks."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.marked, self.open = set(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "mark":
            self.marked.append(data)


def test_every_text_of_a_case_is_escaped(tmp_path):
    evil = "<script>alert('red light')</script> & \"red light\""
    part = CasePart(evil, 0.5, None, (evil,))
    case = CaseStudy(evil, (evil, evil, "red light " + evil), evil, (part,))
    seen = Parser(case._repr_html_())
    assert "script" not in seen.tags and "<script" not in case.to_html() and not seen.open
    assert any("red light" in text for text in seen.marked) and "not retrieved" in case.to_html()
    case.save(tmp_path / "a" / "case.html")
    page = (tmp_path / "a" / "case.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "<script" not in page and not Parser(page).open


def test_a_case_says_what_each_system_makes_of_it(encoder, pocket_index):
    dataset = pocket()
    dense = encoder.query_encoder() >> pocket_index.retriever(num_results=20)
    expander = RecordedExpander(dataset.expansions_path)
    systems = {"query": dense, "ExpandR": expander >> dense, "one hit": dense % 1}
    case = case_study("q01", systems, dataset, min_words=1)
    assert case.query.startswith("why do we never get to see") and case.gold[1] == "Tidal locking"
    topics, qrels, names = dataset.get_topics(), dataset.get_qrels(), list(systems)
    wanted = pt.Experiment(list(systems.values()), topics, qrels, ["ndcg_cut_10"], names=names, perquery=True)
    wanted = wanted[wanted["qid"] == "q01"].set_index("name")["value"]
    assert [part.score for part in case.parts] == pytest.approx(wanted.loc[list(names)].tolist())
    query, expanded, one = case.parts
    assert query.gold_rank == 7 and expanded.gold_rank == 1 and one.gold_rank is None
    assert query.passages == () and "tidally locked" in expanded.passages[0]
    assert {"Moon", "hemisphere"} <= set(Parser(case.to_html()).marked)
    assert case_study(case.query, {"query": dense}, dataset).parts[0] == query, "by text as by qid"
    with pytest.raises(ValueError, match="no query 'nothing like it'"):
        case_study("nothing like it", systems, dataset)


def test_a_system_that_finds_nothing_scores_zero():
    empty = pd.DataFrame(columns=["qid", "query", "docno", "score", "rank"])
    case = case_study("q01", {"nothing": pt.Transformer.from_df(empty)}, pocket())
    assert case.parts == (CasePart("nothing", 0.0, None, ()),)
