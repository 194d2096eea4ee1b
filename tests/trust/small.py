"""Small artefacts of each kind, to be damaged and fuzzed, and what a user reads of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.evaluation import Results
from pyterrier_expandr.evaluation.result_store import ResultStore

WRITTEN = Path(__file__).parents[1] / "fixtures" / "written_before_rooms"
DIM = 8


def small_index(folder):
    """An index of 40 documents."""
    vectors = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    docs = ({"docno": f"document-{n}", "doc_vec": vector} for n, vector in enumerate(vectors))
    return FaissIndex(folder).index(docs)


def small_results(folder):
    """An experiment of two systems on one collection, each with a ranking."""
    store = ResultStore(folder, ["one", "two"], ["eight"], ["nDCG@10"], {"num_results": 1000, "split": "test"})
    qids = [f"q{n}" for n in range(20)]
    for number, system in enumerate(["one", "two"], 1):
        run = pd.DataFrame(
            [(q, f"d{n}", n, 1 / (n + number)) for q in qids for n in range(10)],
            columns=["qid", "docno", "rank", "score"],
        )
        per_query = pd.DataFrame({"qid": qids, "measure": "nDCG@10", "value": np.linspace(0.1, 1, 20) / number})
        record = {
            "fingerprint": "f",
            "means": {"nDCG@10": 0.55 / number},
            "n_queries": 20,
            "queries_without_results": 0,
            "seconds": 1.0,
        }
        store.save_run(system, "eight", run)
        store.commit(system, "eight", per_query, record)
    return folder


def small_system(folder, encoder):
    """A saved system with a tiny encoder, an index and recorded passages."""
    index = FaissIndex(folder.with_name(f"{folder.name}.faiss"))
    model = ExpandREncoder(encoder, device="cpu", pooling="mean", normalize=True)
    recorded = RecordedExpander([{"query_id": "1", "query": "why is the sky blue", "passage": "air scatters light"}])
    corpus = [{"docno": f"d{n}", "text": f"short waves of light {n}"} for n in range(20)]
    ExpandR(recorded, model, index).index(corpus).save(folder)
    return folder


def read_results(folder):
    """Everything that results say."""
    results = Results.load(folder)
    return (
        results.means(),
        results.per_query,
        [results.run(s, c) for s, c in zip(results.cells["system"], results.cells["collection"], strict=True)],
    )


def search_index(folder):
    """Open an index, search it, and verify it."""
    index = FaissIndex(folder)
    query = pd.DataFrame({"qid": ["1"], "query_vec": [np.ones(DIM, np.float32)]})
    found = index.retriever(num_results=3).transform(query)
    index.verify()
    return found
