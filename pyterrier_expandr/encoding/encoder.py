"""The dense encoder: queries fused with their expansions, documents with their titles."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyterrier as pt
import torch
from pyterrier_dr import BiEncoder, SimFn

from ..common.files import with_home
from ..common.fingerprint import model_fingerprint, pinned_revision
from ..common.notebook import Shown
from .fusion import Fusion, check_fusion
from .hardware import Backend, DType, check_backend, check_dtype, use_bfloat16
from .loading import check_folder, load_sentence_transformer
from .memory import Memory
from .models import sentence_transformer as host
from .quantized import quantized_folder, record_of
from .specs import settings_of, spec_of
from .students import teacher_of
from .vectors import SourcedArray, with_source
from .views import HELP_URL, DocEncoder, QueryEncoder, TextScorer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: which of the model's two sides encodes a text; expansions use the document side (METHOD: the tied encoder)
Side = Literal["query", "document"]

#: settings that do not affect documents
QUERY_SIDE = {"fusion", "query_prompt", "renormalize"}


class ExpandREncoder(Shown, BiEncoder):
    """A dense encoder whose query vectors are the fusion of a query and its LLM expansions (Eq. 8).

    It hosts any model that sentence-transformers can open, and creates these transformers:

    - `query_encoder()`: `[qid, query]` (+ optional `query_expansions`) -> adds `query_vec`
    - `doc_encoder()`: `[docno, text]` (+ optional `title`) -> adds `doc_vec`
    - `text_scorer()`: `[qid, query, docno, text]` -> adds `score`, `rank`

    Vectors are float32 arrays of shape (d,) that carry this encoder's specification, so that an index can record it.
    The model is loaded on first use.

    Args:
        model: a hub name, a folder, or a `SentenceTransformer` object. The weights of such an object must not change
            while the encoder is in use, because vectors are remembered. Settings given here change a copy of its
            modules, which shares the weights.
        pooling: "mean", "cls" ...; None uses the setting in the model's files (mean if there is none).
        normalize: L2-normalise every embedding before fusion; None uses the setting in the model's files (True if there
            is none, as in the paper's evaluation).
        max_length: maximum number of tokens read per text; None uses the model's own limit.
        truncate_dim: number of leading dimensions to keep of each embedding, for models trained for this (Matryoshka);
            it is normalised after truncation. None uses the setting in the model's files (all if there is none).
        fusion: "average" (1/2 query, 1/2 mean of the expansions), "uniform" (one mean over the query and all
            expansions), a weight alpha of the query in [0, 1], or `f(query (d,), expansions (m, d)) -> (d,)`.
        renormalize: L2-normalise the fused vector again; rankings stay the same, scores become cosines.
        query_prompt: text put before each query; None uses the model's own ("" for none).
        doc_prompt: text put before each document and each expansion; None uses the model's own.
        batch_size: texts per model call; None means 32 on a GPU and 8 on a CPU, whose caches larger batches would
            exceed.
        text_field: the column with the document's text.
        device: "cuda", "cpu" ...; None uses cuda if available.
        revision: the model's revision on the hub; None uses the newest, or the one that was downloaded before.
        trust_remote_code: run Python code that comes with the model.
        verbose: show progress bars.
        backend: "torch", or "openvino" for the model in 8-bit integers on a CPU, which is made at first use and kept in
            the cache. A folder that `quantize` wrote is always computed by OpenVINO.
        dtype: "float32", or "bfloat16" for half the memory and more speed on hardware that computes with it.

    Raises:
        ValueError: a folder contains no model; `backend` or `dtype` is unknown, or the hardware cannot compute so; a
            fusion weight is outside [0, 1]; `batch_size`, `max_length` or `truncate_dim` is below 1. ImportError:
            OpenVINO is not installed.

    Example:
        >>> encoder = ExpandREncoder("facebook/contriever", pooling="mean", fusion=0.5)
        >>> encoder.query_encoder()
        ExpandREncoder('facebook/contriever').query_encoder(fusion=0.5)
    """

    SHOWN = ("model_name", "revision", "pooling", "normalize", "max_length", "truncate_dim", "fusion", "device")

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        fusion: Fusion = "average",
        renormalize: bool = False,
        query_prompt: str | None = None,
        doc_prompt: str | None = None,
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        verbose: bool = False,
        backend: Backend = "torch",
        dtype: DType = "float32",
    ) -> None:
        by_name = isinstance(model, (str, Path))
        integers = by_name and record_of(with_home(str(model))) is not None
        self.backend: Backend = "openvino" if integers else backend
        check_backend(self.backend, device, by_name)
        cuda = torch.cuda.is_available() and self.backend == "torch"
        self.device = device or ("cuda" if cuda else "cpu")
        self.dtype = check_dtype(dtype, self.device)
        default_batch = 8 if self.device == "cpu" else 32
        super().__init__(batch_size=batch_size or default_batch, text_field=text_field, verbose=verbose)
        for name, value in (("batch_size", batch_size), ("max_length", max_length), ("truncate_dim", truncate_dim)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.model_name = with_home(str(model)) if isinstance(model, (str, Path)) else host.name_of(model)
        if by_name:
            check_folder(self.model_name)
        self._built = None if isinstance(model, (str, Path)) else model
        self.pooling, self.normalize, self.max_length = pooling, normalize, max_length
        self.truncate_dim = truncate_dim
        self.fusion = check_fusion(fusion)
        self.renormalize = renormalize
        self.query_prompt, self.doc_prompt = query_prompt, doc_prompt
        self.revision, self.trust_remote_code = revision, trust_remote_code
        self._model: SentenceTransformer | None = None
        self._source: dict[str, Any] | None = None
        self._memo = Memory()

    @property
    def model(self) -> SentenceTransformer:
        """The `SentenceTransformer`, loaded on first use. Raises ValueError if the model does not exist."""
        if self._model is None:
            overrides: dict[str, Any] = {
                "pooling": self.pooling,
                "normalize": self.normalize,
                "max_length": self.max_length,
                "truncate_dim": self.truncate_dim,
            }
            if self._built is not None:
                model = host.copy_of(self._built, self.device, share=self.dtype == "float32").eval()
                host.apply_overrides(model, **overrides)
                self._model = model
            else:
                name = self.opened_name()
                self._model = load_sentence_transformer(
                    name,
                    revision=pinned_revision(name, self.revision),
                    device=self.device,
                    trust_remote_code=self.trust_remote_code,
                    **overrides,
                )
            if self.dtype == "bfloat16":
                use_bfloat16(self._model)
        return self._model

    def opened_name(self) -> str:
        """The hub name or folder that is opened: for the backend "openvino" a folder, made if it is missing."""
        if self.backend == "torch" or self._built is not None:
            return self.model_name
        trusted = {"trust_remote_code": True} if self.trust_remote_code else {}
        return quantized_folder(self.model_name, revision=self.revision, **trusted)

    @property
    def source(self) -> dict[str, Any]:
        """What made the vectors, as JSON values; `from_spec` turns it back into an encoder. Loads the model."""
        if self._source is None:
            self._source = spec_of(self)
        return self._source

    @property
    def teacher(self) -> dict[str, Any] | None:
        """For a student (`training.student`), what made its documents' vectors; None for other encoders."""
        return teacher_of(self.model_name, self.revision) if self._built is None else None

    @classmethod
    def from_spec(cls, spec: dict[str, Any], **options: Any) -> ExpandREncoder:
        """The encoder that a vector's `source` describes; `options` (device, batch_size ...) go to the constructor.

        Raises:
            ValueError: the specification is not one of this class, or the weights of the model have changed since.
        """
        settings, recorded = settings_of(spec), spec["fingerprint"]
        encoder = cls(spec["model"], **{**settings, **options})
        found = encoder.fingerprint() if "sha256" in recorded else recorded
        if found != recorded:
            raise ValueError(
                f"the model at {spec['model']!r} is no longer the one that made these vectors "
                f"(recorded {recorded}, found {found}): restore that model, or index again"
            )
        return encoder

    def fingerprint(self) -> dict[str, Any]:
        """The identity of the model as JSON values, without loading it if it has a name or a folder."""
        if self._built is not None:
            return host.weights_fingerprint(self._built)
        return model_fingerprint(self.opened_name(), self.revision)

    def describe(self) -> dict[str, Any]:
        """What determines the vectors as JSON values, without loading the model: its content and the given settings."""
        names = "pooling normalize max_length query_prompt doc_prompt renormalize text_field".split()
        settings = {name: getattr(self, name) for name in names}
        if self.truncate_dim is not None:
            settings["truncate_dim"] = self.truncate_dim
        if self.dtype != "float32":
            settings["dtype"] = self.dtype
        return {"encoder": self.fingerprint(), "fusion": repr(self.fusion), **settings}

    def describe_documents(self) -> dict[str, Any]:
        """The part of `describe` that determines document vectors; that of a student is its teacher's."""
        if self.teacher is not None:
            return self.teacher["documents"]
        return {name: value for name, value in self.describe().items() if name not in QUERY_SIDE}

    def with_fusion(self, fusion: Fusion) -> ExpandREncoder:
        """The same encoder with another fusion; a loaded model and the remembered vectors are shared."""
        changed = copy.copy(self)
        changed.fusion, changed._source = check_fusion(fusion), None
        return changed

    def query_encoder(
        self, verbose: bool | None = None, batch_size: int | None = None, fusion: Fusion | None = None
    ) -> QueryEncoder:
        """A transformer `[qid, query]` (+ `query_expansions`, a list of str) -> adds `query_vec` (float32, (d,)).

        A query with an empty list, or in a frame without that column, gets the vector of the query alone. `fusion`
        overrides the encoder's own; it can be varied with `pt.GridScan` without encoding any text twice.
        """
        return QueryEncoder(self, verbose=verbose, batch_size=batch_size, fusion=fusion)

    def doc_encoder(self, verbose: bool | None = None, batch_size: int | None = None) -> DocEncoder:
        """A transformer `[docno, text]` (+ `title`) -> adds `doc_vec` (float32, (d,)) of `title + " " + text`."""
        return DocEncoder(self, verbose=verbose, batch_size=batch_size)

    def text_scorer(
        self, verbose: bool | None = None, batch_size: int | None = None, sim_fn: SimFn | None = None
    ) -> TextScorer:
        """A re-ranker `[qid, query, docno, text]` -> adds `score`, the dot product with the fused query, and `rank`."""
        return TextScorer(self, verbose=verbose, batch_size=batch_size, sim_fn=sim_fn)

    def encode_queries(self, texts: Sequence[str], batch_size: int | None = None) -> SourcedArray:
        """Embeddings (n, d), float32, of queries alone; each distinct text is encoded once and remembered."""
        return self._remembered("query", list(texts), batch_size)

    def encode_expansions(self, texts: Sequence[str], batch_size: int | None = None) -> SourcedArray:
        """Embeddings (n, d), float32, of expansions by the document side; each is encoded once and remembered."""
        return self._remembered("document", list(texts), batch_size)

    def has_to_encode(self, groups: Sequence[tuple[str, ...]]) -> bool:
        """Whether a text of the (query, expansion, ...) is not remembered."""
        sides: tuple[Side, Side] = ("query", "document")
        return any((sides[place > 0], text) not in self._memo for own in groups for place, text in enumerate(own))

    def encode_docs(self, texts: Sequence[str], batch_size: int | None = None) -> SourcedArray:
        """Embeddings (n, d), float32, of document texts; not remembered, since a corpus is large."""
        return self.encode(texts, "document", batch_size)

    def encode_queries_torch(self, texts: list[str], batch_size: int | None = None) -> torch.Tensor:
        """Embeddings (n, d) of queries as a tensor with gradients."""
        return host.forward(self.model, texts, "query", self.source["query_prompt"], batch_size or self.batch_size)

    def encode(self, texts: Sequence[str], side: Side, batch_size: int | None = None) -> SourcedArray:
        """Embeddings (n, d), float32, of texts encoded by the "query" or the "document" side; none is remembered."""
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        vectors = encode(
            list(texts) or [""],  # of no text at all the library does not tell the dimension
            prompt=self.source["query_prompt" if side == "query" else "doc_prompt"],
            batch_size=batch_size or self.batch_size,
            normalize_embeddings=host.normalizes_again(self.model),
            show_progress_bar=False,
        )
        vectors = np.asarray(vectors, dtype=np.float32)[: len(texts)]
        return with_source(vectors, self.source)

    def _remembered(self, side: Side, texts: list[str], batch_size: int | None) -> SourcedArray:
        if not texts:
            return self.encode([], side, batch_size)
        found = self._memo.vectors(side, texts, lambda fresh: self.encode(fresh, side, batch_size))
        return with_source(found, self.source)

    def _key(self) -> str:
        """Everything that determines the numbers, as text: encoders with equal keys compute the same vectors."""
        built = id(self._built) if self._built is not None else None
        fusion = repr(self.fusion)
        settings = [self.model_name, built, self.revision, self.pooling, self.normalize, self.max_length, fusion]
        settings += [self.renormalize, self.query_prompt, self.doc_prompt, self.text_field, self.device]
        settings += [self.truncate_dim, self.backend, self.dtype]
        return json.dumps(settings)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ExpandREncoder) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"ExpandREncoder({self.model_name!r})"

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this encoder."""
        return {"label": "ExpandR Encoder", "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: the views share this model rather than contain it."""
        return {}
