"""Names of systems, as used on the command line and in recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyterrier as pt

from ..common.files import path_of, with_home
from ..expansion.lexical import LexicalExpander
from .expandr import ExpandR
from .lexical import lexical_folder
from .store import RECORD

if TYPE_CHECKING:
    from ..encoding.encoder import ExpandREncoder
    from ..evaluation.beir import System
    from ..evaluation.beir_collections import Collection

BM25, COLLECTION = "bm25", "{collection}"

GRAMMAR = """A system is named
  bm25                        BM25 of PISA
  bm25+EXPANSIONS             the same, over the query five times and its passages (query2doc)
  ENCODER                     dense retrieval with the query alone: a name of `expandr models`, a hub name, a folder
  ENCODER+EXPANSIONS          the same, fused with passages (ExpandR)
  ENCODER+bm25                a hybrid: both searches, and their lists added up
  ENCODER+bm25+EXPANSIONS     the same, with passages in both searches
  ...+SETTINGS.json           the same, with what `expandr tune` has chosen
  FOLDER, expandr:OWNER/NAME  a saved ExpandR system, from a folder or the hub
  FOLDER+LLM                  the same, its LLM running on another backend
  FOLDER+none                 the same without its expansions
where EXPANSIONS are
  FILE.jsonl                  recorded ones; {collection} in FILE stands for BEIR's folder
  LLM                         written now: a hub name or folder, vllm:NAME or openai:MODEL@URL"""


class _Spec(NamedTuple):
    """The parts of a name; missing ones are ""."""

    base: str
    lexical: bool
    expansions: str
    settings: str


def parse(name: str) -> _Spec:
    """The parts of a system's name.

    Raises:
        ValueError: a part between two signs is empty.

    Example:
        >>> tuple(parse("contriever+bm25+scifact.jsonl+tuned.json"))
        ('contriever', True, 'scifact.jsonl', 'tuned.json')
        >>> tuple(parse("contriever+hf:owner/llm"))
        ('contriever', False, 'hf:owner/llm', '')
    """
    if Path(name).is_dir():
        return _Spec(name, False, "", "")
    base, *parts = name.split("+")
    if not base or not all(parts):
        raise ValueError(f"{name!r} names no system.\n{GRAMMAR}")
    settings = parts.pop() if parts and parts[-1].endswith(".json") else ""
    lexical = bool(parts) and parts[0].lower() == BM25
    return _Spec(base, lexical, "+".join(parts[lexical:]), settings)


class SystemOpener:
    """Opens systems by name; systems that name the same encoder or LLM share it, and thus the index.

    Args:
        indexes: a folder for BM25 indexes.
        generations: SQLite file for texts written by LLMs; None keeps them in memory.
        device: "cuda" or "cpu"; None means cuda if available.
        encoder: options of `load_encoder` for every named encoder, such as `max_length`.
        llm: options of `LLMExpander` for every LLM named together with an encoder, such as `prompt` and `n`.

    Example:
        >>> open_system = SystemOpener("indexes")
        >>> open_system("facebook/contriever")
        ExpandR(None, ExpandREncoder('facebook/contriever'), None)
        >>> open_system("facebook/contriever+Qwen/Qwen2.5-7B-Instruct").expander
        LLMExpander(HuggingFaceBackend('Qwen/Qwen2.5-7B-Instruct'), prompt='q2d', n=1, seed=42)
    """

    def __init__(
        self,
        indexes: str | Path,
        *,
        generations: str | Path | None = None,
        device: str | None = None,
        encoder: Mapping[str, Any] | None = None,
        llm: Mapping[str, Any] | None = None,
    ) -> None:
        self.indexes, self.generations, self.device = path_of(indexes), generations, device
        self._encoder_options, self._llm_options = dict(encoder or {}), dict(llm or {})
        self._encoder, self._llm = cache(self._open_encoder), cache(self._open_llm)

    def __call__(self, name: str, *, collections: int = 1) -> System:
        """The system called `name`, as accepted by `beir.experiment`; models are loaded on first use.

        With one collection, a saved system keeps its index; with several, each collection gets its own.

        Raises:
            ValueError: a name not of this form, an unknown encoder or backend, a malformed line, or a part of a saved
                system that differs from what was saved. FileNotFoundError: there is no such file or folder.
        """
        name = with_home(name)
        spec = parse(name)
        if spec.base.lower() == BM25:
            if spec.lexical or spec.settings:
                raise ValueError(f"{name!r} names no system: only an encoder has a second search.\n{GRAMMAR}")
            return self._for_each(self._bm25, spec.expansions)
        if spec.base.startswith("expandr:") or (Path(spec.base) / RECORD).is_file():
            if spec.lexical:
                raise ValueError(f"{name!r} names no system: a saved one says itself if it is a hybrid.\n{GRAMMAR}")
            saved = _tuned(self._saved(spec.base.removeprefix("expandr:"), spec.expansions), spec.settings)
            return saved if collections == 1 else saved.without_index()
        encoder, lexical = self._encoder(spec.base), "pisa" if spec.lexical else None

        def made(expander: pt.Transformer | None) -> ExpandR:
            return _tuned(ExpandR(expander, encoder, lexical=lexical), spec.settings)

        if COLLECTION not in spec.expansions:
            return made(self._expander(spec.expansions))
        return self._for_each(
            lambda expander, collection: (
                made(expander).for_collection(collection, self.indexes).pipeline(collection.num_results)
            ),
            spec.expansions,
        )

    def _for_each(
        self, make: Callable[[pt.Transformer | None, Collection], pt.Transformer], expansions: str
    ) -> Callable[[Collection], pt.Transformer]:
        """A system that is a function of the collection; its expander may be one as well."""
        if COLLECTION in expansions:
            return lambda collection: make(
                self._expander(expansions.replace(COLLECTION, collection.folder_name)), collection
            )
        expander = self._expander(expansions)
        return lambda collection: make(expander, collection)

    def _bm25(self, expander: pt.Transformer | None, collection: Collection) -> pt.Transformer:
        from ..retrieval.sparse import bm25

        folder = lexical_folder(collection, self.indexes)
        found = bm25(collection.get_corpus_iter(), folder, num_results=collection.num_results)
        return found if expander is None else expander >> LexicalExpander() >> found

    def _expander(self, expansions: str) -> pt.Transformer | None:
        from ..expansion.expander import RecordedExpander

        if expansions in ("", "none"):
            return None
        return RecordedExpander(expansions) if Path(expansions).suffix == ".jsonl" else self._llm(expansions)

    def _saved(self, place: str, llm: str) -> ExpandR:
        from ..expansion.backends.opening import open_backend

        backend = open_backend(llm, device=self.device) if llm not in ("", "none") else None
        return ExpandR.load(place, backend=backend, cache=self.generations, expansion=llm != "none", device=self.device)

    def _open_encoder(self, name: str) -> ExpandREncoder:
        from ..encoding.registry import load_encoder

        return load_encoder(name, fuse=True, device=self.device, **self._encoder_options)

    def _open_llm(self, name: str) -> pt.Transformer:
        from ..expansion.backends.opening import open_backend
        from ..expansion.expander import LLMExpander

        backend = open_backend(name, device=self.device)
        return LLMExpander(backend, cache=self.generations, verbose=True, **self._llm_options)


def _tuned(system: ExpandR, settings: str) -> ExpandR:
    return system.with_settings(settings) if settings else system
