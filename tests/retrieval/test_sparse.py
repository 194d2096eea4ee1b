import pytest

from pyterrier_expandr.retrieval.sparse import bm25

DOCS = [
    {"docno": "a", "title": "Sky", "text": "why the sky is blue"},
    {"docno": "b", "text": "why grass is green"},
    {"docno": "c", "title": None, "text": "sky sky"},
]


def test_titles_count_and_the_index_is_built_once(tmp_path):
    found = bm25(DOCS, tmp_path / "i", num_results=2).search("sky")
    assert sorted(found["docno"]) == ["a", "c"] and found["rank"].tolist() == [0, 1]
    again = bm25(iter(()), tmp_path / "i").search("grass")  # the corpus is not read again
    assert again["docno"].tolist() == ["b"] and [path.name for path in tmp_path.iterdir()] == ["i"]


def failing():
    yield from DOCS[:2]
    raise OSError("the network is gone")


@pytest.mark.parametrize(
    ("corpus", "error", "said"),
    [
        (failing(), OSError, "the network is gone"),
        ([], ValueError, "the corpus is empty"),
        ([*DOCS, {"docno": "d e", "text": "x"}], ValueError, "one word without white space, got 'd e'"),
        ([{"docno": "", "text": "x"}], ValueError, "one word"),
        ([*DOCS, {"docno": "d"}], KeyError, "text"),
    ],
)
def test_a_corpus_that_breaks_leaves_no_half_index(corpus, error, said, tmp_path):
    with pytest.raises(error, match=said):
        bm25(corpus, tmp_path / "i")
    assert not list(tmp_path.iterdir())
    assert len(bm25(DOCS, tmp_path / "i").search("sky")) == 2


def test_what_a_killed_build_left_is_no_index(tmp_path):
    (tmp_path / ".part.i").mkdir()
    (tmp_path / ".part.i" / "fwd.documents").write_text("half")
    assert len(bm25(DOCS, tmp_path / "i").search("sky")) == 2 and not (tmp_path / ".part.i").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="contains other files"):
        bm25(DOCS, tmp_path)
    assert (tmp_path / "thesis.tex").exists()
