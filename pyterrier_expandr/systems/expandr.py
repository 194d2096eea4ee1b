"""ExpandR as one object: an expander, an encoder and an index that belong together."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd
import pyterrier as pt

from ..common.files import path_of
from ..common.locks import one_writer
from ..common.notebook import Shown
from ..evaluation.provenance import describe_pipeline, digest
from ..evaluation.self_match import SelfMatchFilter
from ..expansion.lexical import LexicalExpander
from ..retrieval.list_fusion import Method, hybrid
from ..retrieval.sparse import LexicalIndex
from ..retrieval.spool import Spool
from . import store as store
from .corpus_twice import read_once
from .lexical import lexical_folder, lexical_index
from .settings import HybridSettings, TunedSettings, hybrid_settings, with_n

if TYPE_CHECKING:
    from ..encoding.encoder import ExpandREncoder
    from ..evaluation.beir_collections import Collection
    from ..expansion.backends.base import Backend
    from ..retrieval.faiss_index import FaissIndex

logger = logging.getLogger(__name__)


class ExpandR(Shown, pt.Artifact):
    """A whole retrieval system: expansion, fused query vectors, search. It can be saved, shared and checked.

    Args:
        expander: adds `query_expansions`, e.g. an `LLMExpander`; None searches with queries alone.
        encoder: an `ExpandREncoder`.
        index: a `FaissIndex` or its folder, built or to be built by `index`; None for a system that is not yet bound to
            a collection.
        lexical: "pisa" for a lexical index next to `index`, in FOLDER.pisa, or a `LexicalIndex`. The system is then a
            hybrid: each query and its passages go to both indexes, and the two lists are fused.
        hybrid: how they are fused: a method or complete `HybridSettings`; defaults to "sum". Requires `lexical`.

    Raises:
        ValueError: the index was made by another encoder, or the two indexes hold different documents (both are named);
            `hybrid` without `lexical`. TypeError: a part is something else.

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
    SHOWN = ("expander", "encoder", "faiss_index", "lexical_index", "hybrid")

    def __init__(
        self,
        expander: pt.Transformer | None,
        encoder: ExpandREncoder,
        index: FaissIndex | str | Path | None = None,
        *,
        lexical: LexicalIndex | str | None = None,
        hybrid: HybridSettings | Method | None = None,
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
        self.hybrid = hybrid_settings(lexical, hybrid)
        self.lexical_index = lexical_index(lexical, index)
        if index is not None and self.lexical_index is not None and index.built() and self.lexical_index.built():
            store.check_lexical(index, self.lexical_index)

    def index(self, corpus: Iterable[dict[str, Any]]) -> ExpandR:
        """Encode and index `{"docno", "title", "text"}` records, and return this system.

        An interrupted build resumes where it stopped; a finished index is left alone. Only one process builds in a
        folder: a second one is refused at once. A lexical index is built first, since it takes seconds and detects
        problems with the corpus before anything is encoded; what was read for it is kept on disk for the encoder, so
        `corpus` may be a stream.

        Raises:
            InUseError: another process is building the index (it and its host are named).
            ValueError: the system has no index, or the corpus is not the one that a part was built from; also
                whatever `LexicalIndex.index` and `FaissIndexer.index` raise.
        """
        index, lexical = self._index(), self.lexical_index
        complete = index.built() and (lexical is None or lexical.built())
        if not complete or Spool(index.folder).folder.exists():
            with one_writer(index.folder):
                self._build(corpus)
        if lexical is not None:
            store.check_lexical(index, lexical)
        return self

    def _build(self, corpus: Iterable[dict[str, Any]]) -> None:
        index, lexical = self._index(), self.lexical_index
        if lexical is None or lexical.built():
            self._index_vectors(corpus)
        elif index.built():
            lexical.index(corpus)
        else:
            with read_once(corpus, index.folder.parent) as (first, again):
                lexical.index(first)
                self._index_vectors(again())

    def _index_vectors(self, corpus: Iterable[dict[str, Any]]) -> None:
        index = self._index()
        if index.built():
            Spool(index.folder).tidy()
            return
        pipeline: Any = self.encoder.doc_encoder() >> index.indexer("resume")
        pipeline.index(index.remaining(corpus))
        store.check_index(self.encoder, index)

    def pipeline(
        self, num_results: int = 1000, *, drop_self_matches: bool = False, verbose: bool = False
    ) -> pt.Transformer:
        """A transformer `[qid, query]` -> R.

        Args:
            num_results: documents per query.
            drop_self_matches: drop documents whose docno is the qid; one more is retrieved, so no rank is lost.
            verbose: show progress bars.

        Raises:
            ValueError: the system has no index, or `num_results` is below 1.
        """
        searched = num_results + drop_self_matches
        depth = max(searched, self.hybrid.depth) if self.hybrid is not None else searched
        encoder = self.encoder.query_encoder(verbose=verbose)
        found = encoder >> self._index().retriever(num_results=depth, drop_query_vec=True, verbose=verbose)
        if self.hybrid is not None:
            assert self.lexical_index is not None
            words = LexicalExpander(self.hybrid.repeats) >> self.lexical_index.retriever(depth)
            found = hybrid(words, found, self.hybrid.method, weight=self.hybrid.weight, num_results=searched)
        if self.expander is not None:
            found = self.expander >> found
        return found >> SelfMatchFilter(num_results) if drop_self_matches else found

    def without_expansion(self) -> ExpandR:
        """The same system without its expander: the baseline that shares encoder and indexes."""
        return self._with(expander=None)

    def with_settings(self, settings: TunedSettings | str | Path) -> ExpandR:
        """The same system with the settings chosen by `expandr tune`: expansions, fusion and hybrid settings.

        Args:
            settings: the settings, or the file they were saved to.

        Raises:
            ValueError: they are for a hybrid and this system is not one, or vice versa; they need an expander, or one
                whose `n` can be set. Also whatever `TunedSettings.load` raises.
        """
        if not isinstance(settings, TunedSettings):
            settings = TunedSettings.load(settings)
        if (settings.hybrid is None) != (self.hybrid is None):
            kinds = ("without", "with") if self.hybrid is None else ("with", "without")
            raise ValueError(f"this system is one {kinds[0]} a lexical index, and these settings are of one {kinds[1]}")
        expander = None if settings.n == 0 else with_n(self.expander, settings.n)
        encoder = self.encoder.with_fusion(settings.fusion)
        return self._with(expander=expander, encoder=encoder, hybrid=settings.hybrid)

    def distill(
        self, out: str | Path, queries: str | Path | pd.DataFrame, *, expansions: Any = None, **settings: Any
    ) -> ExpandR:
        """The same system without its expander, and with a student that places queries where passages would move them.

        Args:
            out: folder to create for the student; the passages that this system writes are kept in OUT.passages.jsonl.
            queries: the query log: `[qid, query]`, or a source that `StudentConfig` reads.
            expansions: files of recorded passages; None lets this system's expander write them.
            settings: further fields of `StudentConfig`, such as `epochs`.

        Raises:
            ValueError: neither an expander nor `expansions`, and whatever `train_student` raises.
        """
        from .distilled import distill

        return distill(self, path_of(out), queries, expansions, settings)

    def without_index(self) -> ExpandR:
        """The same system, not bound to a collection."""
        return self._with(index=None, lexical=None if self.hybrid is None else "pisa")

    def _with(self, **parts: Any) -> ExpandR:
        kept = {"expander": self.expander, "encoder": self.encoder, "index": self.faiss_index, "hybrid": self.hybrid}
        lexical = self.lexical_index or ("pisa" if self.hybrid is not None else None)
        return ExpandR(**{**kept, "lexical": lexical, **parts})

    def for_collection(self, collection: Collection, indexes: str | Path, *, verbose: bool = False) -> ExpandR:
        """This system with an index of a collection, which is built if it does not exist.

        Args:
            collection: the collection to index.
            indexes: a folder; systems whose encoders treat documents identically share an index in it.
            verbose: show a progress bar.
        """
        key = digest([self.encoder.describe_documents(), collection.corpus_fingerprint])[:12]
        folder = path_of(indexes) / f"{quote(collection.name, safe=' ')}.{key}.faiss"
        folder.parent.mkdir(parents=True, exist_ok=True)
        lexical = None if self.hybrid is None else LexicalIndex(lexical_folder(collection, indexes))
        return self._with(index=folder, lexical=lexical).index(collection.get_corpus_iter(verbose=verbose))

    def describe(self) -> dict[str, Any]:
        """What determines the rankings, as JSON values: prompt, sampling, cleaning, encoder and index fingerprints."""
        index, lexical = self.faiss_index, self.lexical_index
        known = {} if self.hybrid is None else {"hybrid": asdict(self.hybrid)}
        if lexical is not None and lexical.built():
            known["lexical"] = lexical.describe()
        return {
            **known,
            "expander": None if self.expander is None else describe_pipeline(self.expander),
            "encoder": self.encoder.describe(),
            "index": index.describe() if index is not None and index.built() else None,
        }

    def save(self, folder: str | Path) -> ExpandR:
        """Write the system to a new folder and return the saved system; share it with `to_hf` or `build_package`.

        The index is included, and so are recorded expansions and an encoder from a local folder. An encoder or LLM from
        the hub is recorded by name and commit. An LLM in a folder is only recorded by name and a hash of its content.

        Raises:
            FileExistsError: the folder exists. ValueError: a part cannot be saved (an encoder built in memory, a
                fusion that is a function), or the index is not built. TypeError: an expander from another package.
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
            path: what `save` wrote or `to_hf` uploaded.
            backend: the LLM's backend, if the LLM has moved or is not a `HuggingFaceBackend`.
            cache: for the LLM's generations, see `LLMExpander`.
            expansion: False leaves out the expander, so no LLM is needed.
            device: "cuda" or "cpu"; None means cuda if available.

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
        with store.understood(folder):
            expander = store.load_expander(folder, record, backend, cache, device) if expansion else None
            encoder, index = store.load_encoder(folder, record, device), store.load_index(folder, record)
            system = cls(expander, encoder, index, **store.load_hybrid(folder, record))
        system.path = folder
        return system

    @classmethod
    def _from_hub(cls, name: str, options: dict[str, Any]) -> ExpandR:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise FileNotFoundError(f"there is no folder {name!r}: give one that ExpandR.save wrote, or owner/name")
        try:
            return cls.from_hf(name, **options)  # type: ignore[return-value]
        except OSError as error:
            raise OSError(f"there is no folder {name!r}, and it cannot be fetched from the hub: {error}") from error

    def _index(self) -> FaissIndex:
        if self.faiss_index is None:
            raise ValueError("this system has no index: ExpandR(expander, encoder, index), or for_collection()")
        return self.faiss_index

    def _key(self) -> tuple[Any, ...]:
        return (self.expander, self.encoder, self.faiss_index, self.lexical_index, self.hybrid)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ExpandR) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        hybrid = "" if self.hybrid is None else f", hybrid={self.hybrid!r}"
        return f"ExpandR({self.expander!r}, {self.encoder!r}, {self.faiss_index!r}{hybrid})"
