import numpy as np
import pytest
import torch

from pyterrier_expandr import ExpandREncoder, FaissIndex
from pyterrier_expandr.common.ray_cluster import Cluster
from pyterrier_expandr.retrieval.distributed_index import distributed_index

pytest.importorskip("ray", reason="needs Ray: pip install 'pyterrier_expandr[ray]'")


def corpus(count):
    return [
        {"docno": f"d{i}", "text": f"text {i} " + "on light " * (i % 5), "title": f"title {i}"} for i in range(count)
    ]


def vectors(index):
    return index.open().reconstruct_n(0, len(index))


@pytest.fixture
def one_thread():
    """What Ray gives a worker with one CPU: with other numbers of threads, a processor may sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow  # half a minute for each set of workers that opens the encoder
def test_a_cluster_makes_the_index_that_one_process_makes(minilm, ray_nodes, tmp_path, one_thread):
    encoder = ExpandREncoder(minilm, device="cpu", max_length=16)
    alone = (encoder.doc_encoder() >> FaissIndex(tmp_path / "alone.faiss").indexer()).index(corpus(2100))
    spread = distributed_index(encoder, FaissIndex(tmp_path / "spread.faiss"), corpus(2100), waiting=2)
    assert np.array_equal(vectors(spread), vectors(alone))
    assert spread.docnos.equals(alone.docnos) and spread.metadata["encoder"] == alone.metadata["encoder"]


@pytest.mark.slow
def test_an_interrupted_build_continues_behind_what_was_committed(minilm, ray_nodes, tmp_path):
    encoder, read = ExpandREncoder(minilm, device="cpu", max_length=16), []

    def broken():
        for number, document in enumerate(corpus(2100)):
            if number == 2000:
                raise OSError("the network is gone")
            yield document

    with pytest.raises(OSError, match="the network is gone"):
        distributed_index(encoder, FaissIndex(tmp_path / "i.faiss"), broken(), waiting=1)

    def counted():
        for document in corpus(2100):
            read.append(document["docno"])
            yield document

    found = distributed_index(encoder, FaissIndex(tmp_path / "i.faiss"), counted(), waiting=1)
    assert len(found) == 2100 and len(set(found.docnos.to_pylist())) == 2100 and len(read) == 2100
    alone = (encoder.doc_encoder() >> FaissIndex(tmp_path / "alone.faiss").indexer()).index(corpus(2100))
    assert np.allclose(vectors(found), vectors(alone), atol=1e-6)


def test_a_cluster_that_does_not_answer_is_named():
    import ray

    if ray.is_initialized():
        pytest.skip("this process is connected already")
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at 'auto': start one with `ray start --head`"):
        Cluster("auto").connect()
