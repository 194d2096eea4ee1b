"""Names of systems, as the command line and recipes use them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyterrier as pt

from ..common.files import path_of, with_home
from ..evaluation.provenance import digest
from .expandr import ExpandR
from .store import RECORD

if TYPE_CHECKING:
    from ..encoding.encoder import ExpandREncoder
    from ..evaluation.beir import System
    from ..evaluation.beir_collections import Collection

GRAMMAR = """A system is named
  bm25                        BM25 of PISA
  ENCODER                     dense retrieval with the query alone: a name of `expandr models`, a hub name, a folder
  ENCODER+FILE.jsonl          the same, fused with recorded expansions; {collection} in FILE stands for BEIR's folder
  ENCODER+LLM                 the same, with expansions that an LLM writes now
  FOLDER, expandr:OWNER/NAME  a saved ExpandR system, from a folder or the hub
  FOLDER+LLM                  the same, its LLM running on another backend
  FOLDER+none                 the same without its expansions
where an LLM is a hub name or folder, vllm:NAME or openai:MODEL@URL"""


class SystemOpener:
    """Opens systems by name; those that name the same encoder or LLM share it, and with it the index.

    Args:
        indexes: a folder for the indexes of BM25.
        generations: SQLite file of what LLMs write; None keeps it in memory.
        device: "cuda", "cpu"; None takes cuda where there is one.
        encoder: options of `load_encoder` for all encoders that are named, such as `max_length`.
        llm: options of `LLMExpander` for all LLMs that are named beside an encoder, such as `prompt` and `n`.

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
        """The system that `name` means, as `beir.experiment` takes it; models are loaded when they are first used.

        A saved system comes with its index where there is one collection; of several, each gets an index.

        Raises:
            ValueError: a name of no such form, an unknown encoder or backend, a broken line of a file, or a part of a
                saved system that is not the one that was saved. FileNotFoundError: there is no such file or folder.
        """
        name = with_home(name)
        if name.lower() == "bm25":
            return self._bm25
        base, sign, expansions = (name, "", "") if Path(name).is_dir() else name.partition("+")
        if not base or bool(sign) != bool(expansions):
            raise ValueError(f"{name!r} names no system.\n{GRAMMAR}")
        if base.startswith("expandr:") or (Path(base) / RECORD).is_file():
            saved = self._saved(base.removeprefix("expandr:"), expansions)
            return saved if collections == 1 else ExpandR(saved.expander, saved.encoder)
        encoder = self._encoder(base)
        if expansions in ("", "none"):
            return ExpandR(None, encoder)
        if Path(expansions).suffix != ".jsonl":
            return ExpandR(self._llm(expansions), encoder)
        return self._recorded(encoder, expansions)

    def _bm25(self, collection: Collection) -> pt.Transformer:
        from ..retrieval.sparse import bm25

        key = digest(collection.corpus_fingerprint)[:12]
        folder = self.indexes / f"{quote(collection.name, safe=' ')}.{key}.pisa"
        return bm25(collection.get_corpus_iter(), folder, num_results=collection.num_results)

    def _recorded(self, encoder: ExpandREncoder, file: str) -> System:
        from ..expansion.expander import RecordedExpander

        if "{collection}" not in file:
            return ExpandR(RecordedExpander(file), encoder)

        def system(collection: Collection) -> pt.Transformer:
            expander = RecordedExpander(file.replace("{collection}", collection.folder_name))
            return ExpandR(expander, encoder).for_collection(collection, self.indexes).pipeline(collection.num_results)

        return system

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
