"""Shards merged and searched together, compressed factories, memory that is stated, search on another device."""

from itertools import pairwise

import faiss
import numpy as np
import pandas as pd
import pytest

from pyterrier_expandr import FaissIndex
from pyterrier_expandr.encoding.vectors import with_source
from pyterrier_expandr.retrieval import devices, factories
from tests.retrieval.test_faiss_index import SOURCE, vectors

DIM, N = 24, 3000
DOCS, QUERIES = vectors(N, DIM), vectors(300, DIM, seed=1)


def documents(start=0, end=N, source=SOURCE):
    for number in range(start, end):
        yield {"docno": f"d{number}", "doc_vec": with_source(DOCS[number], source)}


def queries(n=300):
    return pd.DataFrame({"qid": [f"q{i}" for i in range(n)], "query_vec": list(QUERIES[:n])})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return FaissIndex(tmp_path_factory.mktemp("whole") / "i").index(documents())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    ends = [0, 1300, 1301, N]
    return [FaissIndex(folder / str(i)).index(documents(a, b)) for i, (a, b) in enumerate(pairwise(ends))]


def content(index):
    return {path.name: path.read_bytes() for path in index.folder.iterdir()}


class TestMerge:
    @pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF8,PQ4x4", "HNSW8"])
    def test_a_merged_index_is_the_one_of_all_documents(self, shards, tmp_path, factory):
        merged = FaissIndex(tmp_path / "merged", factory=factory).merge([shard.path for shard in shards])
        at_once = FaissIndex(tmp_path / "at once", factory=factory).index(documents())
        assert content(merged) == content(at_once)
        assert merged.encoder == SOURCE and len(merged) == N

    def test_what_does_not_fit_together_is_named_and_nothing_is_written(self, shards, tmp_path):
        other = FaissIndex(tmp_path / "other").index(documents(0, 5, SOURCE | {"pooling": "cls"}))
        small = FaissIndex(tmp_path / "small").index([{"docno": "x", "doc_vec": np.ones(3)}])
        packed = FaissIndex(tmp_path / "packed", factory="SQfp16").index(documents(0, 5))
        merged = FaissIndex(tmp_path / "merged")
        for wrong, message in (
            ([shards[0], other], "other' was made by .* index it again with that encoder"),
            ([shards[0], small], "small' has dim 3, but .* has 24"),
            ([shards[0], packed], "'SQfp16', which does not keep vectors as they are"),
            ([shards[0], shards[0]], "docno 'd0' is repeated"),
            ([], "name at least one"),
        ):
            with pytest.raises(ValueError, match=message):
                merged.merge(wrong, mode="overwrite")
            assert not merged.built()
        with pytest.raises(FileNotFoundError, match="no index at .*missing"):
            merged.merge([shards[0], tmp_path / "missing"])


class TestTogether:
    @pytest.mark.parametrize("k", [1, 10, 1000, 5000])
    def test_flat_shards_are_exactly_one_index(self, whole, shards, k):
        together = shards[0].retriever(k, shards=shards[1:])
        # few queries take FAISS's loop over vectors, many its matrix product
        for n in (3, 300):
            one, several = whole.retriever(k)(queries(n)), together(queries(n))
            pd.testing.assert_series_equal(one["docno"], several["docno"])
            np.testing.assert_allclose(one["score"], several["score"], rtol=2e-6, atol=2e-6)

    def test_l2_and_equal_scores(self, tmp_path):
        docs = [{"docno": f"d{i}", "doc_vec": DOCS[i % 50]} for i in range(100)]
        one = FaissIndex(tmp_path / "one", metric="l2").index(docs)
        halves = [FaissIndex(tmp_path / str(i), metric="l2").index(docs[i * 50 : i * 50 + 50]) for i in (0, 1)]
        expected, found = one.retriever(20)(queries(5)), halves[0].retriever(20, shards=halves[1:])(queries(5))
        assert found["docno"].tolist() == expected["docno"].tolist()
        assert (np.diff(found["score"][:20]) <= 0).all()

    def test_it_knows_its_shards(self, shards, tmp_path):
        retriever = shards[0].retriever(10, shards=shards[1:])
        assert retriever != shards[0].retriever(10) and len(retriever.describe()["shards"]) == 2
        assert retriever.fuse_rank_cutoff(5).shards == tuple(shards[1:])
        small = FaissIndex(tmp_path / "small").index([{"docno": "x", "doc_vec": np.ones(3)}])
        with pytest.raises(ValueError, match="all shards must be alike"):
            shards[0].retriever(shards=[small])(queries(1))


class TestDevice:
    @pytest.mark.parametrize("metric", ["ip", "l2"])
    @pytest.mark.parametrize("factory", ["Flat", "SQfp16", "SQ8", "IVF16,Flat", "IVF16,PQ4x4", "IVF16,SQ8"])
    def test_torch_finds_what_faiss_finds(self, tmp_path, monkeypatch, factory, metric):
        monkeypatch.setattr(devices, "VECTORS", 700)
        monkeypatch.setattr(devices, "QUERIES", 64)
        index = FaissIndex(tmp_path / "i", factory=factory, metric=metric).index(documents())
        opened = index.open("nprobe=3" if "IVF" in factory else None)
        expected, numbers = opened.search(QUERIES, 50)
        found, places = devices.TorchSearch(opened, "cpu").search(QUERIES, 50)
        same = np.mean([len(set(a) & set(b)) / 50 for a, b in zip(numbers, places, strict=True)])
        assert same > 0.999, "but for rounding at the last place"
        valid = numbers >= 0
        np.testing.assert_allclose(found[valid & (places >= 0)], expected[valid & (places >= 0)], rtol=1e-3, atol=1e-3)

    def test_more_results_than_vectors_are_padded(self, whole):
        searched = devices.TorchSearch(whole.open(), "cpu").search(QUERIES[:2], N + 5)
        assert (searched[1][:, N:] == -1).all() and sorted(searched[1][0, :N]) == list(range(N))

    def test_a_graph_and_a_device_that_is_not_there_are_refused(self, whole, tmp_path):
        graph = FaissIndex(tmp_path / "i", factory="HNSW8").index(documents(0, 100))
        with pytest.raises(ValueError, match="IndexHNSWFlat has no search on 'cpu'"):
            devices.TorchSearch(graph.open(), "cpu")
        with pytest.raises(ValueError, match="device 'cuda:77' cannot be used"):
            whole.retriever(device="cuda:77")


class TestMemory:
    @pytest.mark.parametrize(
        "factory",
        ["Flat", "SQfp16", "SQ8", "IVF16,PQ4x4", "HNSW16", "HNSW8,SQ8", "OPQ4,IVF8,PQ4x4", "IVF8,PQ4x4,RFlat"],
    )
    def test_bytes_per_vector_are_those_of_the_file(self, tmp_path, factory):
        index = faiss.index_factory(DIM, factory)
        expected = factories.bytes_per_vector(index) * N
        index.train(DOCS)
        index.add(DOCS)
        faiss.write_index(index, str(tmp_path / "i"))
        empty = faiss.index_factory(DIM, factory)
        empty.train(DOCS)
        faiss.write_index(empty, str(tmp_path / "e"))
        found = (tmp_path / "i").stat().st_size - (tmp_path / "e").stat().st_size
        assert expected == pytest.approx(found, rel=0.02)

    def test_a_build_states_memory_sample_and_progress(self, tmp_path, capsys):
        index = FaissIndex(tmp_path / "i", factory="IVF8,PQ4x4")
        index.indexer(verbose=True).index(documents())
        said = capsys.readouterr().err
        assert "IVF8,PQ4x4: 1 MB of memory, trained on 3,000 vectors" in said
        assert "Adding to IVF8,PQ4x4" in said and "doc/s" in said
        assert index.metadata["trained_on"] == N

    def test_a_factory_that_needs_more_vectors_than_there_are_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="200 vectors are too few to train 'IVF4,PQ4', which needs at least 256"):
            FaissIndex(tmp_path / "i", factory="IVF4,PQ4").index(documents(0, 200))
