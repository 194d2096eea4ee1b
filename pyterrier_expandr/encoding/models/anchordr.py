"""AnchorDR, and the retrievers fine-tuned from it, as a module of sentence-transformers.

The architecture is in `anchordr_model.py`, the tokenizer in `anchordr_tokenizer.py`; neither needs a fork of
transformers or fairseq.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .anchordr_checkpoint import find_file, is_anchordr
from .anchordr_layers import MAX_POSITIONS
from .anchordr_model import AnchorDRConfig, AnchorDRModel
from .anchordr_tokenizer import AnchorDRTokenizer
from .library import TextModule
from .own_modules import has_own_modules

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

__all__ = ["AnchorDR", "AnchorDRConfig", "AnchorDRModel", "AnchorDRTokenizer", "is_anchordr", "open_anchordr"]


class AnchorDR(TextModule):
    """Texts -> `sentence_embedding` (n, d_model): the decoder's state at its first position, not normalised.

    Args:
        model: the encoder-decoder.
        tokenizer: its tokenizer.
        max_seq_length: maximum number of tokens read per text, including `<s>` and `</s>`; at most 1,024.

    Raises:
        ValueError: the tokenizer has more ids than the model has embeddings, or the length exceeds the positions.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> model = SentenceTransformer(modules=[AnchorDR.from_pretrained("yiqingx/AnchorDR")])  # doctest: +SKIP
    """

    config_file_name = "sentence_anchordr_config.json"
    config_keys = ["max_seq_length"]  # noqa: RUF012  sentence-transformers reads a list
    save_in_root = True

    def __init__(self, model: AnchorDRModel, tokenizer: AnchorDRTokenizer, max_seq_length: int = 512) -> None:
        super().__init__()
        if len(tokenizer) > model.config.vocab_size or tokenizer.pad_token_id != model.config.pad_token_id:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} ids and pads with {tokenizer.pad_token_id}, the model has "
                f"{model.config.vocab_size} embeddings and pads with {model.config.pad_token_id}: they do not belong "
                "together"
            )
        if len(tokenizer) < model.config.vocab_size:
            logger.warning(
                "the tokenizer has %d ids, the model %d embeddings: if dict.txt lost lines, all ids after them are "
                "wrong",
                len(tokenizer),
                model.config.vocab_size,
            )
        self.model = model
        for parameter in model.unused_parameters().values():
            parameter.requires_grad_(False)  # it never gets a gradient, which data-parallel training treats as an error
        self.tokenizer: Any = tokenizer  # a tokenizer in everything but its base class
        self.max_seq_length = max_seq_length

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens read per text."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if not 3 <= value <= MAX_POSITIONS:
            raise ValueError(f"max_seq_length must be between 3 and {MAX_POSITIONS}, got {value}")
        self._max_seq_length = value

    @property
    def auto_model(self) -> AnchorDRModel:
        """The encoder-decoder, under the name that the modules of sentence-transformers use for theirs."""
        return self.model

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        tokenizer: AnchorDRTokenizer | None = None,
        max_seq_length: int | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AnchorDR:
        """The module from a folder (in the reference's layout, or written by `save_pretrained`) or a hub name.

        Args:
            name_or_folder: the location of config.json, the weights and the tokenizer's files.
            tokenizer: replaces the folder's own tokenizer.
            max_seq_length: None uses the value in the folder, or 512.
            revision: the model's revision on the hub.
            dtype: dtype of the weights; None keeps that of the file.

        Raises:
            ValueError: files are missing or damaged, the weights are not exactly AnchorDR's (all names are listed), or
                the checkpoint is a stock T5 or was saved without its decoder.
        """
        name = str(name_or_folder)
        model = AnchorDRModel.from_pretrained(name, revision=revision, dtype=dtype)
        tokenizer = tokenizer or AnchorDRTokenizer.from_pretrained(name, revision=revision)
        settings = find_file(name, cls.config_file_name, revision)
        saved = json.loads(settings.read_text(encoding="utf-8")) if settings else {}
        return cls(model, tokenizer, max_seq_length or saved.get("max_seq_length", 512))

    @classmethod
    def load(  # type: ignore[override]  # loading options that this module does not need are in `options`
        cls, model_name_or_path: str, subfolder: str = "", **options: Any
    ) -> AnchorDR:
        """The module of a sentence-transformers folder; called by `SentenceTransformer`."""
        folder = Path(model_name_or_path)
        name = str(folder / subfolder) if subfolder and folder.is_dir() else model_name_or_path
        model_options = options.get("model_kwargs") or {}
        dtype = model_options.get("dtype", model_options.get("torch_dtype"))
        if isinstance(dtype, str):
            dtype = None if dtype == "auto" else getattr(torch, dtype)
        length = (options.get("processor_kwargs") or options.get("tokenizer_kwargs") or {}).get("model_max_length")
        return cls.from_pretrained(name, revision=options.get("revision"), dtype=dtype, max_seq_length=length)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write weights (always as safetensors), configuration and tokenizer; called by `SentenceTransformer`."""
        self.model.save_pretrained(output_path)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the module to a folder that `from_pretrained` can read."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.save(str(folder))

    def get_embedding_dimension(self) -> int:
        """The size of an embedding."""
        return self.model.config.d_model

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor | Any]:
        """`input_ids` and `attention_mask` (n, length) of texts or of pairs of texts, each preceded by `prompt`."""
        pairs = [item if isinstance(item, (list, tuple)) else (item,) for item in inputs]
        first = [(prompt or "") + pair[0] for pair in pairs]
        second = [pair[1] for pair in pairs] if all(len(pair) == 2 for pair in pairs) else None
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": self.max_seq_length}
        return dict(self.tokenizer(first, second, return_tensors="pt", **options))

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """`features` with `sentence_embedding` (n, d_model)."""
        return {**features, "sentence_embedding": self.model.embed(features["input_ids"], features["attention_mask"])}


def open_anchordr(
    name: str, *, revision: str | None = None, device: str | None = None, normalize: bool | None = None
) -> SentenceTransformer:
    """A `SentenceTransformer` of an AnchorDR checkpoint: in the reference's layout, or a folder saved from one.

    Args:
        name: a folder or hub name.
        revision: the model's revision on the hub.
        device: "cuda", "cpu" ...
        normalize: L2-normalise embeddings; None uses the setting of a saved folder, and True for the reference's layout
            (as in its evaluation).

    Raises:
        ValueError: not an AnchorDR checkpoint, or a folder whose modules bring code of their own.
    """
    from sentence_transformers import SentenceTransformer

    from .sentence_transformer import apply_overrides

    if has_own_modules(name, revision):
        # Trusted: every module class is from this file or a plain one from sentence-transformers.
        model = SentenceTransformer(name, revision=revision, device=device, trust_remote_code=True)
    else:
        # The reference script's modules.json is not read: it names T5 and mean pooling, which were not trained.
        module = AnchorDR.from_pretrained(name, revision=revision)
        model = SentenceTransformer(modules=[module], device=device, similarity_fn_name="dot")
        normalize = True if normalize is None else normalize
    apply_overrides(model, normalize=normalize)
    return model.eval()
