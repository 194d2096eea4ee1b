"""The lexical index of a system: which one is meant, and where that of a collection is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..common.fingerprint import digest
from ..retrieval.sparse import LexicalIndex

if TYPE_CHECKING:
    from ..evaluation.beir_collections import Collection
    from ..retrieval.faiss_index import FaissIndex


def lexical_folder(collection: Collection, indexes: str | Path) -> Path:
    """The path of a collection's lexical index in a folder of indexes."""
    return Path(indexes) / f"{quote(collection.name, safe=' ')}.{digest(collection.corpus_fingerprint)[:12]}.pisa"


def lexical_index(lexical: LexicalIndex | str | None, index: FaissIndex | None) -> LexicalIndex | None:
    """The index that a system's argument means: "pisa" is the one beside its dense index, if it has one."""
    if isinstance(lexical, LexicalIndex | None):
        return lexical
    if lexical != "pisa":
        raise TypeError(f'lexical must be "pisa" or a LexicalIndex, got {lexical!r:.80}')
    return None if index is None else LexicalIndex.beside(index.folder)
