import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta
import pytest

from pyterrier_expandr import FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.expansion.lexical import LexicalExpander
from pyterrier_expandr.retrieval import two_lists
from pyterrier_expandr.retrieval.list_fusion import ListFusion, hybrid
from pyterrier_expandr.retrieval.sparse import bm25
from pyterrier_expandr.retrieval.two_lists import TwoLists
from tests.contract import check_contract

TOPICS = pd.DataFrame({"qid": ["1", "2"], "query": ["sky", "sea"]})


class Fixed(pt.Transformer):
    """A retriever with given results, `{qid: {docno: score}}`, and a count of the queries that it was asked for."""

    def __init__(self, results):
        self.results, self.asked = results, []

    def schematic(self, *, input_columns=None):
        return {"label": "Fixed", "help_url": "https://example.org"}

    def __repr__(self):
        return "Fixed()"

    def transform(self, inp):
        pt.validate.query_frame(inp, ["query"], context=self)
        self.asked += list(inp["qid"])
        rows = [(i, d, s) for i, qid in enumerate(inp["qid"]) for d, s in self.results.get(qid, {}).items()]
        found = inp.iloc[[row[0] for row in rows]].reset_index(drop=True)
        scores = pd.Series([row[2] for row in rows], dtype=float)
        return found.assign(docno=pd.Series([row[1] for row in rows], dtype=str), score=scores)


def fused(lexical, dense, method="sum", **options):
    """Scores by docno of the first query."""
    found = hybrid(Fixed({"1": lexical}), Fixed({"1": dense}), method, **options)(TOPICS)
    assert found["rank"].tolist() == list(range(len(found))) and found["score"].is_monotonic_decreasing
    return dict(zip(found["docno"], found["score"], strict=True))


class TestFusionInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return ListFusion()


class TestHybridInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return hybrid(LexicalExpander() >> Fixed({}), Fixed({}))


def test_contract():
    one, two = Fixed({"1": {"a": 1.0, "b": 2.0}, "2": {"c": 1.0}}), Fixed({"1": {"b": -1.0}, "2": {"a": 0.5}})
    check_contract(lambda: TwoLists(one, two), TOPICS, row_wise=False)
    both = TwoLists(one, two)(TOPICS)
    check_contract(lambda: ListFusion("rrf", weight=0.3, num_results=5), both, row_wise=False)


def test_sum_scales_each_list_of_each_query():
    lexical, dense = {"a": 30.0, "b": 20.0, "c": 10.0}, {"b": 0.9, "d": 0.5, "a": 0.4}
    assert fused(lexical, dense) == pytest.approx({"b": 0.75, "a": 0.5, "d": 0.1, "c": 0.0})
    assert fused(lexical, dense, weight=0.25) == pytest.approx({"b": 0.875, "a": 0.25, "d": 0.15, "c": 0.0})
    shifted = {docno: -100 + score for docno, score in lexical.items()}  # negative scores
    assert fused(shifted, dense) == pytest.approx(fused(lexical, dense))


def test_zscore_and_reciprocal_ranks():
    lexical, dense = {"a": 3.0, "b": 1.0}, {"b": 4.0, "c": 2.0}
    assert fused(lexical, dense, "zscore") == pytest.approx({"a": 0.0, "b": 0.0, "c": -1.0})
    expected = {"b": 0.5 / 61 + 0.5 / 60, "a": 0.5 / 60, "c": 0.5 / 61}
    assert fused(lexical, dense, "rrf") == pytest.approx(expected)


def test_reciprocal_ranks_are_those_of_pyterrier_alpha():
    rng = np.random.default_rng(0)
    results = [
        {qid: {f"d{i}": float(rng.random()) for i in rng.choice(40, 20, replace=False)} for qid in ("1", "2")}
        for _ in range(2)
    ]
    one, two = map(Fixed, results)
    ours = hybrid(one, two, "rrf")(TOPICS).set_index(["qid", "docno"])["score"].sort_index()
    theirs = pta.fusion.RRFusion(one, two)(TOPICS).set_index(["qid", "docno"])["score"].sort_index()
    pd.testing.assert_series_equal(2 * ours, theirs)


def test_sum_is_pyterrier_s_own_operators_over_scaled_lists():
    rng = np.random.default_rng(1)
    results = [{q: {f"d{i}": float(rng.normal()) for i in range(9)} for q in ("1", "2")} for _ in range(2)]

    def scaled(results):
        values = {q: np.array(list(found.values())) for q, found in results.items()}
        return Fixed({q: dict(zip(results[q], (v - v.min()) / np.ptp(v), strict=True)) for q, v in values.items()})

    theirs = (0.3 * scaled(results[0]) + 0.7 * scaled(results[1]))(TOPICS)
    ours = hybrid(*map(Fixed, results), weight=0.3)(TOPICS)
    columns = ["qid", "docno"]
    pd.testing.assert_series_equal(
        ours.set_index(columns)["score"].sort_index(), theirs.set_index(columns)["score"].sort_index()
    )


def test_equal_scores_stand_in_docno_order():
    tied = {"c": 1.0, "a": 1.0, "b": 1.0}
    assert list(fused(tied, {"z": 1.0, "y": 1.0}).items()) == [(d, 0.5) for d in "abcyz"]
    assert list(fused(tied, {"z": 1.0}, "zscore").items()) == [(d, 0.0) for d in "abcz"]
    assert list(fused(tied, {}, "rrf")) == ["a", "b", "c"]
    wide = {f"d{i:03}": float(i % 3) for i in range(300)}
    assert list(fused(wide, wide, num_results=150)) == [f"d{i:03}" for m in (2, 1) for i in range(m, 300, 3)][:150]


def test_lists_that_are_empty_short_or_disjoint():
    assert fused({}, {"a": 2.0, "b": 1.0}) == {"a": 0.5, "b": 0.0}
    assert fused({"a": 2.0}, {}, "zscore") == {"a": 0.0}
    assert fused({}, {}) == {}
    deep = {f"d{i}": float(-i) for i in range(50)}
    assert list(fused({"x": 1.0, "y": 0.5}, deep))[:3] == ["d0", "x", "d1"]
    assert list(fused({"x": 1.0}, {"y": 1.0}, weight=0.4)) == ["y", "x"]


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(score):
    with pytest.raises(ValueError, match=r"the dense list has the score .* for qid '1', docno 'b': only finite"):
        fused({"a": 1.0}, {"c": 1.0, "b": score})


def test_frames_that_cannot_be_searched():
    one = Fixed({"1": {"a": 1.0}})
    with pytest.raises(ValueError, match="qid '1' is repeated"):
        hybrid(one, one)(pd.concat([TOPICS, TOPICS]))
    doubled = pt.apply.generic(lambda found: pd.concat([found, found]))
    with pytest.raises(ValueError, match="the lexical list repeats a document: qid '1', docno 'a'"):
        hybrid(one >> doubled, one)(TOPICS)
    renamed = pt.apply.generic(lambda found: found.assign(qid="9"))
    with pytest.raises(ValueError, match="the dense list has qid '9', which was not asked for"):
        hybrid(one, one >> renamed)(TOPICS)


@pytest.mark.parametrize("wrong", [{"method": "max"}, {"weight": 1.5}, {"weight": float("nan")}, {"num_results": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        hybrid(Fixed({}), Fixed({}), **wrong)


def test_a_query_is_searched_once_however_many_weights_are_tried():
    one, two = Fixed({"1": {"a": 3.0, "b": 1.0}, "2": {"a": 1.0}}), Fixed({"1": {"b": 4.0, "a": 1.0}, "2": {"c": 2.0}})
    pipeline = hybrid(one, two)
    qrels = pd.DataFrame({"qid": ["1", "2"], "docno": ["a", "c"], "label": [1, 1]})
    scan = pt.GridScan(pipeline, {pipeline[-1]: {"weight": [0.0, 0.6, 1.0]}}, TOPICS, qrels, ["recip_rank"])
    assert scan["recip_rank"].tolist() == [0.75, 0.75, 0.75] and sorted(one.asked) == sorted(two.asked) == ["1", "2"]
    folds = [TOPICS.head(1), TOPICS.tail(1)]
    found, _ = pt.KFoldGridSearch(pipeline, {pipeline[-1]: {"weight": [0.2, 0.8]}}, folds, qrels, "recip_rank")
    assert len(found) == 4 and len(one.asked) == len(two.asked) == 2
    pipeline(pd.concat([TOPICS, pd.DataFrame({"qid": ["3"], "query": ["new"]})]))
    assert one.asked == ["1", "2", "3"]
    pipeline(TOPICS.assign(query=["sky", "other"]))  # the same qid with another query is another query
    assert one.asked == ["1", "2", "3", "2"]


def test_remembered_results_come_in_the_order_of_the_queries():
    results = {str(i): {f"d{i}": 1.0, "e": 0.5} for i in range(6)}
    topics = pd.DataFrame({"qid": list(results), "query": list("abcdef")})
    both = TwoLists(Fixed(results), Fixed(results))
    both(topics.iloc[[3, 1]]), both(topics.iloc[[5]])
    found = both(topics)
    pd.testing.assert_frame_equal(found, TwoLists(Fixed(results), Fixed(results))(topics))
    assert found["qid"].tolist() == [str(i) for i in range(6) for _ in range(2)]


def test_the_oldest_searches_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(two_lists, "MEMO_ROWS", 3)
    one = Fixed({"1": {"a": 1.0, "b": 2.0}, "2": {"a": 1.0, "b": 2.0}})
    both = TwoLists(one, Fixed({}))
    for qid in ("1", "2", "2", "1"):
        assert len(both(TOPICS[TOPICS["qid"] == qid])) == 2
    assert one.asked == ["1", "2", "1"]


def test_a_table_and_a_sort_join_alike(monkeypatch):
    rng = np.random.default_rng(2)
    lists = [
        Fixed({q: {f"d{i}": float(rng.random()) for i in rng.choice(30, 9, False)} for q in "12"}) for _ in range(2)
    ]
    table = TwoLists(*lists)(TOPICS)
    monkeypatch.setattr(two_lists, "TABLE_CELLS", 0)
    pd.testing.assert_frame_equal(TwoLists(*lists)(TOPICS), table)


def test_a_cutoff_leaves_both_lists_as_deep_as_they_are():
    pipeline = hybrid(Fixed({"1": {"a": 3.0, "b": 1.0}}), Fixed({"1": {"b": 4.0, "a": 1.0, "c": 0.0}}))
    cut = (pipeline % 1).compile()
    assert cut[-1] == ListFusion(num_results=1)
    assert cut(TOPICS)["docno"].tolist() == pipeline(TOPICS)["docno"].tolist()[:1]


@pytest.fixture(scope="module")
def pocket_bm25(tmp_path_factory):
    return bm25(pocket().get_corpus_iter(), tmp_path_factory.mktemp("hybrid") / "pisa")


def test_one_expander_serves_both_retrievers_in_a_tree(tiny_llama, encoder, pocket_index, pocket_bm25):
    asked = []

    class Counting(HuggingFaceBackend):
        def stream(self, requests):
            asked.extend(request.messages[0]["content"] for request in requests)
            yield from super().stream(requests)

    topics, qrels = pocket().get_topics().head(4), pocket().get_qrels()
    backend = Counting(tiny_llama, device="cpu")
    dense = encoder.query_encoder() >> pocket_index.retriever()
    lexical = LexicalExpander() >> pocket_bm25
    expanders = [LLMExpander(backend, max_new_tokens=8) for _ in range(5)]  # with a cache of its own each
    systems = [
        expanders[0] >> dense,
        expanders[1] >> lexical,
        hybrid(expanders[2] >> lexical, expanders[3] >> dense),
        expanders[4] >> hybrid(lexical, dense, "rrf"),
    ]
    assert systems[2][0] == expanders[0] and systems[2][1] == systems[3][1]
    with pytest.warns(UserWarning, match="truncated"):
        table = pt.Experiment(systems, topics, qrels, ["ndcg_cut_10"], plan="tree", validate="ignore")
    assert len(table) == 4 and len(asked) == len(set(asked)) == 4


def test_on_pocket_the_hybrid_is_its_parts(encoder, pocket_index, pocket_bm25):
    recorded = RecordedExpander(pocket().expansions_path)
    lexical = recorded >> LexicalExpander() >> pocket_bm25
    dense = recorded >> encoder.query_encoder() >> pocket_index.retriever()
    topics = pocket().get_topics()
    found = hybrid(lexical, dense)(topics)
    assert found["query"].tolist() == found["qid"].map(topics.set_index("qid")["query"]).tolist()
    assert "query_expansions" in found and not set(found.columns) & {"query_0", "query_vec", "score_dense"}
    one, two = (part(topics).set_index(["qid", "docno"])["score"] for part in (lexical, dense))
    scaled = [s.groupby("qid").transform(lambda x: (x - x.min()) / (x.max() - x.min())) for s in (one, two)]
    expected = scaled[0].mul(0.5).add(scaled[1].mul(0.5), fill_value=0)
    ours = found.set_index(["qid", "docno"])["score"]
    pd.testing.assert_series_equal(
        ours.sort_index(), expected.sort_index(), check_dtype=False, rtol=1e-5, atol=1e-6, check_names=False
    )


def test_doc_vectors(encoder, pocket_index, tmp_path):
    from pyterrier_expandr.retrieval.doc_vectors import DocVectors

    dense = encoder.query_encoder() >> pocket_index.retriever(num_results=3)
    frame = dense(pocket().get_topics().head(3))
    found = check_contract(lambda: DocVectors(pocket_index), frame)
    scores = [vector @ query for vector, query in zip(found["doc_vec"], found["query_vec"], strict=True)]
    np.testing.assert_allclose(scores, found["score"], atol=1e-5)
    with pytest.raises(ValueError, match="has no document 'nowhere'"):
        DocVectors(pocket_index)(frame.assign(docno=["nowhere", *frame["docno"][1:]]))
    coarse = FaissIndex(tmp_path / "sq", factory="SQ8")
    coarse.index(
        [{"docno": "a", "doc_vec": np.ones(4, np.float32)}, {"docno": "b", "doc_vec": np.zeros(4, np.float32)}]
    )
    with pytest.raises(ValueError, match="does not keep vectors"):
        DocVectors(coarse)(pd.DataFrame({"qid": ["1"], "docno": ["a"]}))
