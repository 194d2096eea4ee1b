"""Opens any encoder that sentence-transformers can host, with pooling and normalisation from its files or as given."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.records.manifest import check_model_folder
from ..common.weights import module_folders, pickles_allowed, refuse_pickle, refuse_pickles, weights_options
from .models.catalogue import FIRST_DECODER_POSITION
from .models.sentence_transformer import apply_overrides, opening

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


def load_sentence_transformer(
    name: str,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    truncate_dim: int | None = None,
    revision: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """A `SentenceTransformer` in evaluation mode.

    A checkpoint with sentence-transformers files keeps their pooling and normalisation unless others are given. A bare
    checkpoint (BERT, Contriever) gets `pooling` (mean if not given) and is normalised unless `normalize=False` (as in
    the paper's evaluation); what was assumed is logged once, as a warning.

    Raises:
        ValueError: `name` is a folder without a model, or with weights in a pickle alone; the model is neither on the
            hub nor in its local cache; or it is AnchorDR and another pooling was requested (or the reverse).
    """
    from sentence_transformers import SentenceTransformer

    from .models.anchordr_checkpoint import is_anchordr
    from .models.own_modules import has_own_modules

    check_folder(name)
    refuse_pickles(name)
    if pooling == FIRST_DECODER_POSITION or is_anchordr(name, revision):
        # T5's classes would open it without an error but compute something else.
        from .models.anchordr import open_anchordr

        if pooling not in (None, FIRST_DECODER_POSITION):
            raise ValueError(
                f"{name!r} is AnchorDR, which always pools by its {FIRST_DECODER_POSITION}: leave out pooling="
            )
        model, pooling = open_anchordr(name, revision=revision, device=device), None
    elif has_modules(name, revision):
        _refuse_modules_pickles(name, revision)
        trusted = trust_remote_code or has_own_modules(name, revision)
        with opening(name):
            model = SentenceTransformer(
                name, device=device, revision=revision, trust_remote_code=trusted, model_kwargs=weights_options()
            )
    else:
        model = _open_bare(name, revision, device, trust_remote_code)
        if pooling is None:
            logger.warning("%s does not declare its pooling; assuming mean pooling (set pooling= to choose)", name)
        if normalize is None:
            logger.warning(
                "%s does not declare whether it normalises; assuming L2 normalisation (set normalize= to choose)", name
            )
        pooling, normalize = pooling or "mean", True if normalize is None else normalize
    apply_overrides(model, pooling=pooling, normalize=normalize, max_length=max_length, truncate_dim=truncate_dim)
    return model.eval()


def _refuse_modules_pickles(name: str, revision: str | None) -> None:
    """`refuse_pickles` for the modules of a hub model besides the first, which transformers does not open."""
    from .models.anchordr_checkpoint import find_file

    listed = find_file(name, "modules.json", revision)
    if listed is None or Path(name).is_dir() or pickles_allowed():
        return
    for path in module_folders(listed.parent):
        pickled = find_file(name, f"{path}/pytorch_model.bin", revision)
        if pickled is not None and find_file(name, f"{path}/model.safetensors", revision) is None:
            refuse_pickle(pickled)


def _open_bare(name: str, revision: str | None, device: str | None, trust_remote_code: bool) -> SentenceTransformer:
    """A model that only gives the token states, from a checkpoint without sentence-transformers files."""
    from sentence_transformers import SentenceTransformer

    from .models.library import open_transformer

    with opening(name):
        module = open_transformer(name, weights_options(), revision=revision, trust_remote_code=trust_remote_code)
    return SentenceTransformer(modules=[module], device=device)


def check_folder(name: str) -> None:
    """Raise ValueError if `name` can only be a folder and that folder is missing, damaged or contains no model."""
    folder = Path(name)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
            raise ValueError(f"{name!r} does not contain a model: it has neither modules.json nor config.json")
        check_model_folder(folder)
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no folder {name!r}: give an existing folder or the name of a model on the hub")


def has_modules(name: str, revision: str | None = None) -> bool:
    """Whether the checkpoint has sentence-transformers files (modules.json)."""
    if Path(name).is_dir():
        return (Path(name) / "modules.json").is_file()
    from sentence_transformers.util import is_sentence_transformer_model

    return is_sentence_transformer_model(name, revision=revision)
