import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr.collections import pocket
from pyterrier_expandr.training.data.examples import TrainingExample, open_examples
from pyterrier_expandr.training.data.negatives import mine_negatives

EXAMPLES = [
    TrainingExample("1", "first", ("d1",), ("Sky Air scatters.",), ("Given before.",)),
    TrainingExample("2", "second", ("d9",), ("Gas.",)),
]


def ranking(rows):
    frame = pd.DataFrame(rows, columns=["qid", "docno", "title", "text", "rank"]).assign(score=0.0)
    return pt.Transformer.from_df(frame.assign(query="q"))


def test_what_is_relevant_or_says_the_same_is_never_a_negative():
    retriever = ranking(
        [
            ("1", "d5", "Sky", "Air  scatters.", 1),  # another document with the positive's text
            ("1", "d1", "Sky", "Air scatters.", 0),
            ("1", "d4", "", "Judged relevant.", 2),
            ("1", "d3", "", "Given before.", 3),
            ("1", "d7", "", "Judged  relevant.", 5),  # a copy of it
            ("1", "d2", "Rust", "Iron.", 4),
            ("1", "d6", "", "Too deep.", 9),
        ]
    )
    first, second = mine_negatives(EXAMPLES, retriever, depth=9, n=3, relevant={"1": ["d4"]})
    assert first.negatives == ("Given before.", "Rust Iron.")
    assert second == EXAMPLES[1]


def test_ranks_can_be_passed_over():
    retriever = ranking([("2", f"d{n}", "", f"text {n}", n) for n in (3, 1, 2, 0)])
    found = [list(mine_negatives(EXAMPLES, retriever, skip=skip, n=2))[1].negatives for skip in (0, 2)]
    assert found == [("text 0", "text 1"), ("text 2", "text 3")]


def test_bm25_finds_them_on_pocket(tmp_path):
    pytest.importorskip("pyterrier_pisa")
    from pyterrier_expandr.retrieval.sparse import bm25

    collection = pocket("train")
    retriever = bm25(collection.get_corpus_iter(), tmp_path / "pisa") >> pt.text.get_text(
        pt.get_dataset("irds:expandr-pocket"), ["title", "text"]
    )
    qrels = collection.get_qrels().query("label > 0")
    relevant = {qid: set(rows["docno"]) for qid, rows in qrels.groupby("qid")}
    examples = list(open_examples("pocket", "train", min_relevance=2))
    mined = list(mine_negatives(examples, retriever, depth=20, n=2, relevant=relevant))
    texts = {row["docno"]: f"{row['title']} {row['text']}" for row in collection.get_corpus_iter()}
    assert [e.query_id for e in mined] == [e.query_id for e in examples]
    assert sum(len(e.negatives) for e in mined) > len(mined)
    for example in mined:
        assert not {texts[docno] for docno in relevant[example.query_id]} & set(example.negatives[-2:])


@pytest.mark.parametrize("values", [{"n": 0}, {"skip": 5, "depth": 5}, {"skip": -1}])
def test_depths_that_mean_nothing_are_refused(values):
    with pytest.raises(ValueError, match="0 <= skip < depth"):
        list(mine_negatives(EXAMPLES, ranking([]), **values))


def test_a_dense_retriever_finds_them_too(encoder, tmp_path):
    pytest.importorskip("faiss")
    from pyterrier_expandr import FaissIndex

    index = FaissIndex(tmp_path / "index")
    documents = [
        {"docno": f"d{n}", "title": "", "text": text}
        for n, text in enumerate(("Air scatters.", "Air scatters blue.", "Iron."))
    ]
    (encoder.doc_encoder() >> index).index(documents)
    texts = {row["docno"]: row["text"] for row in documents}
    get_text = pt.apply.text(lambda row: texts[row["docno"]])
    example = TrainingExample("1", "why is the sky blue", ("d0",), ("Air scatters.",))
    retriever = encoder.query_encoder() >> index.retriever(num_results=3) >> get_text
    assert next(mine_negatives([example], retriever)).negatives == ("Air scatters blue.",)


def test_a_ranking_without_texts_is_refused():
    bare = pt.Transformer.from_df(pd.DataFrame({"qid": ["1"], "query": ["q"], "docno": ["d"], "rank": [0]}))
    with pytest.raises(ValueError, match=r"pt\.text\.get_text"):
        list(mine_negatives(EXAMPLES, bare))
