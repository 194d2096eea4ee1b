"""ExpandR as one object: an expander, an encoder and an index that belong together."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyterrier as pt

from ..common.files import path_of
from ..evaluation.provenance import describe_pipeline, digest
from ..evaluation.self_match import SelfMatchFilter
from . import store as store

if TYPE_CHECKING:
    from ..encoding.encoder import ExpandREncoder
    from ..evaluation.beir_collections import Collection
    from ..expansion.backends.base import Backend
    from ..retrieval.faiss_index import FaissIndex

logger = logging.getLogger(__name__)

#: settings of an encoder that its documents do not see
QUERY_SIDE = {"fusion", "query_prompt", "renormalize"}


class ExpandR(pt.Artifact):
    """A whole retrieval system: expansion, fused query vectors, search. It can be saved, shared and checked.

    Args:
        expander: adds `query_expansions`, e.g. an `LLMExpander`; None searches with queries alone.
        encoder: an `ExpandREncoder`.
        index: a `FaissIndex` or its folder, built or to be built by `index`; None for a system that is yet to be put on
            a collection.

    Raises:
        ValueError: the index was made by another encoder; both are named. TypeError: a part is something else.

    Example:
        >>> from pyterrier_expandr import ExpandREncoder, RecordedExpander
        >>> expander = RecordedExpander([{"query": "why is the sky blue", "passage": "Air scatters short waves."}])
        >>> system = ExpandR(expander, ExpandREncoder("facebook/contriever"), "sky.faiss")
        >>> system.without_expansion()
        ExpandR(None, ExpandREncoder('facebook/contriever'), FaissIndex('sky.faiss'))
        >>> system.index(corpus).pipeline(num_results=10).search("why is the sky blue")  # doctest: +SKIP
    """

    ARTIFACT_TYPE = store.ARTEFACT["type"]
    ARTIFACT_FORMAT = store.ARTEFACT["format"]
    ARTIFACT_PACKAGE_HINT = store.ARTEFACT["package_hint"]

    def __init__(
        self,
        expander: pt.Transformer | None,
        encoder: ExpandREncoder,
        index: FaissIndex | str | Path | None = None,
    ) -> None:
        from ..encoding.encoder import ExpandREncoder
        from ..retrieval.faiss_index import FaissIndex

        super().__init__(pt.Artifact.NO_PATH)
        if expander is not None and not isinstance(expander, pt.Transformer):
            raise TypeError(f"expander must be a transformer such as LLMExpander, or None, got {expander!r:.80}")
        if not isinstance(encoder, ExpandREncoder):
            raise TypeError(f"encoder must be an ExpandREncoder, got {encoder!r:.80}")
        if isinstance(index, (str, Path)):
            index = FaissIndex(index)
        if index is not None and not isinstance(index, FaissIndex):
            raise TypeError(f"index must be a FaissIndex or its folder, got {index!r:.80}")
        self.expander, self.encoder, self.faiss_index = expander, encoder, index
        if index is not None and index.built():
            store.check_index(encoder, index)

    def index(self, corpus: Iterable[dict[str, Any]]) -> ExpandR:
        """Encode and index `{"docno", "title", "text"}` records, and return this system.

        A build that was interrupted goes on where it was; a finished index is left as it is.

        Raises:
            ValueError: the system has no index; and what `FaissIndexer.index` raises.
        """
        index = self._index()
        if not index.built():
            pipeline: Any = self.encoder.doc_encoder() >> index.indexer("resume")
            pipeline.index(index.remaining(corpus))
            store.check_index(self.encoder, index)
        return self

    def pipeline(
        self, num_results: int = 1000, *, drop_self_matches: bool = False, verbose: bool = False
    ) -> pt.Transformer:
        """A transformer `[qid, query]` -> R.

        Args:
            num_results: documents for each query.
            drop_self_matches: drop documents whose docno is the qid; one more is searched for, so no rank is lost.
            verbose: show progress bars.

        Raises:
            ValueError: the system has no index, or `num_results` is below 1.
        """
        encoder = self.encoder.query_encoder(verbose=verbose)
        searched = num_results + drop_self_matches
        found = encoder >> self._index().retriever(num_results=searched, drop_query_vec=True, verbose=verbose)
        if self.expander is not None:
            found = self.expander >> found
        return found >> SelfMatchFilter(num_results) if drop_self_matches else found

    def without_expansion(self) -> ExpandR:
        """The same system without its expander: the baseline that shares encoder and index."""
        return ExpandR(None, self.encoder, self.faiss_index)

    def for_collection(self, collection: Collection, indexes: str | Path, *, verbose: bool = False) -> ExpandR:
        """This system with an index of a collection, built if it is not there.

        Args:
            collection: what is indexed.
            indexes: a folder; systems whose encoders read documents alike find the same index in it.
            verbose: show a progress bar.
        """
        documents = {name: value for name, value in self.encoder.describe().items() if name not in QUERY_SIDE}
        key = digest([documents, collection.corpus_fingerprint])[:12]
        folder = path_of(indexes) / f"{quote(collection.name, safe=' ')}.{key}.faiss"
        folder.parent.mkdir(parents=True, exist_ok=True)
        return ExpandR(self.expander, self.encoder, folder).index(collection.get_corpus_iter(verbose=verbose))

    def describe(self) -> dict[str, Any]:
        """What decides the rankings, as JSON values: prompt, sampling, cleaning, encoder and index fingerprints."""
        index = self.faiss_index
        return {
            "expander": None if self.expander is None else describe_pipeline(self.expander),
            "encoder": self.encoder.describe(),
            "index": index.describe() if index is not None and index.built() else None,
        }

    def save(self, folder: str | Path) -> ExpandR:
        """Write the system to a new folder and return it as it is there; share it with `to_hf` or `build_package`.

        The index is put inside, and so are recorded expansions and an encoder that lies in a folder. An encoder and an
        LLM from the hub are named with their commits. An LLM in a folder is named only, with a hash of its content.

        Raises:
            FileExistsError: the folder exists. ValueError: a part cannot be written down (an encoder built in memory, a
                fusion that is a function), or the index is not built. TypeError: an expander of another package.
        """
        self._index()
        store.save(self, path_of(folder))
        self.path = path_of(folder)
        return self

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        *,
        backend: Backend | None = None,
        cache: Any = None,
        expansion: bool = True,
        device: str | None = None,
    ) -> ExpandR:
        """The system in a folder, or in a repository of the hub ("owner/name"); every part is checked.

        Args:
            path: what `save` has written, or what `to_hf` has uploaded.
            backend: the backend of the LLM, where it lies elsewhere by now or is no `HuggingFaceBackend`.
            cache: of the LLM's generations, see `LLMExpander`.
            expansion: False leaves the expander out, and no LLM is needed.
            device: "cuda", "cpu"; None takes cuda where there is one.

        Raises:
            ValueError: a part is not the one that was saved (both sides are named), or the record is damaged or from a
                newer release. FileNotFoundError: there is no such folder. OSError: the hub cannot be reached.
        """
        folder = path_of(path)
        if not folder.is_dir():
            return cls._from_hub(
                str(path), {"backend": backend, "cache": cache, "expansion": expansion, "device": device}
            )
        record = store.read_record(folder)
        expander = store.load_expander(folder, record, backend, cache, device) if expansion else None
        system = cls(expander, store.load_encoder(folder, record, device), store.load_index(folder, record))
        system.path = folder
        return system

    @classmethod
    def _from_hub(cls, name: str, options: dict[str, Any]) -> ExpandR:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise FileNotFoundError(f"there is no folder {name!r}: name one that ExpandR.save wrote, or owner/name")
        try:
            return cls.from_hf(name, **options)  # type: ignore[return-value]
        except OSError as error:
            raise OSError(f"there is no folder {name!r}, and the hub does not give it: {error}") from error

    def _index(self) -> FaissIndex:
        if self.faiss_index is None:
            raise ValueError("this system has no index: ExpandR(expander, encoder, index), or for_collection()")
        return self.faiss_index

    def _key(self) -> tuple[Any, ...]:
        return (self.expander, self.encoder, self.faiss_index)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ExpandR) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"ExpandR({self.expander!r}, {self.encoder!r}, {self.faiss_index!r})"
