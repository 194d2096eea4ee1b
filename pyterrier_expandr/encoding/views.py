"""The transformers that `ExpandREncoder` creates: light views that share its model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
from pyterrier_dr import SimFn
from pyterrier_dr.biencoder import BiDocEncoder, BiQueryEncoder, BiScorer

from ..common.frames import (
    check_ids,
    check_single,
    document_texts,
    expansion_lists,
    query_texts,
    records_frame,
    the_column,
)
from .fusion import Fusion, check_fusion, fuse
from .vectors import SourcedArray, stack_vectors, with_source

if TYPE_CHECKING:
    from .encoder import ExpandREncoder

HELP_URL = "https://github.com/terrierteam/pyterrier_dr"

#: texts given to the model at once if progress is shown; enough to sort by length, few enough to move the bar
PROGRESS_BLOCK = 1024


class _View(pt.Transformer):
    """What all views share: the encoder, a batch size, equality by what is computed, and drawing without loading."""

    LABEL: str
    bi_encoder_model: ExpandREncoder
    verbose: bool

    def _key(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.bi_encoder_model)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, _View) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[Any, Any]]:
        """`transform` on records; indexing pipelines pass their documents this way."""
        return self.transform(records_frame(inp)).to_dict(orient="records")

    def describe(self) -> dict[str, Any]:
        """Everything that determines the output, as JSON values, without loading the model."""
        return {"view": type(self).__name__, **self.bi_encoder_model.describe()}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return {"label": self.LABEL, "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: the encoder is shared between views."""
        return {}


class QueryEncoder(_View, BiQueryEncoder):
    """Adds `query_vec`, the fusion of a query's embedding with those of its expansions (Eq. 8)."""

    LABEL = "Query Encoder"

    def __init__(
        self,
        bi_encoder_model: ExpandREncoder,
        *,
        verbose: bool | None = None,
        batch_size: int | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__(bi_encoder_model, verbose=verbose, batch_size=batch_size)
        self.fusion = bi_encoder_model.fusion if fusion is None else fusion

    @property
    def fusion(self) -> Fusion:
        """The fusion rule in use; assigning a value out of range raises immediately."""
        return self._fusion

    @fusion.setter
    def fusion(self, value: Fusion) -> None:
        self._fusion = check_fusion(value)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` (+ `query_expansions`) -> the same rows with `query_vec`, float32 arrays of shape (d,).

        Raises:
            ValueError: a query is missing or empty. TypeError: a query or an expansion is not a string.
        """
        with pt.validate.any(inp, context=self) as v:
            v.query_frame(extra_columns=["query"])
            v.columns(includes=["query"])
        if inp.empty:
            return inp.assign(query_vec=pd.Series(dtype=object))
        check_single(inp, "query_vec")
        queries, expansions = query_texts(inp), expansion_lists(inp)
        distinct: dict[tuple[str, ...], int] = {}
        place = [distinct.setdefault((q, *e), len(distinct)) for q, e in zip(queries, expansions, strict=True)]
        vectors = self._fused(list(distinct))
        return inp.assign(query_vec=pd.Series([vectors[i] for i in place], index=inp.index, dtype=object))

    def _fused(self, groups: list[tuple[str, ...]]) -> SourcedArray:
        """One vector for each (query, expansion, ...)."""
        encoder = self.bi_encoder_model
        step = PROGRESS_BLOCK if self.verbose else len(groups)
        blocks = range(0, len(groups), step)
        out = []
        shown = self.verbose and encoder.has_to_encode(groups)
        for start in pt.tqdm(blocks, desc="Encoding queries", unit="block") if shown else blocks:
            block = groups[start : start + step]
            query_vecs = encoder.encode_queries([g[0] for g in block], self.batch_size)
            flat = [text for group in block for text in group[1:]]
            expansion_vecs = encoder.encode_expansions(flat, self.batch_size) if flat else query_vecs[:0]
            ends = np.cumsum([len(group) - 1 for group in block])
            for vector, own in zip(query_vecs, np.split(np.asarray(expansion_vecs), ends[:-1]), strict=True):
                out.append(fuse(np.asarray(vector), own, self.fusion) if len(own) else np.asarray(vector))
        fused = np.stack(out).astype(np.float32, copy=False)
        if encoder.renormalize:
            fused = fused / np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return with_source(fused, encoder.source)

    def describe(self) -> dict[str, Any]:
        """Everything that determines the vectors, as JSON values, without loading the model."""
        return {**super().describe(), "fusion": repr(self.fusion)}

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), self.fusion)

    def __repr__(self) -> str:
        own = "" if self.fusion == "average" else f"fusion={self.fusion!r}"
        return f"{self.bi_encoder_model!r}.query_encoder({own})"


class DocEncoder(_View, BiDocEncoder):
    """Adds `doc_vec`, the embedding of `title + " " + text`."""

    LABEL = "Doc Encoder"

    def __init__(
        self, bi_encoder_model: ExpandREncoder, *, verbose: bool | None = None, batch_size: int | None = None
    ) -> None:
        # Do not call BiDocEncoder's own constructor: `batch_size` has another meaning here, see below.
        self.bi_encoder_model = bi_encoder_model
        self.verbose = bi_encoder_model.verbose if verbose is None else verbose
        self._batch_size = bi_encoder_model.batch_size if batch_size is None else batch_size

    @property
    def text_field(self) -> str:
        """The column with the document's text."""
        return self.bi_encoder_model.text_field

    @property
    def batch_size(self) -> int:
        """Number of documents that an indexing pipeline passes at once.

        PyTerrier uses this to split a corpus into frames. Passing many model batches at a time lets texts of similar
        length share a batch, which is also what makes a bare `SentenceTransformer.encode` fast.
        """
        return max(1024, 32 * self._batch_size)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[docno, text]` (+ `title`) -> the same rows with `doc_vec`, float32 arrays of shape (d,).

        Raises:
            ValueError: a text is missing. TypeError: a title or text is not a string.
        """
        with pt.validate.any(inp, context=self) as v:
            v.document_frame(extra_columns=[self.text_field])
            v.columns(includes=[self.text_field])
        if inp.empty:
            return inp.assign(doc_vec=pd.Series(dtype=object))
        check_single(inp, "doc_vec")
        texts = document_texts(inp, self.text_field)
        step = PROGRESS_BLOCK if self.verbose else len(texts)
        blocks = range(0, len(texts), step)
        vectors: list[np.ndarray] = []
        for start in pt.tqdm(blocks, desc="Encoding documents", unit="block") if self.verbose else blocks:
            vectors.extend(self.bi_encoder_model.encode_docs(texts[start : start + step], self._batch_size))
        return inp.assign(doc_vec=pd.Series(vectors, index=inp.index, dtype=object))

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Cut the ranking before the documents are encoded."""
        return pt.RankCutoff(k) >> self

    def __repr__(self) -> str:
        return f"{self.bi_encoder_model!r}.doc_encoder()"


class TextScorer(_View, BiScorer):
    """Scores each (query, document) row by the dot product of the fused query and the document."""

    LABEL = "Text Scorer"

    def __init__(
        self,
        bi_encoder_model: ExpandREncoder,
        *,
        verbose: bool | None = None,
        batch_size: int | None = None,
        sim_fn: SimFn | None = None,
    ) -> None:
        super().__init__(bi_encoder_model, verbose=verbose, batch_size=batch_size, sim_fn=sim_fn)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query, docno, text]` (or `query_vec`, `doc_vec` instead of the texts) -> adds `score`, `rank`.

        Raises:
            ValueError: a query, a text, an id or the column qid is missing, or the vectors do not match each other.
            TypeError: a query, text or id is not a string.
        """
        text = self.text_field
        with pt.validate.any(inp, context=self) as v:
            for columns in (["query", text], ["query_vec", "doc_vec"], ["query", "doc_vec"], ["query_vec", text]):
                v.columns(includes=columns)
        if self.sim_fn != SimFn.dot:
            raise ValueError(f"{self.sim_fn} is not supported: with normalised vectors the dot product is the cosine")
        if inp.empty:
            return inp.assign(score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        if "qid" not in inp:
            raise ValueError("the frame has no column qid, by which documents are ranked: add it")
        check_ids(inp, "qid", "docno")
        check_single(inp, "score", "rank")
        options = {"batch_size": self.batch_size, "verbose": self.verbose}
        queries: Any = inp if "query_vec" in inp else self.bi_encoder_model.query_encoder(**options)(inp)
        documents: Any = inp if "doc_vec" in inp else self.bi_encoder_model.doc_encoder(**options)(inp)
        rows = list(map(str, inp["qid"]))
        left = stack_vectors(the_column(queries, "query_vec"), rows, name="query_vec")
        right = stack_vectors(the_column(documents, "doc_vec"), rows, name="doc_vec")
        if left.shape != right.shape:
            raise ValueError(
                f"query_vec has {left.shape[1]} dimensions, but doc_vec has {right.shape[1]}: both must come from the "
                "same encoder"
            )
        scores = np.einsum("nd,nd->n", left, right).astype(float)
        return pt.model.add_ranks(inp.assign(score=scores))

    def __repr__(self) -> str:
        return f"{self.bi_encoder_model!r}.text_scorer()"
