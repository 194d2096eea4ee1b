"""DPR's two encoders as one sentence-transformers model: one for questions, the other for passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

from ...common.weights import refuse_pickles, weights_options
from .library import Router, TextModule

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Tower = Literal["question", "context"]
_CLASSES: dict[str, Any] = {"question": DPRQuestionEncoder, "context": DPRContextEncoder}


class DPRTower(TextModule):
    """Texts -> `sentence_embedding` (n, d): the state of the first token in one of DPR's two encoders.

    `AutoModel` opens a context encoder as a question encoder, and fills it with random numbers; this class opens each
    as what it is.
    """

    config_keys = ["tower", "max_seq_length"]  # noqa: RUF012  sentence-transformers reads a list
    config_file_name = "sentence_dpr_config.json"

    def __init__(self, model: nn.Module, tokenizer: Any, tower: Tower, max_seq_length: int = 512) -> None:
        super().__init__()
        self.model = model
        self.tokenizer: Any = tokenizer
        self.tower, self.max_seq_length = tower, max_seq_length

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, tower: Tower, max_seq_length: int = 512) -> DPRTower:
        """One encoder from a folder or hub model. Raises ValueError if it is the other one, or not DPR at all."""
        from .sentence_transformer import opening

        name = str(name_or_folder)
        refuse_pickles(name)
        with opening(name):
            model, report = _CLASSES[tower].from_pretrained(name, output_loading_info=True, **weights_options())
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # Some DPR checkpoints contain BERT's pooler, but it is never used.
        missing = sorted(key for key in report["missing_keys"] if ".pooler." not in key)
        if missing:
            raise ValueError(
                f"{name!r} is not a DPR {tower} encoder: {len(missing)} of its weights are missing, e.g. "
                f"{missing[:3]}. DPR has a question encoder and a context encoder: give both, in that order."
            )
        return cls(model.eval(), tokenizer, tower, max_seq_length)

    @classmethod
    def load(  # type: ignore[override]  # loading options that this module does not need are in `options`
        cls, model_name_or_path: str, subfolder: str = "", **options: Any
    ) -> DPRTower:
        """The module of a sentence-transformers folder; called by `SentenceTransformer`."""
        config = cls.load_config(model_name_or_path, subfolder=subfolder)
        folder = Path(model_name_or_path) / subfolder
        return cls.from_pretrained(folder, config["tower"], config["max_seq_length"])

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write weights, tokenizer and settings; called by `SentenceTransformer`."""
        self.model.save_pretrained(output_path)  # type: ignore[operator]
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)

    def get_embedding_dimension(self) -> int:
        """The size of an embedding."""
        config: Any = self.model.config
        return config.projection_dim or config.hidden_size

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor | Any]:
        """Token ids (n, length) of texts, each preceded by `prompt`."""
        texts = [(prompt or "") + text for text in inputs]
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": self.max_seq_length}
        return dict(self.tokenizer(texts, return_tensors="pt", **options))

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """`features` with `sentence_embedding` (n, d)."""
        output = self.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
        return {**features, "sentence_embedding": output.pooler_output}


def open_dpr(question: str | Path, context: str | Path, *, device: str | None = None) -> SentenceTransformer:
    """A `SentenceTransformer` with DPR's question encoder for `encode_query` and context encoder for `encode_document`.

    Example:
        >>> model = open_dpr("facebook/dpr-question_encoder-multiset-base",
        ...                  "facebook/dpr-ctx_encoder-multiset-base")  # doctest: +SKIP
    """
    from sentence_transformers import SentenceTransformer

    router = Router.for_query_document(
        query_modules=[DPRTower.from_pretrained(question, "question")],
        document_modules=[DPRTower.from_pretrained(context, "context")],
    )
    return SentenceTransformer(modules=[router], device=device, similarity_fn_name="dot")
