"""A dense index as a PyTerrier artefact: FAISS for the vectors, Arrow for the docnos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyterrier as pt

from .index_build import FORMAT_VERSION, METADATA, Spool, build

if TYPE_CHECKING:
    import pyarrow as pa

    from .encoder_views import QueryEncoder
    from .retriever import FaissRetriever

HELP_URL = "https://github.com/facebookresearch/faiss/wiki/The-index-factory"

Mode = Literal["create", "overwrite", "resume"]


class FaissIndex(pt.Artifact, pt.Indexer):
    """A folder with a FAISS index, its docnos, and a record of the encoder that filled it.

    Indexing reads `docno` (str, any Unicode) and `doc_vec` (float array (d,)) as a stream. Every few thousand documents are
    committed to a working folder beside `path`; the finished index is put in place by a rename, so that what opens is
    always whole. An interrupted build is continued by `indexer(mode="resume")`. Memory is bounded: for "Flat" by a chunk of
    vectors, for other factories by the size of the FAISS index itself.

    Args:
        path: the folder.
        factory: FAISS factory string for a new index: "Flat" (exact), "HNSW32", "IVF1024,PQ48" ...
        metric: "ip" (inner product) or "l2" (squared distance; scores are its negative).

    Raises:
        ValueError: an unknown metric.

    Example:
        >>> index = FaissIndex("pocket.faiss")
        >>> index.index([{"docno": "d1", "doc_vec": np.array([1.0, 0.0])}])  # doctest: +SKIP
        >>> index.retriever(num_results=10)
        FaissRetriever('pocket.faiss', num_results=10)
    """

    ARTIFACT_TYPE = "dense_index"
    ARTIFACT_FORMAT = "expandr_faiss"
    ARTIFACT_PACKAGE_HINT = "pyterrier_expandr"

    def __init__(self, path: str | Path, *, factory: str = "Flat", metric: Literal["ip", "l2"] = "ip") -> None:
        super().__init__(path)
        if metric not in ("ip", "l2"):
            raise ValueError(f'metric must be "ip" or "l2", got {metric!r}')
        self.factory, self.metric = factory, metric
        self._metadata: dict[str, Any] | None = None
        self._opened: dict[str | None, Any] = {}
        self._docnos: pa.Array | None = None

    @property
    def folder(self) -> Path:
        """The folder of the index."""
        return Path(str(self.path))

    def built(self) -> bool:
        """Whether there is a finished index at `path`."""
        return (self.folder / METADATA).is_file()

    @property
    def metadata(self) -> dict[str, Any]:
        """What is recorded with the index: factory, metric, dim, count, encoder, versions, file sizes.

        Raises:
            FileNotFoundError: nothing is built. ValueError: the record is damaged or from a newer release, or a file of
                the index is missing or has another size than recorded.
        """
        if self._metadata is None:
            if not self.built():
                hint = "continue it with indexer(mode='resume')" if Spool(self.folder).exists() else "index documents first"
                raise FileNotFoundError(f"there is no index at {str(self.path)!r}: {hint}")
            self._metadata = _read_metadata(self.folder)
        return self._metadata

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return int(self.metadata["dim"])

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The specification of the encoder that made the vectors, or None where they did not say."""
        return self.metadata["encoder"]

    @property
    def exact(self) -> bool:
        """Whether search is exhaustive over unchanged vectors."""
        return (self.metadata["factory"] if self.built() else self.factory) == "Flat"

    def __len__(self) -> int:
        return int(self.metadata["count"])

    def __bool__(self) -> bool:
        return True  # an index is something even before it has a length

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> FaissIndex:
        """Index a stream of `{"docno": str, "doc_vec": array}` into a new folder; see `indexer` for other modes."""
        return self.indexer(**kwargs).index(iter)

    def index_inputs(self) -> list[list[str]]:
        """The columns that indexing reads."""
        return [["docno", "doc_vec"]]

    def indexer(self, mode: Mode = "create") -> FaissIndexer:
        """An indexer that ends a PyTerrier pipeline.

        Args:
            mode: "create" refuses a folder that exists; "overwrite" replaces a finished index once the new one is
                complete; "resume" continues an interrupted build. Give "resume" the whole corpus again, or only what is
                missing, which spares the encoder the rest:
                `(encoder.doc_encoder() >> index.indexer("resume")).index(index.remaining(corpus))`.
        """
        return FaissIndexer(self, mode=mode)

    def remaining(self, corpus: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The documents of `corpus` that an interrupted build has not committed yet; none if the index is built.

        Raises:
            ValueError: the documents committed before are not the first ones of `corpus`.
        """
        if self.built():
            return
        committed = Spool(self.folder).committed_docnos()
        for number, doc in enumerate(corpus):
            if number >= len(committed):
                yield doc
            elif str(doc["docno"]) != committed[number]:
                raise ValueError(
                    f"document {number} is {doc['docno']!r}, but the interrupted build has {committed[number]!r} there: "
                    'resume with the same corpus in the same order, or start anew with mode="overwrite"'
                )

    def retriever(
        self, num_results: int = 1000, *, search_params: str | None = None, verbose: bool = False
    ) -> FaissRetriever:
        """A transformer `[qid, query_vec]` -> R; see `FaissRetriever`."""
        from .retriever import FaissRetriever

        return FaissRetriever(self, num_results=num_results, search_params=search_params, verbose=verbose)

    def query_encoder(self, **options: Any) -> QueryEncoder:
        """The query encoder that belongs to this index; `options` (device, batch_size ...) go to its encoder.

        Raises:
            ValueError: the vectors did not say what made them, or that encoder has changed since.
        """
        from .encoder import ExpandREncoder

        if self.encoder is None:
            raise ValueError(f"the vectors in {str(self.path)!r} did not say which encoder made them: build it yourself")
        return ExpandREncoder.from_spec(self.encoder, **options).query_encoder()

    def open(self, search_params: str | None = None) -> Any:
        """The FAISS index, memory-mapped where its type allows, with `search_params` set.

        Raises:
            ValueError: the file is damaged, or the parameters do not suit the index. ImportError: no FAISS.
        """
        if search_params not in self._opened:
            faiss = import_faiss()
            self.metadata  # noqa: B018  says first what is wrong with the folder
            flags = faiss.IO_FLAG_MMAP_IFC if self.exact and hasattr(faiss, "IO_FLAG_MMAP_IFC") else faiss.IO_FLAG_MMAP
            try:
                opened = faiss.read_index(str(self.folder / "index.faiss"), flags)
            except RuntimeError as error:
                raise ValueError(f"the index in {str(self.path)!r} is damaged: {_reason(error)}; index again") from error
            if search_params is not None:
                try:
                    faiss.ParameterSpace().set_index_parameters(opened, search_params)
                except RuntimeError as error:
                    raise ValueError(f"search_params {search_params!r}: {_reason(error)}") from error
            self._opened[search_params] = opened
        return self._opened[search_params]

    @property
    def docnos(self) -> pa.Array:
        """All docnos in index order, memory-mapped."""
        if self._docnos is None:
            import pyarrow as pa

            self.metadata  # noqa: B018  says first what is wrong with the folder
            with pa.memory_map(str(self.folder / "docnos.arrow")) as source:
                self._docnos = pa.ipc.open_file(source).read_all()["docno"].combine_chunks()
        return self._docnos

    def _forget(self) -> None:
        self._metadata, self._docnos, self._opened = None, None, {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_metadata": None, "_docnos": None, "_opened": {}}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaissIndex):
            return NotImplemented
        return (self.folder.resolve(), self.factory, self.metric) == (other.folder.resolve(), other.factory, other.metric)

    def __hash__(self) -> int:
        return hash((self.folder.resolve(), self.factory, self.metric))

    def __repr__(self) -> str:
        return f"FaissIndex({str(self.path)!r})"

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws."""
        return {"label": "Faiss Index", "help_url": HELP_URL}


class FaissIndexer(pt.Indexer):
    """Consumes `{"docno", "doc_vec"}` records into a `FaissIndex`; made by `FaissIndex.indexer`."""

    def __init__(self, faiss_index: FaissIndex, *, mode: Mode = "create") -> None:
        if mode not in ("create", "overwrite", "resume"):
            raise ValueError(f'mode must be "create", "overwrite" or "resume", got {mode!r}')
        self.faiss_index, self.mode = faiss_index, mode

    def index_inputs(self) -> list[list[str]]:
        """The columns that indexing reads."""
        return self.faiss_index.index_inputs()

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> FaissIndex:
        """Build the index and return it.

        Raises:
            FileExistsError: the folder exists ("create"), or holds something that is no such index ("overwrite").
            ValueError: no documents; a docno that is missing, no string or repeated; vectors with NaN or of unequal size; a
                factory that does not suit them. What was committed before stays and can be resumed.
            ImportError: no FAISS.
        """
        target = self.faiss_index
        import_faiss()
        self._check_target()
        if self.mode == "resume" and target.built():
            return target
        build(target.folder, iter, factory=target.factory, metric=target.metric, resume=self.mode == "resume")
        target._forget()
        return target

    def _check_target(self) -> None:
        folder, spool = self.faiss_index.folder, Spool(self.faiss_index.folder)
        if folder.exists() and not (folder / METADATA).is_file():
            raise FileExistsError(f"{str(folder)!r} exists and is no index of this package: choose another path")
        if self.mode == "create" and folder.exists():
            raise FileExistsError(f"{str(folder)!r} holds an index: open it, or replace it with mode='overwrite'")
        if self.mode == "create" and spool.exists():
            raise FileExistsError(
                f"an interrupted build of {str(folder)!r} lies in {str(spool.folder)!r}: continue it with mode='resume', or "
                "start anew with mode='overwrite'"
            )

    def __repr__(self) -> str:
        return f"{self.faiss_index!r}.indexer(mode={self.mode!r})"

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws."""
        return self.faiss_index.schematic(input_columns=input_columns)


def import_faiss() -> Any:
    """The module faiss, or an ImportError that names the extra."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'dense indexes need FAISS: pip install "pyterrier_expandr[cpu]" (or [gpu] on a machine with a GPU)'
        ) from error
    return faiss


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        version = metadata["format_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder / METADATA)!r} is damaged ({error!r}): index again") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"the index in {str(folder)!r} has format {version}, this release reads {FORMAT_VERSION}: upgrade pyterrier_expandr"
        )
    for name, size in metadata["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            raise ValueError(
                f"the index in {str(folder)!r} is damaged: {name} has {found} bytes, {size} were written; index again"
            )
    return metadata


def _reason(error: RuntimeError) -> str:
    """The sentence in FAISS's message that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
