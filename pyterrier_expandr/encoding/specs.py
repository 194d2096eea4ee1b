"""What vectors say about the encoder that made them, and how that is turned back into its settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models import sentence_transformer as host
from .quantized import record_of

if TYPE_CHECKING:
    from .encoder import ExpandREncoder

#: settings that are recorded, and given to the constructor again
RECORDED = "pooling normalize max_length query_prompt doc_prompt revision renormalize text_field".split()
#: settings that are recorded where they are not the default, which older records do not mention
OPTIONAL = {"truncate_dim": None, "backend": "torch", "dtype": "float32"}


def spec_of(encoder: ExpandREncoder) -> dict[str, Any]:
    """What made the vectors, as JSON values. Loads the model."""
    model = encoder.model
    spec: dict[str, Any] = {
        "type": "ExpandREncoder",
        "model": host.portable_name(encoder.model_name),
        "fingerprint": encoder.fingerprint(),
        "pooling": host.pooling_of(model),
        "normalize": host.normalizes(model),
        "max_length": model.max_seq_length,
        "query_prompt": host.prompt_of(model, "query", encoder.query_prompt),
        "doc_prompt": host.prompt_of(model, "document", encoder.doc_prompt),
        "revision": encoder.revision,
        "fusion": None if callable(encoder.fusion) else encoder.fusion,
        "renormalize": encoder.renormalize,
        "text_field": encoder.text_field,
    }
    actual = {"truncate_dim": model.truncate_dim, "backend": encoder.backend, "dtype": encoder.dtype}
    spec |= {name: value for name, value in actual.items() if value != OPTIONAL[name]}
    if encoder.teacher is not None:
        spec["teacher"] = encoder.teacher
    record = record_of(encoder.opened_name())
    if record is not None:
        spec["quantized"] = {"of": record["of"]["fingerprint"], "cosine": record["cosine"]}
    return spec


def settings_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments, besides the model, that a specification stands for.

    Raises:
        ValueError: it is not one of an `ExpandREncoder`, or one of a model that existed only in memory.
    """
    if spec.get("type") != "ExpandREncoder":
        raise ValueError(f"these vectors come from {spec.get('type')!r}, not from an ExpandREncoder")
    settings = {name: spec[name] for name in RECORDED}
    settings |= {name: spec.get(name, default) for name, default in OPTIONAL.items()}
    if spec["fusion"] is not None:
        settings["fusion"] = spec["fusion"]
    if "weights_sha256" in spec["fingerprint"]:
        raise ValueError(
            f"these vectors come from a model built in memory ({spec['model']}), which cannot be reopened: build "
            "it again, or save it to a folder before indexing (encoder.model.save_pretrained) and open that"
        )
    original = spec["fingerprint"]
    if "quantized" in spec and not Path(spec["model"]).exists():  # quantised again from the hub, if the cache is gone
        original = spec["quantized"]["of"]
    if "commit" in original:  # a hub model: use that commit, whatever the name points to now
        settings["revision"] = original["commit"]
    return settings
