"""Vectors in, rankings out: the FAISS artefact, how it is built and searched; BM25 (PISA) for comparison.

`faiss_index.FaissIndex` reads `[docno, doc_vec]` as a stream; `faiss_indexer`, `faiss_build` and `spool` commit it as
it arrives and put the finished folder in place; `faiss_retriever.FaissRetriever` turns `[qid, query_vec]` into a
ranking. Meant to be changed: factories and search parameters. The layout of the folder has a version
(`faiss_build.FORMAT_VERSION`).
"""

from ..common.lazy import lazy_names

_HOME = {
    "DocVectors": "doc_vectors",
    "FaissIndex": "faiss_index",
    "FaissRetriever": "faiss_retriever",
    "LexicalIndex": "sparse",
    "ListFusion": "list_fusion",
    "TwoLists": "two_lists",
    "bm25": "sparse",
    "hybrid": "list_fusion",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
