"""The folder of a saved ExpandR system: written completely or not at all, and checked part by part when opened.

FOLDER/pt_meta.json             PyTerrier's record of the artefact
FOLDER/expandr_system.json      expander, encoder and index with their fingerprints, versions
FOLDER/index/                   the FaissIndex
FOLDER/lexical/                 the LexicalIndex, if the system is a hybrid
FOLDER/encoder/                 the encoder's files, unless it comes from the hub
FOLDER/expansions.jsonl         recorded expansions, if the expander replays any
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import path_of, write_json
from ..common.locks import one_writer
from ..common.records.checked import key_of, remember
from ..common.records.manifest import write_record
from ..encoding.vectors import describe_source, document_source
from ..evaluation.provenance import describe_pipeline
from ..evaluation.result_store import versions
from ..retrieval.sparse import LexicalIndex
from .record import FORMAT_VERSION, MEND, RECORD
from .record import read_record as read_record
from .record import understood as understood
from .settings import HybridSettings

if TYPE_CHECKING:
    import pyterrier as pt

    from ..encoding.encoder import ExpandREncoder
    from ..expansion.backends.base import Backend
    from ..retrieval.faiss_index import FaissIndex
    from .expandr import ExpandR

PT_METADATA = "pt_meta.json"
INDEX, LEXICAL, ENCODER, EXPANSIONS = "index", "lexical", "encoder", "expansions.jsonl"
ARTEFACT = {"type": "retrieval_system", "format": "expandr", "package_hint": "pyterrier_expandr"}


def save(system: ExpandR, folder: Path) -> None:
    """Write all parts next to `folder`, then move them into place with a rename."""
    with one_writer(folder):
        _save(system, folder)


def _save(system: ExpandR, folder: Path) -> None:
    if folder.exists():
        raise FileExistsError(f"{str(folder)!r} exists: choose another folder, or remove it")
    part = folder.with_name(f".part.{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        content = _write_parts(system, part)
        write_json(part / PT_METADATA, ARTEFACT)
        record = write_record(part / RECORD, content)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    remember([key_of(folder / RECORD, record)])


def _write_parts(system: ExpandR, folder: Path) -> dict[str, Any]:
    index = system.faiss_index
    assert index is not None
    encoder = _save_encoder(system.encoder, folder)
    check_index(system.encoder, index, pooling=encoder["pooling"], normalize=encoder["normalize"])
    shutil.copytree(index.folder, folder / INDEX, copy_function=_link_or_copy)
    return {
        "format_version": 1 if system.hybrid is None else FORMAT_VERSION,
        "encoder": encoder,
        "expander": _save_expander(system.expander, folder),
        "index": {**index.describe(), "encoder": index.encoder},
        **_save_hybrid(system, folder),
        "versions": versions(),
    }


def _save_hybrid(system: ExpandR, folder: Path) -> dict[str, Any]:
    lexical, index = system.lexical_index, system.faiss_index
    if system.hybrid is None:
        return {}
    assert lexical is not None and index is not None
    if not lexical.built():
        raise ValueError(f"there is no lexical index at {str(lexical.folder)!r}: index documents first")
    check_lexical(index, lexical)
    shutil.copytree(lexical.folder, folder / LEXICAL, copy_function=_link_or_copy)
    return {"lexical": lexical.describe(), "hybrid": asdict(system.hybrid)}


def _link_or_copy(source: str, target: str) -> None:
    """A hard link if the file system supports it: index files are never changed in place, and may be large."""
    try:
        os.link(os.path.realpath(source), target)  # a link to a symbolic link would point outside the system
    except OSError:
        shutil.copy2(source, target)


def _save_encoder(encoder: ExpandREncoder, folder: Path) -> dict[str, Any]:
    source = encoder.source
    if callable(encoder.fusion):
        raise ValueError("a fusion that is a function cannot be saved: give a name or a weight")
    if "weights_sha256" in source["fingerprint"]:
        raise ValueError(
            f"the encoder {source['model']!r} was built in memory: save it with save_pretrained, open it from there "
            "with ExpandREncoder(FOLDER), and index with that"
        )
    if Path(source["model"]).is_dir():
        shutil.copytree(source["model"], folder / ENCODER, ignore=_hidden_files)
    return source


def _hidden_files(folder: str, names: list[str]) -> list[str]:
    """Hidden files, which `model_fingerprint` ignores as well."""
    return [name for name in names if name.startswith(".") and (Path(folder) / name).is_file()]


def _save_expander(expander: pt.Transformer | None, folder: Path) -> dict[str, Any] | None:
    from ..common.jsonl import write_jsonl
    from ..encoding.models.sentence_transformer import portable_name
    from ..expansion.expander import LLMExpander, RecordedExpander

    if expander is None:
        return None
    if isinstance(expander, RecordedExpander):
        if isinstance(expander.records, (str, Path)):
            shutil.copyfile(path_of(expander.records), folder / EXPANSIONS)
        else:
            write_jsonl(folder / EXPANSIONS, expander.records)
        return {"kind": "recorded", **describe_pipeline(expander)}
    if isinstance(expander, LLMExpander):
        backend = expander.backend
        place = {name: getattr(backend, name, None) for name in ("model", "adapter")}
        place = {name: value if value is None else portable_name(str(value)) for name, value in place.items()}
        return {"kind": "llm", "engine": type(backend).__name__, "place": place, **describe_pipeline(expander)}
    raise TypeError(f"only an LLMExpander or a RecordedExpander can be saved, not {expander!r:.80}")


def load_encoder(folder: Path, record: dict[str, Any], device: str | None) -> ExpandREncoder:
    """The encoder of a record; `from_spec` rejects one whose weights differ from the record."""
    from ..encoding.encoder import ExpandREncoder

    source = dict(record["encoder"])
    if (folder / ENCODER).is_dir():
        source["model"] = str(folder / ENCODER)
    elif Path(source["model"]).is_absolute() or ".." in Path(source["model"]).parts or source["model"][:1] in ".~":
        raise ValueError(
            f"the system in {str(folder)!r} names the encoder {source['model']!r}, a folder outside it, which is "
            f"refused: {MEND}"
        )
    return ExpandREncoder.from_spec(source, device=device)


def load_index(folder: Path, record: dict[str, Any]) -> FaissIndex:
    """The index inside a system. Raises ValueError if it is not the one that was saved."""
    from ..retrieval.faiss_index import FaissIndex

    index, saved = FaissIndex(folder / INDEX), record["index"]
    found = {**index.describe(), "encoder": index.encoder}
    if found != saved:
        raise ValueError(
            f"the index in {str(folder)!r} is not the one that was saved: it was made by "
            f"{describe_source(found['encoder'])} and has files {_hashes(found)}; the system has one by "
            f"{describe_source(saved['encoder'])} with files {_hashes(saved)}"
        )
    return index


def load_hybrid(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The lexical index inside a system and how it is used, as arguments of `ExpandR`; empty if it has none.

    Raises:
        ValueError: the index is not the one that was saved. TypeError: a setting from a newer release.
    """
    if "lexical" not in record:
        return {}
    lexical = LexicalIndex(folder / LEXICAL)
    if not lexical.built():
        raise ValueError(f"the lexical index in {str(folder)!r} is missing: copy the system again")
    _check_equal("lexical index", record["lexical"], lexical.describe())
    return {"lexical": lexical, "hybrid": HybridSettings(**record["hybrid"])}


def _hashes(index: dict[str, Any]) -> list[str]:
    return [file["sha256"][:12] for file in index["files"].values()]


def load_expander(
    folder: Path, record: dict[str, Any], backend: Backend | None, cache: Any, device: str | None
) -> pt.Transformer | None:
    """The expander of a record.

    Raises:
        ValueError: the LLM or the recorded texts are not those that were saved, or the LLM is not available.
    """
    from ..expansion.expander import LLMExpander, RecordedExpander

    saved = record["expander"]
    if saved is None:
        return None
    # A record with an older cleaning does not mention refusals, and is cleaned as before.
    cleaning = {"clean": saved["cleaning"] or False, "keep_refusals": saved.get("keep_refusals", False)}
    if saved["kind"] == "recorded":
        replayed = RecordedExpander(folder / EXPANSIONS, on_missing=saved["on_missing"], n=saved.get("n"), **cleaning)
        _check_equal("recorded expansions", saved["records_sha256"], replayed.describe()["records_sha256"])
        return replayed
    names = ("prompt", "n", "context_documents", "temperature", "top_p", "max_new_tokens", "seed", "thinking")
    backend = backend if backend is not None else _open_backend(saved, device)
    expander = LLMExpander(backend, cache=cache, **cleaning, **{name: saved[name] for name in names if name in saved})
    if not _same_model(backend.fingerprint(), saved["model"]):
        _check_equal("LLM", saved["model"], backend.fingerprint())
    return expander


def _open_backend(saved: dict[str, Any], device: str | None) -> Backend:
    from ..expansion.backends.huggingface import HuggingFaceBackend

    model, place = saved["model"], saved["place"]
    if saved["engine"] != "HuggingFaceBackend":
        raise ValueError(f"this system's LLM ran on {saved['engine']}: give it with backend=, or load(expansion=False)")
    try:
        # Not **place: a record must not switch on trust_remote_code.
        options = {"adapter": place.get("adapter"), "dtype": model["dtype"], "revision": model.get("commit")}
        return HuggingFaceBackend(place["model"], device=device, **options)
    except ValueError as error:
        raise ValueError(
            f"this system's LLM is not at {place['model']!r} ({error}): give it with backend=, or load(expansion=False)"
        ) from error


def check_index(
    encoder: ExpandREncoder, index: FaissIndex, *, pooling: str | None = None, normalize: bool | None = None
) -> None:
    """Raise ValueError if the index accepts no queries of the encoder; unknown values are not compared.

    An index accepts the encoder that made it and its students. Without `pooling` and `normalize`, the values given to
    the encoder are used, so no model need be loaded.
    """
    if index.encoder is None:
        return
    made = document_source(index.encoder)
    ours = encoder.teacher or {
        "fingerprint": encoder.fingerprint(),
        "pooling": pooling if pooling is not None else encoder.pooling,
        "normalize": normalize if normalize is not None else encoder.normalize,
        "truncate_dim": encoder.truncate_dim,
    }
    settings = ("pooling", "normalize", "truncate_dim")
    differ = [name for name in settings if ours[name] is not None and ours[name] != made.get(name)]
    if not _same_model(ours["fingerprint"], made["fingerprint"]):
        differ = ["fingerprint", *differ]
    if differ:
        student = "" if encoder.teacher is None else f", a student of {encoder.teacher['model']!r},"
        raise ValueError(
            f"these parts do not fit together: the index {str(index.path)!r} was made by {made['model']!r} "
            f"({_told(made, differ)}), the encoder is {encoder.model_name!r}{student} ({_told(ours, differ)})"
        )


def check_lexical(index: FaissIndex, lexical: LexicalIndex) -> None:
    """Raise ValueError if the two indexes of a system hold different documents."""
    ours, theirs = set(lexical.docnos), set(index.docnos.to_pylist())
    if ours != theirs:
        example = min(ours ^ theirs)
        raise ValueError(
            f"these parts do not fit together: the lexical index {str(lexical.folder)!r} has {len(ours)} documents, "
            f"the index {str(index.path)!r} has {len(theirs)}, and only one of them has {example!r}: remove the one "
            "that is not of this corpus, and index again"
        )


def _told(source: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {source.get(name)}" for name in names)


def _same_model(found: dict[str, Any], saved: dict[str, Any]) -> bool:
    """Whether two fingerprints denote the same model; a hub model not yet downloaded is identified by its revision."""
    if found == saved:
        return True
    if "commit" not in saved or "model" not in found or "commit" in found:
        return False
    unknown = {"commit", "revision"}
    rest = [{name: value for name, value in one.items() if name not in unknown} for one in (found, saved)]
    return rest[0] == rest[1] and found.get("revision") in (None, saved["commit"])


def _check_equal(what: str, saved: Any, found: Any) -> None:
    if saved != found:
        raise ValueError(f"the {what} are not those that were saved: the system has {saved}, found is {found}")
