"""Content-based identities of a recipe's inputs: changed files get a new identity, moved ones keep theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..collections import POCKET, BeirFolder
from ..common.fingerprint import file_fingerprint, model_fingerprint, stable_repr
from ..encoding.registry import ENCODERS
from ..evaluation.beir_collections import SOURCES, Collection
from ..expansion.backends.gguf import resolve_llm


def model_identity(name: str) -> dict[str, Any]:
    """A hash over a model's files, or its name if it is not a folder.

    A hub model is identified by name, since its commit is not known before the download.
    """
    place = resolve_llm(name)
    return model_fingerprint(place) if Path(place).exists() else {"name": place}


def encoder_identity(name: str) -> dict[str, Any]:
    """`model_identity`, but a short name is never taken for a folder, as in `load_encoder`."""
    return {"name": name} if name in ENCODERS else model_identity(name)


def data_identity(source: str, split: str) -> dict[str, Any]:
    """Hashes of the files that `open_examples` reads for a source, or its name if it is not on this machine."""
    path = POCKET if source == "pocket" else Path(source)
    if source.startswith("irds:"):
        return {"name": source}
    if (path / "corpus.jsonl").is_file():
        return {"corpus": file_fingerprint(path / "corpus.jsonl"), "queries": _judged_queries(path, split)}
    if path.is_dir():
        return {file.name: file_fingerprint(file) for file in sorted(path.glob("*.jsonl"))}
    return {"rows": file_fingerprint(path)} if path.is_file() else {"name": source}


def corpus_identity(collection: Collection) -> str:
    """The identity of a test collection's documents."""
    return collection.corpus_fingerprint


def queries_identity(collection: Collection) -> list[str]:
    """The identity of a test collection's queries and judgments."""
    dataset = collection.dataset
    return _judged_queries(dataset.path, dataset.split) if isinstance(dataset, BeirFolder) else [stable_repr(dataset)]


def file_stem(collection: Collection) -> str:
    """The file stem a stage uses for a collection: its name or, for a folder given by path, the last part of the path
    with a hash of the corpus, so that the folder may be moved."""
    folder = Path(collection.name).name
    if collection.name in SOURCES or folder == collection.name or not isinstance(collection.dataset, BeirFolder):
        return collection.name.replace("/", "-")
    return f"{folder}-{corpus_identity(collection)[:8]}"


def _judged_queries(folder: Path, split: str) -> list[str]:
    qrels = folder / "qrels" / f"{split}.tsv"
    return [file_fingerprint(file) for file in (folder / "queries.jsonl", qrels) if file.is_file()]
