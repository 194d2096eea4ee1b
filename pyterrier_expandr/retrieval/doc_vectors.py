"""The vectors of retrieved documents, read from the index that stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

if TYPE_CHECKING:
    from .faiss_index import FaissIndex

HELP_URL = "https://github.com/facebookresearch/faiss/wiki"


class DocVectors(pt.Transformer):
    """Adds `doc_vec` to results, as read by `pyterrier_dr.VectorPrf` and other feedback methods.

    Columns: `[qid, docno]` -> adds `doc_vec` (float32, (d,)).

    Args:
        faiss_index: an index that stores vectors unmodified (factory "Flat").

    Raises:
        ValueError: the index stores modified vectors, or lacks a document.
    """

    def __init__(self, faiss_index: FaissIndex) -> None:
        self.faiss_index = faiss_index

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, docno]` -> adds `doc_vec`."""
        pt.validate.result_frame(inp, context=self)
        if inp.empty:
            return inp.assign(doc_vec=pd.Series(dtype=object))
        import pyarrow as pa
        import pyarrow.compute as pc

        index = self.faiss_index
        if not index.exact:
            raise ValueError(f"the index {str(index.path)!r} does not keep vectors as they are: build one that is Flat")
        places = pc.index_in(pa.array(inp["docno"], index.docnos.type), index.docnos)
        if places.null_count:
            missing = inp["docno"].iloc[pc.is_null(places).index(True).as_py()]
            raise ValueError(f"the index {str(index.path)!r} has no document {missing!r}: these are another corpus's")
        vectors = index.open().reconstruct_batch(places.to_numpy().astype("int64"))
        return inp.assign(doc_vec=pd.Series(list(vectors), index=inp.index, dtype=object))

    def __eq__(self, other: object) -> bool:
        return self.faiss_index == other.faiss_index if isinstance(other, DocVectors) else NotImplemented

    def __hash__(self) -> int:
        return hash(("DocVectors", self.faiss_index))

    def __repr__(self) -> str:
        return f"DocVectors({str(self.faiss_index.path)!r})"

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: the index is not part of the pipeline."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return {"label": "Doc Vectors", "help_url": HELP_URL}
