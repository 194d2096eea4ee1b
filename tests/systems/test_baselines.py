import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.expansion.lexical import LexicalExpander
from pyterrier_expandr.retrieval.sparse import bm25
from pyterrier_expandr.systems import baselines


@pytest.fixture(scope="module")
def lexical(tmp_path_factory):
    return bm25(pocket().get_corpus_iter(), tmp_path_factory.mktemp("baselines") / "pisa")


@pytest.fixture(scope="module")
def texts():
    docs = {doc["docno"]: f"{doc.get('title', '')} {doc['text']}" for doc in pocket().get_corpus_iter()}
    return pt.apply.text(lambda row: docs[row["docno"]])


@pytest.fixture
def backend(tiny_llama):
    return HuggingFaceBackend(tiny_llama, device="cpu")


def recorded():
    return RecordedExpander(pocket().expansions_path)


def test_one_experiment_compares_them_all(encoder, pocket_index, lexical, texts):
    dense = pocket_index.retriever()
    systems = {
        "BM25": lexical,
        "dense": encoder.query_encoder() >> dense,
        "ExpandR": recorded() >> encoder.query_encoder() >> dense,
        "HyDE": baselines.hyde(recorded(), encoder, dense),
        "query2doc": baselines.query2doc(recorded(), lexical),
        "MuGI": baselines.mugi(recorded(), lexical),
        "LameR": baselines.lamer(
            pt.apply.generic(lambda found: found[["qid", "query"]].drop_duplicates()) >> recorded(), lexical, texts
        ),
        "Rocchio": baselines.rocchio(encoder, pocket_index),
    }
    table = pt.Experiment(
        list(systems.values()),
        pocket().get_topics(),
        pocket().get_qrels(),
        ["ndcg_cut_10"],
        names=list(systems),
        plan="tree",
        validate="ignore",
    ).set_index("name")["ndcg_cut_10"]
    assert (table[["query2doc", "MuGI", "LameR"]] > table["BM25"] + 0.02).all(), table
    assert (table[["ExpandR", "HyDE"]] > table["dense"] + 0.1).all() and table["Rocchio"] != table["dense"]
    assert list(baselines.grf(recorded(), encoder, dense)) == list(systems["ExpandR"])  # one passage of one kind
    # The same passages as query2doc's, but a query for which BM25 finds nothing has no results to write after.
    assert table["BM25"] < table["LameR"] < table["query2doc"]


def test_the_papers_constants(backend, encoder, pocket_index, lexical, texts):
    dense = pocket_index.retriever()
    hyde = baselines.hyde(backend, encoder, dense)
    assert (hyde[0].n, hyde[0].temperature, hyde[1].fusion) == (8, 0.7, "uniform")
    query2doc, mugi = baselines.query2doc(backend, lexical), baselines.mugi(backend, lexical, n=3)
    assert (query2doc[0].n, query2doc[0].max_new_tokens, query2doc[1].repeats) == (1, 128, 5)
    assert mugi[0].n == 3 and mugi[1] == LexicalExpander("mugi")
    lamer = baselines.lamer(backend, lexical, texts)
    assert (lamer[1].k, lamer[3].n, lamer[3].context_documents, lamer[4].repeats) == (10, 5, 10, 5)
    assert len(baselines.grf(backend, encoder, dense)[0].prompt) == 4
    with pytest.raises(TypeError, match="texts must be a backend or a transformer"):
        baselines.hyde("gpt", encoder, dense)
    with pytest.raises(ValueError, match="options of an LLM need a backend.*temperature"):
        baselines.mugi(recorded(), lexical, temperature=0.5)


def test_hyde_is_one_mean_over_the_query_and_all_passages(encoder, pocket_index):
    record = {"query": "why is the sky blue", "passages": ["Air scatters light.", "Short waves."]}
    system = baselines.hyde(RecordedExpander([record]), encoder, pocket_index.retriever())
    vector = (system[0] >> system[1]).search(record["query"])["query_vec"][0]
    parts = np.vstack([encoder.encode_queries([record["query"]]), encoder.encode_expansions(record["passages"])])
    np.testing.assert_allclose(vector, parts.mean(0), atol=1e-6)


def test_rocchio_moves_the_query_towards_what_it_found(encoder, pocket_index):
    topics = pocket().get_topics().head(2)
    system = baselines.rocchio(encoder, pocket_index, alpha=0.5, beta=0.5, k=2, num_results=4)
    found = system(topics)
    (query,) = encoder.encode_queries([topics["query"][0]])
    first = (encoder.query_encoder() >> pocket_index.retriever(num_results=2))(topics.head(1))
    docs = {doc["docno"]: doc for doc in pocket().get_corpus_iter()}
    read = encoder.doc_encoder()(pd.DataFrame([docs[docno] for docno in first["docno"]]))
    vector = 0.5 * np.asarray(query) + 0.5 * np.mean([np.asarray(v) for v in read["doc_vec"]], axis=0)
    np.testing.assert_allclose(found["query_vec"][0], vector, atol=1e-5)
    assert len(found) == 8


def test_lamer_writes_after_reading(backend, lexical, texts):
    seen = []

    class Seeing(HuggingFaceBackend):
        def stream(self, requests):
            seen.extend(request.messages[0]["content"] for request in requests)
            yield from super().stream(requests)

    topics = pocket().get_topics().head(2)
    seeing = Seeing(backend.model, device="cpu")
    options = {"n": 1, "context_documents": 2, "max_new_tokens": 4}
    with pytest.warns(UserWarning, match="truncated"):
        found = baselines.lamer(seeing, lexical, texts, **options)(topics)
    first = (lexical % 2 >> texts)(topics.head(1))
    assert f"Search results:\n{first['text'][0]}\n\n{first['text'][1]}\nQuestion: {topics['query'][0]}" in seen[0]
    assert len(seen) == 2 and set(found["qid"]) == set(topics["qid"]) and "query_context" not in found


def test_saved_expanders_keep_their_prompts(backend):
    single, several = LLMExpander(backend), LLMExpander(backend, prompt=["q2d", "q2d_context"])
    assert single.describe()["prompt"].startswith("Please") and "context_documents" not in single.describe()
    assert len(several.describe()["prompt"]) == 2 and several.describe()["context_documents"] == 10
