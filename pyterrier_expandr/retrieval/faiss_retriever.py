"""Search in a FAISS index: `[qid, query_vec]` -> R."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..common.frames import check_ids, the_column
from ..encoding.vectors import describe_source, quantized_difference, source_of, stack_vectors
from .devices import check_device
from .shards import best_of, check_shards

if TYPE_CHECKING:
    import pyarrow as pa

    from .faiss_index import FaissIndex

HELP_URL = "https://github.com/facebookresearch/faiss/wiki"

#: maximum size in bytes of the results of one FAISS call; FAISS is fastest with as many queries per call as possible
BLOCK_BYTES = 256 * 2**20
#: bytes per result: score, number, and FAISS's own buffers
RESULT_BYTES = 36


class FaissRetriever(pt.Transformer):
    """Searches a `FaissIndex` with query vectors.

    Columns: `[qid, query_vec]` (float array (d,)) -> the input's columns with `docno` (str), `score` (float32; the
    inner product, or the negative squared distance), `rank` (int, from 0). Each row of the input is searched
    independently. A query gets fewer than `num_results` rows if the index has fewer documents. Documents with equal
    scores are ordered by docno; if more of them tie at the last rank than fit, FAISS decides which are included.

    Args:
        faiss_index: the index.
        num_results: maximum number of documents per query.
        search_params: FAISS parameter string for approximate indexes, e.g. "nprobe=32" or "efSearch=128".
        drop_query_vec: leave `query_vec` out of the result.
        verbose: show a progress bar.
        shards: further indexes, of other documents, which are searched together with `faiss_index`; their results are
            merged by score. With "Flat", the ranking is that of one index of all documents.
        device: "cuda" to search on a GPU, for factories that are flat ("Flat", "SQ8" ...) or begin with "IVF".

    Raises:
        ValueError: `num_results` below 1; no such device; shards that differ in encoder, size or metric; vectors with
            NaN, or whose size differs from the index's (the message names both encoders). FileNotFoundError: the index
            is not built. ImportError: FAISS is not installed.

    Example:
        >>> from pyterrier_expandr import FaissIndex
        >>> FaissRetriever(FaissIndex("pocket.faiss"), num_results=10).fuse_rank_cutoff(5)
        FaissRetriever('pocket.faiss', num_results=5)
    """

    def __init__(
        self,
        faiss_index: FaissIndex,
        *,
        num_results: int = 1000,
        search_params: str | None = None,
        drop_query_vec: bool = False,
        verbose: bool = False,
        shards: Sequence[FaissIndex] = (),
        device: str | None = None,
    ) -> None:
        check_device(device)
        if num_results < 1:
            raise ValueError(f"num_results must be 1 or more, got {num_results}")
        self.faiss_index, self.num_results = faiss_index, num_results
        self.search_params, self.drop_query_vec, self.verbose = search_params, drop_query_vec, verbose
        self.shards, self.device = tuple(shards), device
        self._warned = False

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query_vec]` -> R."""
        pt.validate.query_frame(inp, extra_columns=["query_vec"], context=self)
        unwanted = ["docid", "score", "rank", *(["query_vec"] if self.drop_query_vec else [])]
        present = [name for name in unwanted if name in inp]
        queries = inp.drop(columns=present) if present else inp  # drop is slow even without any
        if inp.empty:
            return queries.reset_index(drop=True).assign(
                docno=pd.Series(dtype=str), score=pd.Series(dtype=np.float32), rank=pd.Series(dtype=np.int64)
            )
        check_ids(inp, "qid")
        matrix = stack_vectors(the_column(inp, "query_vec"), inp["qid"].tolist(), name="query_vec")
        self._check_encoder(matrix.shape[1], source_of(inp["query_vec"].iloc[0]))
        scores, numbers = self._search(matrix)
        docnos = self._docnos()
        _order_ties(scores, numbers, docnos)
        return _result_frame(queries, scores, numbers, docnos)

    def _check_encoder(self, dim: int, source: dict[str, Any] | None) -> None:
        index = self.faiss_index
        if dim != index.dim:
            raise ValueError(
                f"the query vectors have {dim} dimensions and come from {describe_source(source)}; the index "
                f"{str(index.path)!r} has {index.dim} and was made by {describe_source(index.encoder)}: "
                "use one encoder for both, e.g. index.query_encoder()"
            )
        if index.accepts(source) or self._warned:
            return
        self._warned = True
        if (cosine := quantized_difference(source, index.encoder)) is not None:
            warnings.warn(
                f"the query vectors of {describe_source(source)} and the vectors in the index {str(index.path)!r} come "
                "from one model, but one of the two is in int8: the cosine between the vectors of both is "
                f"{cosine['mean']:.4f} in the mean and {cosine['min']:.4f} at least ({cosine['texts']} texts)",
                stacklevel=3,
            )
        else:
            warnings.warn(
                f"the query vectors come from {describe_source(source)}, but the index {str(index.path)!r} from "
                f"{describe_source(index.encoder)} (different weights, pooling, normalisation, size or document "
                "prompt): the scores may be meaningless",
                stacklevel=3,
            )

    def _search(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and document numbers, each (n, k), best first; -1 if there is no document."""
        check_shards(self._indexes)
        sizes = [len(index) for index in self._indexes]
        k = min(self.num_results, sum(sizes))
        block = max(64, BLOCK_BYTES // (RESULT_BYTES * k * len(sizes)))
        starts: Any = range(0, len(matrix), block)
        if self.verbose:
            starts = pt.tqdm(starts, desc="Searching", unit="block")
        parts = []
        for start in starts:
            queries = matrix[start : start + block]
            found = [self._search_one(index, queries, min(k, len(index))) for index in self._indexes]
            parts.append(found[0] if len(found) == 1 else best_of(found, sizes, k))
        scores, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
        return scores, numbers

    def _search_one(self, index: FaissIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, numbers = index.open(self.search_params, device=self.device).search(queries, k)
        return (scores if index.metadata["metric"] == "ip" else -scores), numbers

    @property
    def _indexes(self) -> list[FaissIndex]:
        return [self.faiss_index, *self.shards]

    def _docnos(self) -> pa.Array | pa.ChunkedArray:
        """The docnos of all documents, in the order of their numbers; none is copied."""
        import pyarrow as pa

        return pa.chunked_array([index.docnos for index in self._indexes]) if self.shards else self.faiss_index.docnos

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """This retriever with `k` results if search is exact; None for approximate indexes."""
        if not all(index.exact for index in self._indexes) or k >= self.num_results:
            return None
        return pt.inspect.transformer_apply_attributes(self, num_results=k)

    def describe(self) -> dict[str, Any]:
        """Everything that determines the ranking besides the query vectors, as JSON values."""
        settings = {"num_results": self.num_results, "search_params": self.search_params}
        shards = {"shards": [index.describe() for index in self.shards]} if self.shards else {}
        return {"retriever": "FaissRetriever", **self.faiss_index.describe(), **settings, **shards}

    def _key(self) -> tuple[Any, ...]:
        return (self.faiss_index, self.num_results, self.search_params, self.drop_query_vec, self.shards, self.device)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, FaissRetriever) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"FaissRetriever({str(self.faiss_index.path)!r}, num_results={self.num_results})"

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: the index is not a transformer."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return {"label": "Faiss Retriever", "help_url": HELP_URL}


def _result_frame(
    queries: pd.DataFrame, scores: np.ndarray, numbers: np.ndarray, docnos: pa.Array | pa.ChunkedArray
) -> pd.DataFrame:
    """The rows of all queries, one query after another, from (n, k) arrays.

    Built from whole columns: a row-wise builder is slow, and breaks on a query with exactly one result. The new columns
    are joined at once, since pandas builds the list of columns again for each column that is added.
    """
    import pyarrow.compute as pc

    found = numbers >= 0
    counts = found.sum(axis=1)
    starts = np.cumsum(counts) - counts
    repeated = queries.iloc[np.repeat(np.arange(len(queries)), counts)]
    ranks = np.arange(counts.sum()) - np.repeat(starts, counts)
    taken = pc.take(docnos, numbers[found])
    names = pd.array(taken.combine_chunks() if hasattr(taken, "combine_chunks") else taken, dtype=str)
    added = pd.DataFrame({"docno": names, "score": scores[found], "rank": ranks}, copy=False)
    repeated.index, added.columns.name = added.index, queries.columns.name
    result = pd.concat([repeated, added], axis=1).__finalize__(queries)
    if queries.columns.dtype == object:  # concat makes strings of them
        result.columns = result.columns.astype(object)
    return result


def _order_ties(scores: np.ndarray, numbers: np.ndarray, docnos: pa.Array | pa.ChunkedArray) -> None:
    """Order documents with equal scores by docno, in place; only the docnos of tied documents are looked up."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # (n, k - 1): whether a result ties with the next one of its query; padding (-1) has no score and cannot tie
    tied = (scores[:, 1:] == scores[:, :-1]) & (numbers[:, 1:] >= 0) & (numbers[:, :-1] >= 0)
    if not tied.any():
        return
    edge = np.zeros((len(scores), 1), bool)
    before, after = np.hstack([edge, tied]).ravel(), np.hstack([tied, edge]).ravel()
    places = np.flatnonzero(before | after)  # all results that tie with a neighbour, query by query
    group = np.cumsum(~before[places])  # a run of equal scores starts where there is no tie with the previous one
    documents = numbers.ravel()[places]
    table = pa.table({"group": group, "docno": pc.take(docnos, documents)})
    order = pc.sort_indices(table, sort_keys=[("group", "ascending"), ("docno", "ascending")]).to_numpy()
    numbers[np.unravel_index(places, numbers.shape)] = documents[order]
