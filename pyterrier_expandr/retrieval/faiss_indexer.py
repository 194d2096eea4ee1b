"""The last step of an indexing pipeline: checks that the target may be written, then builds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyterrier as pt

from ..common.files import restored
from ..common.locks import one_writer
from . import faiss_build as layout
from .factories import import_faiss
from .spool import Spool

if TYPE_CHECKING:
    from .faiss_index import FaissIndex

Mode = Literal["create", "overwrite", "resume"]


class FaissIndexer(pt.Indexer):
    """Writes a stream of `{"docno", "doc_vec"}` records into a `FaissIndex`; created by `FaissIndex.indexer`.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, faiss_index: FaissIndex, *, mode: Mode = "create", verbose: bool = False) -> None:
        if mode not in ("create", "overwrite", "resume"):
            raise ValueError(f'mode must be "create", "overwrite" or "resume", got {mode!r}')
        self.faiss_index, self.mode, self.verbose = faiss_index, mode, verbose

    def index_inputs(self) -> list[list[str]]:
        """The columns that indexing reads."""
        return self.faiss_index.index_inputs()

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> FaissIndex:
        """Build the index and return it. Only one process builds in a folder: a second one is refused at once.

        Raises:
            InUseError: another process is building in the folder (it and its host are named).
            FileExistsError: the folder exists ("create"), or contains anything that is not such an index ("overwrite").
            ValueError: no documents; a docno that is missing, not a string or repeated; vectors with NaN or of
                different sizes; a factory that does not suit them. Everything committed before is kept and can be
                resumed.
            ImportError: FAISS is not installed.
        """
        target = self.faiss_index
        import_faiss()
        with one_writer(target.folder):
            self._build(iter)
        target._forget()
        return target

    def _build(self, docs: Iterable[dict[str, Any]]) -> None:
        target = self.faiss_index
        spool = Spool(target.folder)
        restored(target.folder)
        self._check_target(target.folder, spool)
        if self.mode == "resume" and target.built() and not spool.exists():
            spool.tidy()
            return
        factory, metric = target.factory or "Flat", target.metric or "ip"
        resume = self.mode == "resume"
        layout.build(target.folder, docs, factory=factory, metric=metric, resume=resume, verbose=self.verbose)

    def _check_target(self, folder: Path, spool: Spool) -> None:
        if folder.exists() and (foreign := _foreign(folder)) is not None:
            raise FileExistsError(f"{str(folder)!r} {foreign}: choose another path")
        if self.mode == "create" and folder.exists():
            raise FileExistsError(
                f"{str(folder)!r} already contains an index: open it, or replace it with mode='overwrite'"
            )
        if self.mode == "create" and spool.exists():
            raise FileExistsError(
                f"{str(spool.folder)!r} contains an interrupted build of {str(folder)!r}: continue it with "
                "mode='resume', or start over with mode='overwrite'"
            )

    def _key(self) -> tuple[Any, ...]:
        return (self.faiss_index, self.mode)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, FaissIndexer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{self.faiss_index!r}.indexer(mode={self.mode!r})"

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: the index is the target, not a part."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return self.faiss_index.schematic(input_columns=input_columns)


def _foreign(folder: Path) -> str | None:
    """Why `folder` must not be replaced, or None if it is an index of this package and nothing else."""
    if not folder.is_dir():
        return "is a file"
    names = {path.name for path in folder.iterdir()}
    ours = {layout.METADATA, layout.PT_METADATA, layout.VECTORS, layout.DOCNOS}
    if layout.METADATA not in names:
        return "exists and is not an index of this package"
    return f"contains other files than an index ({sorted(names - ours)[:3]})" if names - ours else None
