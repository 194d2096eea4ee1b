import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import FaissIndex, FaissRetriever
from pyterrier_expandr.encoding.vectors import with_source
from pyterrier_expandr.retrieval import faiss_retriever as retriever
from tests.contract import check_contract
from tests.retrieval.test_faiss_index import SOURCE, corpus, vectors


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> FaissIndex:
    folder = tmp_path_factory.mktemp("indexes") / "flat"
    return FaissIndex(folder).index({**d, "doc_vec": with_source(d["doc_vec"], SOURCE)} for d in corpus(300))


def queries(n: int = 4, dim: int = 16) -> pd.DataFrame:
    vecs = vectors(n, dim, seed=9)
    return pd.DataFrame({"qid": [f"q{i}" for i in range(n)], "query": "what", "query_vec": list(vecs)})


class TestRetrieverCase(pt.testing.TransformerTestCase):
    """PyTerrier's own checks."""

    @staticmethod
    def get_transformer():
        return FaissRetriever(FaissIndex("nowhere"), num_results=10)


def test_results_are_the_exact_inner_products(index):
    frame = queries(40)
    result = index.retriever(num_results=20)(frame)
    exact = vectors(40, seed=9) @ vectors(300).T
    order = np.argsort(-exact, axis=1)[:, :20]
    assert list(result.columns) == ["qid", "query", "query_vec", "docno", "score", "rank"]
    assert list(result["qid"]) == [q for q in frame["qid"] for _ in range(20)]
    assert list(result["docno"]) == [f"d{i}" for i in order.ravel()]
    assert list(result["rank"]) == list(range(20)) * 40
    np.testing.assert_allclose(result["score"], np.take_along_axis(exact, order, 1).ravel(), rtol=1e-5, atol=1e-5)
    assert result["score"].dtype == np.float32 and result["rank"].dtype == np.int64
    assert result["docno"].dtype == frame["qid"].dtype


def test_contract(index):
    result = check_contract(lambda: index.retriever(num_results=7), queries(), row_wise=False)
    assert len(result) == 28
    assert index.retriever() != index.retriever(num_results=7)
    assert index.retriever(search_params="nprobe=1") != index.retriever()
    slim = check_contract(lambda: index.retriever(num_results=7, drop_query_vec=True), queries(), row_wise=False)
    assert "query_vec" not in slim


@pytest.mark.parametrize("labels", ["str", object])
def test_what_the_input_carries_is_kept(index, labels):
    frame = (
        queries(3)
        .set_axis([2, 0, 1])
        .assign(
            score=1.0,
            docid=7,
            when=pd.date_range("2020", periods=3),
            note=pd.Series(["n"] * 3, [2, 0, 1], dtype=object),
        )
    )
    frame.insert(0, "note", [1, 2, 3], allow_duplicates=True)
    frame.columns = pd.Index(frame.columns, dtype=labels, name="names")
    frame.attrs = {"source": np.arange(2)}
    before = frame.copy()
    result = index.retriever(num_results=2)(frame)
    given = frame.drop(columns=["score", "docid"])
    assert list(result.columns) == ["note", "qid", "query", "query_vec", "when", "note", "docno", "score", "rank"]
    assert result.columns.dtype == given.columns.dtype and result.columns.name == "names"
    assert list(result.attrs["source"]) == [0, 1]
    expected = given.iloc[[0, 0, 1, 1, 2, 2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(result.iloc[:, :6], expected, check_exact=True)
    result["score"], result["note"] = 0.0, 0
    pd.testing.assert_frame_equal(frame, before)


def test_bad_vectors_are_named_by_ids_that_are_numbers(index):
    frame = queries(3).assign(qid=[7, 8, 9])
    frame.at[1, "query_vec"] = np.zeros(5, np.float32)
    with pytest.raises(ValueError, match="query_vec of '8' has 5 dimensions, but '7' has 16"):
        index.retriever()(frame)


def test_duplicate_queries_are_each_searched_for(index):
    frame = pd.concat([queries(2), queries(2)])
    result = index.retriever(num_results=3)(frame)
    assert list(result["docno"][:6]) == list(result["docno"][6:]) and len(result) == 12


def test_empty_frame_needs_no_index():
    empty = FaissIndex("nowhere").retriever()(queries().iloc[:0])
    assert list(empty.columns) == ["qid", "query", "query_vec", "docno", "score", "rank"]
    with pytest.raises(FileNotFoundError, match="no index at 'nowhere'"):
        FaissIndex("nowhere").retriever()(queries())


@pytest.mark.parametrize("k", [300, 301, 5000])
def test_fewer_documents_than_asked_for_give_fewer_rows(index, k):
    result = index.retriever(num_results=k)(queries(2))
    assert len(result) == 600 and sorted(result["docno"][:300]) == sorted(f"d{i}" for i in range(300))


def test_padding_of_an_approximate_index_is_no_document(tmp_path):
    index = FaissIndex(tmp_path / "i", factory="IVF16,Flat").index(corpus(700))
    few = index.retriever(num_results=200, search_params="nprobe=1")(queries(8))
    counts = few.groupby("qid").size()
    assert (counts < 200).all() and (counts > 0).all()
    for _, rows in few.groupby("qid"):
        assert list(rows["rank"]) == list(range(len(rows))) and rows["docno"].notna().all()
    full = index.retriever(num_results=200, search_params="nprobe=16")(queries(8))
    assert len(full) == 1600
    with pytest.raises(ValueError, match="efSearch"):
        index.retriever(search_params="efSearch=3")(queries())


def test_single_result_and_single_document(tmp_path):
    index = FaissIndex(tmp_path / "i").index(corpus(1))
    result = index.retriever()(queries(3))
    assert list(result["docno"]) == ["d0"] * 3 and list(result["rank"]) == [0] * 3
    assert result["score"].map(np.ndim).eq(0).all()


def test_l2_scores_are_negative_squared_distances(tmp_path):
    index = FaissIndex(tmp_path / "i", metric="l2").index(corpus(50))
    result = index.retriever(num_results=5)(queries(3))
    distance = ((vectors(3, seed=9)[:, None] - vectors(50)) ** 2).sum(axis=2)
    order = np.argsort(distance, axis=1)[:, :5]
    assert list(result["docno"]) == [f"d{i}" for i in order.ravel()]
    np.testing.assert_allclose(result["score"], -np.take_along_axis(distance, order, 1).ravel(), rtol=1e-4)


def test_equal_scores_stand_in_docno_order(tmp_path):
    names = ["b", "c", "a", "z", "é", "d", "y", "x"]
    # small whole numbers: their sums are exact, so that equal vectors have equal scores whatever FAISS does
    values = [[1, 0], [1, 0], [1, 0], [3, 0], [1, 0], [2, 0], [2, 0], [0, 0]]
    docs = ({"docno": n, "doc_vec": np.array(v, np.float32)} for n, v in zip(names, values, strict=True))
    index = FaissIndex(tmp_path / "i").index(docs)
    frame = pd.DataFrame(
        {"qid": ["1", "2", "3"], "query_vec": [np.array(v, np.float32) for v in ([1, 0], [-1, 0], [0, 1])]}
    )
    result = index.retriever()(frame).groupby("qid")["docno"].apply(list)
    assert result["1"] == ["z", "d", "y", "a", "b", "c", "é", "x"]
    assert result["2"] == ["x", "a", "b", "c", "é", "d", "y", "z"]
    assert result["3"] == sorted(names)


def test_ties_do_not_cross_queries_or_padding():
    import pyarrow as pa

    docnos = pa.array(["c", "b", "a"], pa.large_string())
    scores = np.array([[2, 1, -9, -9], [1, 1, 1, -9]], np.float32)
    numbers = np.array([[0, 1, -1, -1], [0, 2, 1, -1]])
    retriever._order_ties(scores, numbers, docnos)
    assert numbers.tolist() == [[0, 1, -1, -1], [2, 1, 0, -1]]


def test_blocks_give_what_one_call_gives(index, monkeypatch):
    frame, search = queries(200), index.retriever(num_results=50)
    whole = search(frame)
    monkeypatch.setattr(retriever, "BLOCK_BYTES", 1)  # 64 queries a block
    blocks = index.retriever(num_results=50, verbose=True)(frame)
    assert list(blocks["docno"]) == list(whole["docno"])
    np.testing.assert_allclose(blocks["score"], whole["score"], atol=1e-5)


def test_rank_cutoff_is_fused_into_exact_search_only(index, tmp_path):
    fused = (index.retriever(num_results=100, drop_query_vec=True) % 5).compile()
    assert fused == index.retriever(num_results=5, drop_query_vec=True)
    assert index.retriever(num_results=5).fuse_rank_cutoff(10) is None
    approximate = FaissIndex(tmp_path / "i", factory="HNSW8")
    assert approximate.retriever().fuse_rank_cutoff(5) is None
    pd.testing.assert_frame_equal(
        index.retriever(num_results=5)(queries()).drop(columns="query_vec"),
        (index.retriever(num_results=100) % 5)(queries()).reset_index(drop=True).drop(columns="query_vec"),
        check_exact=False,
    )


def test_bad_arguments_and_vectors_are_refused(index):
    for k in (0, -1):
        with pytest.raises(ValueError, match="num_results"):
            index.retriever(num_results=k)
    bad = queries()
    bad.at[2, "query_vec"] = np.full(16, np.nan, np.float32)
    with pytest.raises(ValueError, match=r"query_vec has NaN.*q2"):
        index.retriever()(bad)
    with pytest.raises(pt.validate.InputValidationError):
        index.retriever()(queries().drop(columns="query_vec"))


def test_other_size_is_refused_with_both_encoders_named(index):
    frame = queries(2, dim=8)
    frame["query_vec"] = list(with_source(np.stack(frame["query_vec"]), SOURCE | {"model": "other"}))
    with pytest.raises(ValueError, match=r"8 dimensions and come from 'other'.*16 and was made by 'tiny'"):
        index.retriever()(frame)
    with pytest.raises(ValueError, match="not recorded"):
        index.retriever()(queries(2, dim=8))


def test_other_encoder_of_equal_size_warns_once(index):
    frame = queries(2)
    plain = np.stack(frame["query_vec"])
    search = index.retriever(num_results=3)
    frame["query_vec"] = list(with_source(plain, SOURCE | {"fingerprint": {"sha256": "b"}}))
    with pytest.warns(UserWarning, match="different weights, pooling, normalisation"):
        search(frame)
    assert len(search(frame)) == 6  # a second warning would be an error here
    frame["query_vec"] = list(with_source(plain, SOURCE | {"max_length": 7, "query_prompt": "q: "}))
    assert len(index.retriever(num_results=3)(frame)) == 6, "prompts may differ between queries and documents"


def test_pipelines_are_drawn_and_compared_without_opening(monkeypatch):
    monkeypatch.setattr(FaissIndex, "open", lambda *_: pytest.fail("must not open"))
    index = FaissIndex("nowhere")
    html = pt.schematic.draw(index.retriever(num_results=10))
    assert "Faiss Retriever" in html
    assert pt.inspect.transformer_inputs(index.retriever()) == [["qid", "query_vec"]]
    assert repr(index.retriever(num_results=3)) == "FaissRetriever('nowhere', num_results=3)"
