"""An encoder in 8-bit integers for a CPU: made once by OpenVINO and NNCF, measured, and kept as a folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..common.extras import check_installed
from ..common.files import cache_folder, path_of, replace_folder
from ..common.fingerprint import digest, model_fingerprint, pinned_revision
from ..common.frames import document_text
from ..common.locks import one_writer
from ..common.records.manifest import write_record
from .loading import load_sentence_transformer
from .models.sentence_transformer import normalizes_again, pooling_of, prompt_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

#: the record of a quantised model
RECORD = "openvino.json"
#: fewest and most texts on which the result is measured
LEAST_TEXTS, TEXTS = 5, 50
#: how numbers become integers; a folder in the cache that was made otherwise is not used
SCHEME = {"weights": "INT8_ASYM", "activations": "dynamic"}
#: a lower mean cosine between vectors in float32 and in int8 is no longer the same model
LEAST_COSINE = 0.9


def quantize(
    model: str | Path,
    folder: str | Path,
    texts: Iterable[str] | None = None,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    query_prompt: str | None = None,
    doc_prompt: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """A folder with `model` in int8, which `ExpandREncoder(folder)` opens: weights by NNCF, activations by OpenVINO.

    Weights become integers once. Activations become integers while the model runs, each token's in groups with a range
    of their own: no texts are needed to learn ranges from, and the vectors stay nearer to the original's than with
    ranges that were learnt. Up to 50 texts measure the cosine between the vectors of both models. The record
    `openvino.json` has the cosines, the original's fingerprint, the SHA-256 of the texts and the versions. Where
    `folder` appears it is complete. About ten seconds for 22 million parameters on one core.

    Args:
        model: a hub name or folder, with weights that sentence-transformers opens as a plain transformer.
        folder: the folder to be written; it must not exist.
        texts: at least 5 documents; None takes those of the pocket collection, which are in English.
        pooling, normalize, max_length, query_prompt, doc_prompt, revision, trust_remote_code: as in `ExpandREncoder`.

    Raises:
        ImportError: openvino or nncf is not installed. FileExistsError: the folder exists. InUseError: another process
            is writing it.
        ValueError: fewer than 5 texts; the model is not a plain transformer (AnchorDR, DPR, one with two routes); or
            OpenVINO cannot compute it, or not in 8 bits.

    Example:
        >>> quantize("facebook/contriever", "contriever-int8")  # doctest: +SKIP
        PosixPath('contriever-int8')
    """
    check_installed("quantisation", "openvino", "openvino", "nncf")
    target = path_of(folder)
    chosen = list(islice(_pocket() if texts is None else texts, TEXTS))
    if len(chosen) < LEAST_TEXTS or not all(isinstance(text, str) and text for text in chosen):
        raise ValueError(f"quantisation needs {LEAST_TEXTS} to {TEXTS} texts that are not empty, got {len(chosen)}")
    with one_writer(target):
        if target.exists():
            raise FileExistsError(f"{str(target)!r} already exists: choose another folder")
        original = load_sentence_transformer(
            str(model),
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            revision=pinned_revision(str(model), revision),
            device="cpu",
            trust_remote_code=trust_remote_code,
        )
        given = {"query": query_prompt, "document": doc_prompt}
        original.prompts |= {name: prompt for name, prompt in given.items() if prompt is not None}
        work = target.with_name(f".part.{target.name}")
        shutil.rmtree(work, ignore_errors=True)
        try:
            _write(original, work, chosen, {"model": str(model), "fingerprint": model_fingerprint(model, revision)})
            replace_folder(work, target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return target


def _write(original: SentenceTransformer, work: Path, texts: Sequence[str], of: dict[str, Any]) -> None:
    expected = _vectors(original, texts)
    _quantize_first(original, texts)
    cosines = np.sum(expected * _vectors(original, texts), axis=1)
    if cosines.mean() < LEAST_COSINE:
        raise ValueError(
            f"{of['model']!r} does not survive quantisation: the cosine to its own vectors is {cosines.mean():.3f}; "
            "use backend='torch'"
        )
    work.mkdir(parents=True)
    original.save_pretrained(str(work), create_model_card=False)
    names = ("openvino", "nncf", "torch", "transformers", "sentence-transformers")
    record = {
        "of": of,
        "pooling": pooling_of(original),
        "scheme": SCHEME,
        "cosine": {
            "texts": len(texts),
            "sha256": digest(list(texts)),
            "mean": round(float(cosines.mean()), 6),
            "min": round(float(cosines.min()), 6),
        },
        "versions": {name: version(name) for name in names},
    }
    write_record(work / RECORD, record)
    logger.warning("%s in int8: mean cosine to its own vectors %.4f", of["model"], cosines.mean())


def _quantize_first(model: SentenceTransformer, texts: Sequence[str]) -> None:
    """Put OpenVINO's int8 in the place of the model's transformer; some texts trace and check it."""
    from .models.library import Transformer, preprocess, size_of
    from .models.openvino import OpenVINOTransformer, converted, import_nncf
    from .models.sentence_transformer import position_limit

    first = model[0]
    if not isinstance(first, Transformer) or first.tokenizer is None:
        raise ValueError(f"a {type(first).__name__} cannot be quantised, only a model with one plain transformer")
    nncf = import_nncf()
    prompt = prompt_of(model, "document", None)

    def features(texts: list[str]) -> dict[str, Any]:
        found = preprocess(model, texts, prompt, "document")
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    graph = converted(first, features([*texts[:2]]), features([*texts[2:5], "short"]))
    # Not by nncf.set_log_level, which also sets the level of handlers that others have put there, such as a test's.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with _quiet():
        graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    settings = (int(first.max_seq_length or 512), int(size_of(first) or 0), position_limit(model))
    model._modules["0"] = OpenVINOTransformer(graph, first.tokenizer, *settings)


def _quiet() -> Any:
    """No progress bars of NNCF, which are drawn on the standard output."""
    import contextlib
    import io

    return contextlib.redirect_stdout(io.StringIO())


def _vectors(model: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """Vectors (n, d) of documents, of length 1."""
    found = model.encode_document(
        list(texts), batch_size=8, show_progress_bar=False, normalize_embeddings=normalizes_again(model)
    )
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _pocket() -> list[str]:
    from ..collections import pocket

    documents = pocket().get_corpus_iter(verbose=False)
    return [document_text(document["title"], document["text"]) for document in documents]


def quantized_folder(model: str, **settings: Any) -> str:
    """The folder of `model` in int8 in the cache, made at the first call with texts of the pocket collection.

    `settings` are those of `quantize`. Versions of OpenVINO and NNCF are part of the folder's name.
    """
    if record_of(model) is not None:
        return model
    check_installed("the backend openvino", "openvino", "openvino", "nncf")
    of = [model_fingerprint(model, settings.get("revision")), settings, SCHEME, version("openvino"), version("nncf")]
    folder = cache_folder() / "openvino" / digest(of)[:32]
    with one_writer(folder, wait=600):
        if not (folder / RECORD).is_file():
            logger.warning("quantising %s once; the result is kept in %s", model, folder)
            quantize(model, folder, **settings)
    return str(folder)


def record_of(name: str) -> dict[str, Any] | None:
    """The record of a quantised model's folder; None for other models.

    Example:
        >>> record_of(".") is None
        True
    """
    path = Path(name) / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
