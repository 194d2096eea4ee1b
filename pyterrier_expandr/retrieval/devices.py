"""Search on a GPU: by FAISS where it was built for one, and otherwise by torch."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

#: queries, and vectors, whose scores are computed at once: 256 x 65,536 floats are 64 MB
QUERIES, VECTORS = 256, 65_536


def check_device(device: str | None) -> None:
    """Raise ValueError if there is no such device.

    Example:
        >>> check_device("cpu")
    """
    if device in (None, "cpu"):
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used ({error}): leave out device= to search on the CPU"
        ) from None


def on_device(opened: Any, device: str) -> Any:
    """A FAISS index on a GPU: something with the same `search(matrix (n, d), k)`.

    FAISS itself searches if it was built for GPUs; otherwise torch does, which is logged once for each index.

    Raises:
        ValueError: the index is neither flat nor one of inverted lists.
    """
    import faiss
    import torch

    if torch.device(device).type == "cuda" and getattr(faiss, "get_num_gpus", int)() > 0:
        resources = faiss.StandardGpuResources()
        moved: Any = faiss.index_cpu_to_gpu(resources, torch.device(device).index or 0, opened)
        moved.expandr_resources = resources  # they must live as long as the index
        return moved
    logger.warning("FAISS %s has no code for %r: torch searches there", faiss.__version__, device)
    return TorchSearch(opened, device)


class TorchSearch:
    """What a FAISS index finds, computed by torch on `device`: a flat one, or one of inverted lists.

    The vectors lie on the device decoded, with 4 bytes for each dimension. Inverted lists are probed as FAISS does
    (`nprobe`); all scores are computed, and those outside of the lists are dropped, so that they save no time here.

    Raises:
        ValueError: the index is of another kind.

    Example:
        >>> import faiss
        >>> index = faiss.IndexFlatIP(2)
        >>> index.add(np.eye(2, dtype=np.float32))
        >>> TorchSearch(index, "cpu").search(np.array([[0, 1]], np.float32), 1)[1]
        array([[1]])
    """

    def __init__(self, opened: Any, device: str) -> None:
        import faiss
        import torch

        if not isinstance(opened, (faiss.IndexFlatCodes, faiss.IndexIVF)):
            raise ValueError(f"{type(opened).__name__} has no search on {device!r}: take 'Flat', 'SQ8' or 'IVF...'")
        self.device, self.l2 = device, opened.metric_type == faiss.METRIC_L2
        self.vectors = torch.empty((opened.ntotal, opened.d), dtype=torch.float32, device=device)
        for start in range(0, opened.ntotal, VECTORS):
            block = opened.reconstruct_n(start, min(VECTORS, opened.ntotal - start))
            self.vectors[start : start + len(block)] = torch.from_numpy(block).to(device)
        self.lists = None
        if isinstance(opened, faiss.IndexIVF):
            self.quantizer, self.nprobe, self.nlist = opened.quantizer, opened.nprobe, opened.nlist
            self.lists = torch.from_numpy(_list_of_each(opened)).to(device)

    def search(self, matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (inner products or squared distances) and numbers (n, k), best first; -1 for no document."""
        import torch

        found = [
            self._search(torch.from_numpy(block), k) for block in np.split(matrix, range(QUERIES, len(matrix), QUERIES))
        ]
        scores, numbers = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
        return (-scores if self.l2 else scores), np.where(np.isfinite(scores), numbers, -1)

    def _search(self, block: Any, k: int) -> tuple[Any, Any]:
        import torch

        queries, probed = block.to(self.device), self._probed(block)
        best = torch.full((len(queries), k), -torch.inf, device=self.device)
        places = torch.full((len(queries), k), -1, device=self.device)
        for start in range(0, len(self.vectors), VECTORS):
            vectors = self.vectors[start : start + VECTORS]
            scores = queries @ vectors.T  # (queries, vectors)
            if self.l2:
                scores = 2 * scores - (queries**2).sum(1, keepdim=True) - (vectors**2).sum(1)
            if probed is not None and self.lists is not None:
                scores = scores.masked_fill(~probed[:, self.lists[start : start + VECTORS]], -torch.inf)
            top = scores.topk(min(k, scores.shape[1]))
            both = torch.cat([best, top.values], dim=1)
            best, chosen = both.topk(k)
            places = torch.cat([places, top.indices + start], dim=1).gather(1, chosen)
        return best, places

    def _probed(self, block: Any) -> Any:
        """Whether each query looks into each list (n, lists); None without lists."""
        import torch

        if self.lists is None:
            return None
        _, near = self.quantizer.search(block.numpy(), min(self.nprobe, self.nlist))
        probed = torch.zeros((len(block), self.nlist), dtype=torch.bool)
        return probed.scatter_(1, torch.from_numpy(near).clamp(min=0), True).to(self.device)


def _list_of_each(opened: Any) -> np.ndarray:
    """The number of the inverted list (n,) that each vector lies in."""
    import faiss

    lists = np.empty(opened.ntotal, np.int64)
    for number in range(opened.nlist):
        size = opened.invlists.list_size(number)
        if size:
            lists[faiss.rev_swig_ptr(opened.invlists.get_ids(number), size)] = number
    return lists
