"""FAISS factory strings: what they are, how many vectors train them, and what memory a vector takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: number of vectors that trained factories (SQ8, IVF, PQ) learn from, drawn with a fixed seed ...
TRAIN_SAMPLE = 65_536
#: ... or this many per inverted list, if that is more: FAISS warns below 39
TRAIN_PER_LIST = 40


def import_faiss() -> Any:
    """The module faiss, or an ImportError with the line to type: a dependency that may have been uninstalled."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"dense indexes need FAISS ({error}): pip install faiss-cpu") from error
    return faiss


def mmap_flag(faiss: Any) -> int:
    """The flag for mapping an index file instead of reading it: all types since FAISS 1.11, inverted lists before."""
    return int(getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP))


def last_sentence(error: Exception) -> str:
    """FAISS's error message without its source location."""
    return str(error).strip().splitlines()[-1].rsplit(": ", 1)[-1] if str(error).strip() else repr(error)


def check_factory(factory: str, metric: str, dim: int | None = None) -> Any:
    """An empty FAISS index for `dim` dimensions; without `dim`, only check whether FAISS can parse the string.

    Raises:
        ValueError: FAISS does not know the factory, or it does not suit the dimensions or the metric.
    """
    import faiss

    code = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    try:
        return faiss.index_factory(dim or 64, factory, code)
    except RuntimeError as error:
        reason = last_sentence(error)
        if dim is None and "could not parse" not in reason:
            return None  # it may still suit the actual dimensions of the vectors
        fits = f" for {dim} dimensions and metric {metric!r}" if dim else ""
        raise ValueError(f"FAISS cannot make an index from the factory string {factory!r}{fits}: {reason}") from error


def parts(index: Any) -> Iterator[Any]:
    """A FAISS index and those inside it: behind a transformation, a refinement, a graph, or inverted lists."""
    import faiss

    part = faiss.downcast_index(index)  # under another name: it does not keep alive what `index` owns
    yield part
    for name in ("index", "base_index", "refine_index", "storage", "quantizer"):
        inside = getattr(part, name, None)
        if isinstance(inside, faiss.Index):
            yield from parts(inside)


def least_to_train(index: Any) -> int:
    """The smallest number of vectors that an empty index can be trained with; 0 if it needs no training.

    Example:
        >>> import faiss
        >>> [least_to_train(faiss.index_factory(16, f)) for f in ("Flat", "IVF64,Flat", "IVF64,PQ4", "SQ8")]
        [0, 64, 256, 1]
    """
    if index.is_trained:
        return 0
    of = [1]
    for part in parts(index):
        of += [getattr(part, "nlist", 1), getattr(getattr(part, "pq", None), "ksub", 1)]
    return max(of)


def sample_size(index: Any) -> int:
    """The number of vectors that an empty index is trained with, where there are that many; 0 without training."""
    if index.is_trained:
        return 0
    return max(TRAIN_SAMPLE, *(TRAIN_PER_LIST * getattr(part, "nlist", 0) for part in parts(index)))


def bytes_per_vector(index: Any) -> float:
    """The bytes that each vector adds to an index, in memory and on disk.

    Example:
        >>> import faiss
        >>> [bytes_per_vector(faiss.index_factory(384, f)) for f in ("Flat", "SQfp16", "SQ8", "IVF64,PQ48")]
        [1536.0, 768.0, 384.0, 56.0]
    """
    import faiss

    part = faiss.downcast_index(index)  # under another name: it does not keep alive what `index` owns
    if isinstance(part, faiss.IndexPreTransform):
        return bytes_per_vector(part.index)
    if isinstance(part, faiss.IndexRefine):
        return bytes_per_vector(part.base_index) + bytes_per_vector(part.refine_index)
    if isinstance(part, faiss.IndexHNSW):
        graph: Any = part.hnsw
        links = graph.nb_neighbors(0)  # at the lowest level; above it, each level has half as many for 1 of M
        return bytes_per_vector(part.storage) + 4 * links + 4 * links / 2 / (links / 2 - 1) + 12
    if isinstance(part, faiss.IndexIVF):
        return float(part.code_size + 8)
    return float(getattr(part, "code_size", 4 * part.d))


def build_memory(index: Any, count: int, dim: int) -> int:
    """The bytes that a build of an empty `index` from `count` vectors holds beyond what the process had before.

    A flat index is written as a stream. Others are trained on a sample, which is released, and then filled in memory.
    """
    if is_flat(index):
        return 0
    sample = min(sample_size(index), count) * dim * 4 * 2  # FAISS copies what it clusters
    return int(max(sample, bytes_per_vector(index) * count))


def is_flat(index: Any) -> bool:
    """Whether the index keeps vectors as they are, one after another."""
    import faiss

    return type(index) in (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2)
