"""A dense index as a PyTerrier artefact: FAISS for the vectors, Arrow for the docnos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyterrier as pt

from ..common.files import path_of, restored
from ..common.notebook import Shown
from ..common.records.manifest import check_files
from ..encoding.vectors import same_vectors
from . import faiss_build as layout
from .devices import on_device
from .factories import import_faiss, last_sentence, mmap_flag
from .faiss_indexer import FaissIndexer, Mode
from .shards import check_shards, documents_of
from .spool import Spool

if TYPE_CHECKING:
    import pyarrow as pa

    from ..encoding.views import QueryEncoder
    from .faiss_retriever import FaissRetriever

HELP_URL = "https://github.com/facebookresearch/faiss/wiki/The-index-factory"

Metric = Literal["ip", "l2"]


class FaissIndex(Shown, pt.Artifact, pt.Indexer):
    """A folder with a FAISS index, its docnos, and a record of the encoder that filled it.

    Indexing reads `docno` (str, any Unicode) and `doc_vec` (float array (d,)) as a stream. Every 1,024 documents are
    committed to a working folder next to `path`; the finished index is put in place by a rename, so that an index that
    opens is always complete. `indexer(mode="resume")` continues an interrupted build. Memory is bounded: a chunk of
    vectors and 8 bytes per document, plus the training sample and the FAISS index itself for factories other than
    "Flat".

    Args:
        path: the folder of the index.
        factory: FAISS factory string for a new index: "Flat" (exact), "HNSW32", "IVF1024,PQ48" ... None means "Flat"
            for a new index, and the recorded factory for an existing one.
        metric: "ip" (inner product) or "l2" (squared distance; scores are its negative). None means "ip" for a new
            index, and the recorded metric for an existing one.

    Raises:
        ValueError: an unknown metric, an empty factory.

    Example:
        >>> index = FaissIndex("pocket.faiss")
        >>> index.index([{"docno": "d1", "doc_vec": np.array([1.0, 0.0])}])  # doctest: +SKIP
        >>> index.retriever(num_results=10)
        FaissRetriever('pocket.faiss', num_results=10)
    """

    ARTIFACT_TYPE = layout.ARTEFACT["type"]
    ARTIFACT_FORMAT = layout.ARTEFACT["format"]
    ARTIFACT_PACKAGE_HINT = layout.ARTEFACT["package_hint"]

    def __init__(self, path: str | Path, *, factory: str | None = None, metric: Metric | None = None) -> None:
        super().__init__(path_of(path))
        if metric not in ("ip", "l2", None):
            raise ValueError(f'metric must be "ip" or "l2", got {metric!r}')
        if factory is not None and (not isinstance(factory, str) or not factory.strip()):
            raise ValueError(f'factory must be a FAISS factory string such as "Flat" or "HNSW32", got {factory!r}')
        self.factory, self.metric = factory, metric
        self._metadata: dict[str, Any] | None = None
        self._opened: dict[Any, Any] = {}
        self._docnos: pa.Array | None = None

    @property
    def folder(self) -> Path:
        """The folder of the index."""
        return Path(str(self.path))

    def built(self) -> bool:
        """Whether there is a finished index at `path`."""
        return (self.folder / layout.METADATA).is_file() or (not self.folder.exists() and restored(self.folder))

    @property
    def metadata(self) -> dict[str, Any]:
        """What is recorded with the index: factory, metric, dim, count, encoder, versions, files.

        Raises:
            FileNotFoundError: the index is not built. ValueError: the metadata are damaged or from a newer release, a
                file of the index is missing or differs in size from the recorded one, or `factory` or `metric` were
                given and differ.
        """
        if self._metadata is None:
            if not self.built():
                unfinished = Spool(self.folder).exists()
                hint = "continue it with indexer(mode='resume')" if unfinished else "index documents first"
                raise FileNotFoundError(f"there is no index at {str(self.path)!r}: {hint}")
            metadata = layout.read_metadata(self.folder)
            for name, wanted in (("factory", self.factory), ("metric", self.metric)):
                if wanted not in (None, metadata[name]):
                    raise ValueError(
                        f"the index at {str(self.path)!r} was built with {name}={metadata[name]!r}, not {wanted!r}: "
                        f"leave out {name} to open it, or rebuild it with indexer(mode='overwrite')"
                    )
            self._metadata = metadata
        return self._metadata

    @property
    def dim(self) -> int:
        """The number of dimensions of the vectors."""
        return int(self.metadata["dim"])

    @property
    def encoder(self) -> dict[str, Any] | None:
        """The specification of the encoder that made the vectors, or None if they did not carry it."""
        return self.metadata["encoder"]

    def accepts(self, source: dict[str, Any] | None) -> bool:
        """Whether queries of an encoder with this `source` belong here: the recorded encoder, or one of its students.

        Encoders are compared by fingerprint and by what else decides a vector; True if one side is not recorded.
        """
        return same_vectors(self.encoder, source)

    @property
    def exact(self) -> bool:
        """Whether search is exhaustive over unmodified vectors."""
        return (self.metadata["factory"] if self.built() else self.factory) in ("Flat", None)

    def shown(self) -> dict[str, Any]:
        """What a notebook tells about the index: of a built one its size and its encoder."""
        if not self.built():
            return {"folder": str(self.path), "factory": self.factory, "metric": self.metric, "documents": "not built"}
        of, encoder = self.metadata, self.encoder or {}
        facts = {"folder": str(self.path), "factory": of["factory"], "metric": of["metric"], "documents": of["count"]}
        return facts | {"dimensions": self.dim, "encoder": encoder.get("model")}

    def __len__(self) -> int:
        return int(self.metadata["count"])

    def __bool__(self) -> bool:
        return True  # an index is truthy even before it has a length

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> FaissIndex:
        """Index a stream of `{"docno": str, "doc_vec": array}` into a new folder; see `indexer` for other modes."""
        return self.indexer(**kwargs).index(iter)

    def index_inputs(self) -> list[list[str]]:
        """The columns that indexing reads."""
        return [["docno", "doc_vec"]]

    def merge(
        self, shards: Sequence[FaissIndex | str | Path], *, mode: Mode = "create", verbose: bool = False
    ) -> FaissIndex:
        """This index, built of all documents in `shards`, in their order; the same as if they were indexed at once.

        Shards are "Flat", and this index may have any factory. Modes are those of `indexer`; memory is bounded as in
        any build.

        Raises:
            FileNotFoundError: a shard is not built. ValueError: there is none; they are of different encoders, sizes or
                metrics; one is not "Flat"; or a docno is in two of them.
        """
        opened = [shard if isinstance(shard, FaissIndex) else FaissIndex(shard) for shard in shards]
        check_shards(opened)
        if (self.metric or "ip") != opened[0].metadata["metric"]:
            raise ValueError(f"the shards have metric {opened[0].metadata['metric']!r}: give the merged index the same")
        return self.indexer(mode, verbose).index(documents_of(opened))

    def indexer(self, mode: Mode = "create", verbose: bool = False) -> FaissIndexer:
        """An indexer that ends a PyTerrier pipeline.

        Args:
            mode: "create" refuses a folder that exists; "overwrite" replaces a finished index once the new one is
                complete, so that at every moment one of the two opens; "resume" continues an interrupted build (and
                leaves a finished index unchanged). Give "resume" the whole corpus again, or only what is missing, so
                that nothing is encoded twice:
                `(encoder.doc_encoder() >> index.indexer("resume")).index(index.remaining(corpus))`.
            verbose: state the memory that the index takes, and show documents per second and the time left.
        """
        return FaissIndexer(self, mode=mode, verbose=verbose)

    def remaining(self, corpus: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The documents of `corpus` that an interrupted build has not committed yet; none if the index is built.

        Raises:
            ValueError: the committed documents are not the first ones of `corpus`.
        """
        spool = Spool(self.folder)
        if spool.exists():
            yield from layout.skip_committed(corpus, spool.docnos())
        elif not self.built():
            yield from corpus

    def retriever(
        self,
        num_results: int = 1000,
        *,
        search_params: str | None = None,
        drop_query_vec: bool = False,
        verbose: bool = False,
        shards: Sequence[FaissIndex] = (),
        device: str | None = None,
    ) -> FaissRetriever:
        """A transformer `[qid, query_vec]` -> R; see `FaissRetriever`."""
        from .faiss_retriever import FaissRetriever

        return FaissRetriever(
            self,
            num_results=num_results,
            search_params=search_params,
            drop_query_vec=drop_query_vec,
            verbose=verbose,
            shards=shards,
            device=device,
        )

    def query_encoder(self, **options: Any) -> QueryEncoder:
        """The query encoder that belongs to this index; `options` (device, batch_size ...) are passed to its encoder.

        Raises:
            ValueError: the vectors did not carry their encoder's specification, or the encoder has changed since.
        """
        from ..encoding.encoder import ExpandREncoder

        if self.encoder is None:
            raise ValueError(
                f"the vectors in {str(self.path)!r} do not record which encoder made them: create the encoder yourself"
            )
        return ExpandREncoder.from_spec(self.encoder, **options).query_encoder()

    def open(self, search_params: str | None = None, *, device: str | None = None) -> Any:
        """The FAISS index, memory-mapped (or on a GPU), with `search_params` set; it is kept open.

        Raises:
            ValueError: the file is damaged, or the parameters do not suit the index. ImportError: FAISS is not
                installed.
        """
        if device not in (None, "cpu") and (device, search_params) not in self._opened:
            self._opened[device, search_params] = on_device(self.open(search_params), str(device))
        if device not in (None, "cpu"):
            return self._opened[device, search_params]
        if search_params not in self._opened:
            faiss, metadata = import_faiss(), self.metadata
            try:
                opened = faiss.read_index(str(self.folder / layout.VECTORS), mmap_flag(faiss))
                if (opened.ntotal, opened.d) != (metadata["count"], metadata["dim"]):
                    raise RuntimeError(f"it holds {opened.ntotal} vectors of {opened.d} dimensions")
            except (RuntimeError, MemoryError) as error:
                reason = last_sentence(error)
                raise ValueError(f"the index in {str(self.path)!r} is damaged: {reason}; index again") from error
            if search_params is not None:
                try:
                    faiss.ParameterSpace().set_index_parameters(opened, search_params)
                except RuntimeError as error:
                    raise ValueError(f"search_params {search_params!r}: {last_sentence(error)}") from error
            self._opened[search_params] = opened
        return self._opened[search_params]

    @property
    def docnos(self) -> pa.Array:
        """All docnos in index order, memory-mapped."""
        if self._docnos is None:
            import pyarrow as pa

            count = len(self)  # raises first if something is wrong with the folder
            docnos_file = {layout.DOCNOS: self.metadata["files"][layout.DOCNOS]}
            check_files(self.folder, docnos_file, layout.MEND, content=True)  # all of it is read below in any case
            try:
                with pa.memory_map(str(self.folder / layout.DOCNOS)) as source:
                    docnos = pa.ipc.open_file(source).read_all()["docno"].combine_chunks()
                docnos.validate(full=True)  # an offset out of bounds would crash the process instead of raising
                if len(docnos) != count:
                    raise pa.ArrowInvalid(f"{len(docnos)} docnos for {count} vectors")
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"the docnos in {str(self.path)!r} are damaged ({error}): index again") from error
            self._docnos = docnos
        return self._docnos

    def verify(self) -> None:
        """Read every byte and compare with the SHA-256 recorded by the build.

        Opening compares sizes, and reads the docnos completely. A changed bit in a vector is found only here, which
        takes about a second for each GB (docs/guarantees.md).

        Raises:
            ValueError: a file differs from what was written.
        """
        self._forget()  # reads the record again too
        check_files(self.folder, self.metadata["files"], layout.MEND, content=True)

    def describe(self) -> dict[str, Any]:
        """What the index contains, as JSON values: kind, and size and SHA-256 of its files."""
        files = {name: self.metadata["files"][name] for name in (layout.VECTORS, layout.DOCNOS)}
        return {"factory": self.metadata["factory"], "metric": self.metadata["metric"], "files": files}

    def _forget(self) -> None:
        self._metadata, self._docnos, self._opened = None, None, {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_metadata": None, "_docnos": None, "_opened": {}}

    def _key(self) -> tuple[Any, ...]:
        return (self.folder.resolve(), self.factory, self.metric)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, FaissIndex) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"FaissIndex({str(self.path)!r})"

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: an index contains no transformers."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this index."""
        return {"label": "Faiss Index", "help_url": HELP_URL}
