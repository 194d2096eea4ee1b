"""Encoders by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalogue import ENCODERS, LLMS, EncoderEntry

if TYPE_CHECKING:
    from pyterrier_dr import BiEncoder


def load_encoder(
    name: str | Path,
    *,
    checkpoint: str | Path | tuple[str | Path, str | Path] | None = None,
    fuse: bool | None = None,
    **options: Any,
) -> BiEncoder:
    """The encoder that a name means, with the pooling, prefixes and length that it was made for.

    Args:
        name: a name of `ENCODERS` ("contriever", "anchordr", "dpr" ...), a hub id ("owner/model"), or a folder.
        checkpoint: another checkpoint of the named model, such as one that was fine-tuned from it: a folder or hub id;
            for DPR a pair, the question and the context encoder.
        fuse: True gives an `ExpandREncoder`, which fuses queries with their expansions; False the model's class in
            pyterrier_dr, which reads queries alone; None takes pyterrier_dr's where that is the maintained home (ANCE,
            TAS-B, E5, GTR, BGE-M3) and an `ExpandREncoder` everywhere else.
        options: passed on to the class (`device`, `batch_size`, `fusion` ...).

    Raises:
        ValueError: an unknown name (the closest ones are named), a model that another PyTerrier plugin provides, one
            whose checkpoint is not known here, or a folder that is no model.

    Example:
        >>> load_encoder("contriever")
        ExpandREncoder('facebook/contriever')
    """
    entry = ENCODERS.get(str(name))
    if entry is None:
        return _load_unlisted(str(name), checkpoint, fuse, options)
    if not entry.home.startswith(("ExpandREncoder", "pyterrier_dr.")):
        raise ValueError(f"{name!r} is not hosted here but by the PyTerrier plugin {entry.home}: {entry.note}")
    if checkpoint is None and entry.model is None:
        raise ValueError(f"no checkpoint of {name!r} is known here: {entry.note}")
    hosted_by_dr = entry.home.startswith("pyterrier_dr.")
    if fuse is False and not hosted_by_dr:
        raise ValueError(f"pyterrier_dr has no class for {name!r}: leave fuse out")
    if hosted_by_dr and not fuse:
        import pyterrier_dr

        return getattr(pyterrier_dr, entry.home.partition(".")[2])(model_name=str(checkpoint or entry.model), **options)
    return _load_entry(entry, checkpoint, options)


def _load_entry(entry: EncoderEntry, checkpoint: Any, options: dict[str, Any]) -> BiEncoder:
    from ..encoder import ExpandREncoder

    if entry.context_model is not None:
        from .dpr import open_dpr

        if checkpoint is not None and (isinstance(checkpoint, (str, Path)) or len(checkpoint) != 2):
            raise ValueError(f"checkpoint= must be a pair, the question and the context encoder, got {checkpoint!r}")
        question, context = checkpoint or (entry.model or "", entry.context_model)
        return ExpandREncoder(open_dpr(question, context), **{"normalize": entry.normalize, **options})
    settings: dict[str, Any] = {"max_length": entry.max_length if checkpoint is None else None}
    # Prefixes are given even where they are empty: a checkpoint saved with others would be used otherwise than listed.
    settings |= {"query_prompt": entry.query_prefix, "doc_prompt": entry.doc_prefix}
    model = str(checkpoint or entry.model)
    settings |= {"normalize": entry.normalize}
    if entry.pooling != "first decoder position" and not _says_its_pooling(model):
        settings["pooling"] = entry.pooling
    return ExpandREncoder(model, **{**settings, **options})


def _says_its_pooling(model: str) -> bool:
    """Whether a folder has sentence-transformers files of its own; their pooling is then taken as it is."""
    return (Path(model) / "modules.json").is_file()


def _load_unlisted(name: str, checkpoint: Any, fuse: bool | None, options: dict[str, Any]) -> BiEncoder:
    folder = Path(name).expanduser()
    if not folder.is_dir() and "/" not in name:
        close = difflib.get_close_matches(name.lower(), ENCODERS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ValueError(
            f"unknown encoder {name!r}: {hint}Names are {', '.join(ENCODERS)}; a hub id has the form owner/model, and "
            "there is no folder of that name."
        )
    if checkpoint is not None or fuse is False:
        raise ValueError(f"{name!r} is no name of the table: checkpoint= and fuse=False are for those")
    from ..encoder import ExpandREncoder

    return ExpandREncoder(name, **options)


def models_table() -> str:
    """The table of encoders and of language models as text, one block for each: what `expandr models` prints."""
    blocks = ["Encoders (load_encoder)"]
    for name, entry in ENCODERS.items():
        hub = " + ".join(filter(None, (entry.model, entry.context_model))) or "no hub id"
        pooling = entry.pooling or "as its files say"
        norm = {True: "normalised", False: "not normalised", None: "normalised as its files say"}[entry.normalize]
        lines = [f"{name}: {hub}", f"{entry.home}; {pooling}; {norm}; {entry.similarity}; {entry.max_length} tokens"]
        if entry.query_prefix or entry.doc_prefix:
            lines.append(f"query prefix {entry.query_prefix!r}, document prefix {entry.doc_prefix!r}")
        lines += [f"paper: {entry.paper or 'not in it'}; licence: {entry.licence}"]
        lines += [text for text in (entry.note, entry.documented) if text]
        blocks.append("\n    ".join(lines))
    blocks.append("Language models (HuggingFaceBackend)")
    for name, llm in LLMS.items():
        lines = [
            f"{name}: {llm.model}",
            f"prompt {llm.prompt}; context {llm.context:,} tokens; template: {llm.template}",
        ]
        lines += [f"paper: {llm.paper}; licence: {llm.licence}", llm.documented]
        blocks.append("\n    ".join(lines))
    return "\n\n".join(blocks)
