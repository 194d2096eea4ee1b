"""Baselines for ExpandR: other methods that use an LLM's texts, or none, named after their papers.

Each is a pipeline `[qid, query]` -> R made of this package's parts. `texts` is a backend, from which an `LLMExpander`
is made with the paper's constants, or any transformer that adds `query_expansions`, such as recorded ones. `options`
go to the `LLMExpander` and override the constants. Prompts are this package's own, not the papers'.

Example:
    >>> from pyterrier_expandr import HuggingFaceBackend
    >>> lexical = pt.Transformer.identity()
    >>> query2doc(HuggingFaceBackend("Qwen/Qwen2.5-7B-Instruct"), lexical)[0].max_new_tokens
    128
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyterrier as pt

from ..expansion.backends.base import Backend
from ..expansion.expander import LLMExpander
from ..expansion.lexical import LexicalExpander
from ..retrieval.doc_vectors import DocVectors

if TYPE_CHECKING:
    from ..encoding.encoder import ExpandREncoder
    from ..retrieval.faiss_index import FaissIndex

#: the prompts of `grf`: keywords, a passage, reasoning, a rewritten question
GRF_PROMPTS = ("q2e", "q2d", "q2c", "q2q")


def hyde(texts: Backend | pt.Transformer, encoder: ExpandREncoder, dense: pt.Transformer, **options: Any) -> pt.Compose:
    """HyDE (Gao et al., ACL 2023): the mean vector of the query and 8 passages, drawn at temperature 0.7.

    Args:
        texts: see above.
        encoder: encodes queries and passages.
        dense: a retriever that takes `query_vec`, e.g. `index.retriever()`.
        options: for the `LLMExpander`.
    """
    expander = _expander(texts, {"n": 8, "temperature": 0.7}, options)
    return pt.Compose(expander, encoder.query_encoder(fusion="uniform"), dense)


def query2doc(texts: Backend | pt.Transformer, lexical: pt.Transformer, **options: Any) -> pt.Compose:
    """query2doc, lexical (Wang et al., EMNLP 2023): the query 5 times and one passage of at most 128 tokens.

    The paper's prompt contains 4 examples; to match it, pass a template with them as `prompt`.
    """
    return pt.Compose(_expander(texts, {"n": 1, "max_new_tokens": 128}, options), LexicalExpander(5), lexical)


def mugi(texts: Backend | pt.Transformer, lexical: pt.Transformer, **options: Any) -> pt.Compose:
    """MuGI, lexical (Zhang et al., Findings of EMNLP 2024): 5 passages, and the query repeated to match their length.

    The paper's beta, 4, is `MUGI_BETA` of `expansion.lexical`.
    """
    return pt.Compose(_expander(texts, {"n": 5}, options), LexicalExpander("mugi"), lexical)


def lamer(
    texts: Backend | pt.Transformer, lexical: pt.Transformer, documents: pt.Transformer, **options: Any
) -> pt.Compose:
    """LameR-style (Shen et al., 2023): 5 passages written after seeing the top 10 results, each paired with the query.

    A query for which the first search finds nothing has no results at the end either.

    Args:
        texts: a backend, or a transformer `[qid, query, docno, text, rank]` -> `[qid, query, query_expansions]`.
        lexical: the retriever, used twice.
        documents: adds `text` to results, e.g. `pt.text.get_text(dataset, ["title", "text"])`.
        options: for the `LLMExpander`.
    """
    constants: dict[str, Any] = {"prompt": "q2d_context", "n": 5, "context_documents": 10}
    first = lexical % (constants | options)["context_documents"]
    return pt.Compose(first, documents, _expander(texts, constants, options), LexicalExpander(5), lexical)


def grf(texts: Backend | pt.Transformer, encoder: ExpandREncoder, dense: pt.Transformer, **options: Any) -> pt.Compose:
    """GRF-like (Mackie et al., SIGIR 2023): several kinds of text, one per prompt, fused with the query.

    The paper uses 10 kinds of text and fuses them as a unigram language model; here they are fused into one vector, in
    which the query has half the weight.
    """
    expander = _expander(texts, {"prompt": GRF_PROMPTS, "n": 1}, options)
    return pt.Compose(expander, encoder.query_encoder(fusion="average"), dense)


def rocchio(
    encoder: ExpandREncoder, index: FaissIndex, *, alpha: float = 1.0, beta: float = 0.2, k: int = 3, **options: Any
) -> pt.Compose:
    """Vector Rocchio feedback (Li et al., TOIS 2023) by pyterrier_dr's `VectorPrf`, with its constants; no LLM.

    Args:
        encoder: the query encoder, or any encoder that `index` was made with.
        index: searched twice; it must keep its vectors as they are (factory "Flat").
        alpha: weight of the query's vector.
        beta: weight of the mean of the first documents' vectors.
        k: number of feedback documents.
        options: for `index.retriever`, such as `num_results`.
    """
    from pyterrier_dr import VectorPrf

    first = encoder.query_encoder() >> index.retriever(num_results=k)
    return pt.Compose(first, DocVectors(index), VectorPrf(alpha=alpha, beta=beta, k=k), index.retriever(**options))


def _expander(texts: Backend | pt.Transformer, constants: dict[str, Any], options: dict[str, Any]) -> pt.Transformer:
    if isinstance(texts, Backend):
        return LLMExpander(texts, **(constants | options))
    if not isinstance(texts, pt.Transformer):
        raise TypeError(f"texts must be a backend or a transformer that adds query_expansions, got {texts!r:.80}")
    if options:
        raise ValueError(f"options of an LLM need a backend, and {texts!r:.80} is none: {sorted(options)}")
    return texts
