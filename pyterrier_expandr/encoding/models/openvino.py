"""A transformer that OpenVINO computes on a CPU, as a module of sentence-transformers."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...common.extras import needed_for
from ...common.hardware import warn_of_slow_integers
from .library import TextModule, Transformer

#: not .bin, which is how pickles are called (common/weights)
GRAPH, WEIGHTS = "openvino.xml", "openvino.weights"

#: largest difference between states of PyTorch and of the converted graph, relative to the largest state
TOLERANCE = 1e-3


def import_openvino() -> Any:
    """The module openvino, or an ImportError that names the extra; what it would report of its use is not sent."""
    # Importing OpenVINO tells its makers so, unless this package is missing. Nobody was asked.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import of it fails
    with needed_for("the backend openvino", "openvino"):
        import openvino
    return openvino


def import_nncf() -> Any:
    """The module nncf, or an ImportError that names the extra."""
    import_openvino()  # before nncf, which imports it as well
    kept = logging.getLoggerClass()
    try:
        with needed_for("quantisation", "openvino"):
            import nncf
    finally:
        # NNCF makes all loggers of the process its own kind, which leaves warnings out.
        logging.setLoggerClass(kept)
    return nncf


class OpenVINOTransformer(TextModule):
    """Texts -> `token_embeddings` (n, length, d), in the place of the `Transformer` it was converted from.

    Args:
        graph: an `openvino.Model` with the tokenizer's features as inputs and the token states as its output.
        tokenizer: the tokenizer of the original.
        max_seq_length: maximum number of tokens read per text.
        size: d.
        position_limit: the longest input that the graph can read; None if there is no limit.

    Raises:
        ValueError: a length above the limit.

    Example:
        >>> module = OpenVINOTransformer.load("minilm-int8")  # doctest: +SKIP
    """

    config_file_name = "sentence_openvino_config.json"
    config_keys = ["max_seq_length", "size", "position_limit"]  # noqa: RUF012  sentence-transformers reads a list
    save_in_root = True

    def __init__(
        self, graph: Any, tokenizer: Any, max_seq_length: int, size: int, position_limit: int | None = None
    ) -> None:
        super().__init__()
        self.graph = graph
        self.tokenizer: Any = tokenizer
        self.size, self.position_limit = size, position_limit
        self.max_seq_length = max_seq_length
        self.register_buffer("_place", torch.empty(0), persistent=False)  # tells the model its device
        self._compiled: Any = None
        self.precision = "f32"

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens read per text."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if value < 1 or (self.position_limit is not None and value > self.position_limit):
            raise ValueError(f"max_length must be between 1 and {self.position_limit or 'the model length'}: {value}")
        self._max_seq_length = value

    @property
    def compiled(self) -> Any:
        """The graph compiled for this CPU, in `precision`, with as many threads as PyTorch has."""
        if self._compiled is None:
            warn_of_slow_integers()
            options = {"INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
            self._compiled = import_openvino().Core().compile_model(self.graph, "CPU", options)
        return self._compiled

    @classmethod
    def load(  # type: ignore[override]  # loading options that this module does not need are in `options`
        cls, model_name_or_path: str, subfolder: str = "", **options: Any
    ) -> OpenVINOTransformer:
        """The module of a sentence-transformers folder or hub model; called by `SentenceTransformer`."""
        from transformers import AutoTokenizer

        from .anchordr_checkpoint import find_file

        revision = options.get("revision")
        prefix = f"{subfolder}/" if subfolder else ""
        graph, weights = (find_file(model_name_or_path, prefix + name, revision) for name in (GRAPH, WEIGHTS))
        if graph is None or weights is None:
            raise ValueError(f"{model_name_or_path!r} lacks {GRAPH} or {WEIGHTS}: quantise the model again")
        try:
            opened = import_openvino().Core().read_model(str(graph), str(weights))
        except RuntimeError as error:
            raise ValueError(f"{str(graph)!r} is damaged: quantise the model again") from error
        tokenizer = AutoTokenizer.from_pretrained(str(graph.parent), trust_remote_code=False)
        return cls(opened, tokenizer, **cls.load_config(model_name_or_path, subfolder=subfolder, revision=revision))

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write graph, weights, tokenizer and settings; called by `SentenceTransformer`."""
        folder = Path(output_path)
        import_openvino().save_model(self.graph, folder / GRAPH, compress_to_fp16=False)
        (folder / GRAPH).with_suffix(".bin").replace(folder / WEIGHTS)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)

    def get_embedding_dimension(self) -> int:
        """The size of an embedding."""
        return self.size

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor | Any]:
        """The tokenizer's features (n, length) of texts, each preceded by `prompt`."""
        texts = [(prompt or "") + text for text in inputs]
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": self.max_seq_length}
        return dict(self.tokenizer(texts, return_tensors="pt", **options))

    def forward(self, features: dict[str, Tensor | Any], **kwargs: Any) -> dict[str, Tensor | Any]:
        """`features` with `token_embeddings` (n, length, d)."""
        names = [port.get_any_name() for port in self.compiled.inputs]
        inputs = {name: features[name].cpu().numpy() for name in names}
        # A request of its own for each call, because one request cannot serve two threads.
        states = self.compiled.create_infer_request().infer(inputs, share_inputs=True)[0]
        return {**features, "token_embeddings": torch.from_numpy(states).to(features["input_ids"].device)}

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOTransformer:
        """A module with settings of its own, which shares the graph."""
        copied = type(self)(self.graph, self.tokenizer, self.max_seq_length, self.size, self.position_limit)
        copied.precision, copied.training = self.precision, self.training
        return copied


class _States(nn.Module):
    """Token features -> the last layer's states: what is converted."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types
        ).last_hidden_state
        return states


def converted(module: Transformer, features: dict[str, Tensor], others: dict[str, Tensor]) -> Any:
    """An `openvino.Model` in float32 of a module's transformer; the module itself is not changed.

    Args:
        module: the first module of a sentence-transformers model.
        features: features of some texts of unequal length, to trace the model with.
        others: features of another shape, with which the result is checked.

    Raises:
        ValueError: OpenVINO cannot convert the model, or computes something else.
    """
    openvino, states = import_openvino(), _States(module.auto_model).eval()
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of branches that tracing fixes; whether that matters is checked below
            graph = openvino.convert_model(states, example_input=dict(features))
            compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            for given in (features, others):
                expected = states(**given)
                names = [port.get_any_name() for port in graph.inputs]
                found = torch.from_numpy(compiled({name: given[name].numpy() for name in names})[0])
                # Of padding nobody reads the state.
                off = ((found - expected).abs() * given["attention_mask"][..., None]).max() / expected.abs().max()
                if off > TOLERANCE:
                    raise RuntimeError(f"its states differ by {float(off):.1%} from PyTorch's")
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"OpenVINO cannot compute this model ({error}): use backend='torch'") from error
    return graph
