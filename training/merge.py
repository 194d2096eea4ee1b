"""From a LoRA adapter to a model that stands alone, checked against what it was made of."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..backends.base import Message
from ..backends.huggingface import HuggingFaceBackend
from ..fingerprint import model_fingerprint
from ..prompts import PROMPTS, render
from .cards import merged_card
from .expander import RECORD as ADAPTER_RECORD
from .outputs import claim, is_finished, publish, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

#: the file in the merged model's folder that says what made it
RECORD = "merge.json"

#: largest difference of logits, relative to their size, by the type that the weights are rounded to
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}

#: what the check asks where the caller names nothing else
SAMPLE_QUERIES = ("why is the sky blue", "who wrote the first novel", "does vitamin C shorten a cold", "tides")


def merge_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    prompts: Sequence[Sequence[Message]] | None = None,
    tolerance: float | None = None,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """The folder of a standalone model: the base with the adapter merged into its weights, tokenizer and chat template.

    The model that was written is opened again, and its logits on sample prompts are compared with those of base and
    adapter; where they differ, nothing is left at `out`. `HuggingFaceBackend` and vLLM open the folder.

    Args:
        adapter: folder that `train_expander` or PEFT made. An adapter that was trained on a base in 4 bits is merged
            into the base's full weights.
        out: folder to make; it is given back at once where it is finished.
        base: hub name or folder of the base model; None takes the one that the adapter names.
        prompts: conversations to compare logits on; None takes the q2d prompt of some queries.
        tolerance: largest relative difference of logits, |merged - (base + adapter)| / |base + adapter| over all of a
            prompt; None takes what rounding to `dtype` explains (`TOLERANCES`).
        dtype: "float32", "bfloat16", "float16"; None takes bfloat16 on a GPU and float32 on a CPU.
        device: "cuda", "cpu"; None takes cuda where there is one.
        revision: the base model's revision on the hub.
        trust_remote_code: run Python code that comes with the base model.

    Returns:
        `out`, with `merge.json`: adapter, base, the largest difference (`error`), that which the adapter makes
        (`effect`), versions.

    Raises:
        ValueError: no adapter, another base than the adapter was trained on, a difference beyond the tolerance or
            larger than the adapter's effect, or an output folder of another run.
        ImportError: peft is missing.

    Example:
        >>> merge_adapter("adapter", "merged")  # doctest: +SKIP
    """
    out, adapter = Path(out), Path(adapter)
    base = base or _base_of(adapter)
    options: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    adapted = HuggingFaceBackend(base, adapter=adapter, revision=revision, **options)
    _ = adapted.context_length  # fetches the configuration of a hub model, which tells its commit
    _check_base(adapter, model_fingerprint(base, revision))
    prompts = [render(PROMPTS["q2d"], query=query) for query in SAMPLE_QUERIES] if prompts is None else prompts
    settings = {"made_of": adapted.fingerprint(), "tolerance": tolerance, "prompts": [list(p) for p in prompts]}
    if is_finished(out, RECORD, settings):
        return out
    work = claim(out, settings)
    model = cast("PeftModel", adapted.load())
    expected = _logits(adapted, prompts)
    with model.disable_adapter():
        effect = _difference(expected, _logits(adapted, prompts))
    finished = _save_merged(adapted, work / "finished")
    adapted.close()
    error = _difference(expected, _logits(HuggingFaceBackend(finished, **options), prompts))
    kind = str(settings["made_of"]["dtype"])
    if (reason := _refusal(error, effect, TOLERANCES[kind] if tolerance is None else tolerance)) is not None:
        shutil.rmtree(work)
        raise ValueError(f"{adapter} cannot be merged in {kind}: {reason}")
    record = {"base": base, "adapter": str(adapter), "dtype": kind, "prompts": len(prompts)}
    _finish(finished, out, record | {"error": error, "effect": effect, "settings": settings})
    return out


def _base_of(adapter: Path) -> str:
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{str(adapter)!r} holds no adapter: it has no adapter_config.json")
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{file} does not name the base model: give it as base=...")
    return str(base)


def _check_base(adapter: Path, found: dict[str, Any]) -> None:
    """Raise ValueError where the adapter's record names other weights than those of the base that was found."""
    record = adapter / ADAPTER_RECORD
    if not record.is_file():
        return
    trained_on = json.loads(record.read_text(encoding="utf-8"))["settings"]["base_fingerprint"]
    for key in ("sha256", "commit"):
        if trained_on.get(key, found.get(key)) != found.get(key, trained_on.get(key)):
            raise ValueError(
                f"{adapter} was trained on another base model ({key} {trained_on[key]!r}, found {found[key]!r}): "
                "name the right one as base=..."
            )


def _logits(backend: HuggingFaceBackend, prompts: Sequence[Sequence[Message]]) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) for each prompt, float32 on the CPU."""
    import torch

    model, found = backend.load(), []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([backend.prompt_ids(prompt)], device=model.device)
            found.append(model(input_ids=ids).logits[0].float().cpu())
    return found


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The largest relative difference over the prompts; infinite where shapes differ."""
    pairs = list(zip(expected, found, strict=True))
    if any(left.shape != right.shape for left, right in pairs):
        return float("inf")
    return max(float((left - right).norm() / left.norm()) for left, right in pairs)


def _refusal(error: float, effect: float, tolerance: float) -> str | None:
    """Why a merged model with this error is not what was asked for, or None."""
    if not error <= tolerance:
        return (
            f"its logits differ from those of base and adapter by {error:.2g}, and {tolerance:.2g} is allowed (weights "
            "that modules share cannot take an adapter of one of them)"
        )
    if error > effect:
        return f"rounding changes the logits more ({error:.2g}) than the adapter does ({effect:.2g}): merge in float32"
    return None


def _save_merged(adapted: HuggingFaceBackend, folder: Path) -> Path:
    """Write the merged weights, the base's own generation settings, and the tokenizer with its chat template."""
    from transformers import GenerationConfig

    merged = cast("PeftModel", adapted.load()).merge_and_unload(safe_merge=True)
    with contextlib.suppress(OSError):  # a base without such a file gives those that end its turns
        merged.generation_config = GenerationConfig.from_pretrained(adapted.model, revision=adapted.revision)
    merged.save_pretrained(folder)
    adapted.tokenizer.save_pretrained(folder)
    return folder


def _finish(finished: Path, out: Path, record: dict[str, Any]) -> None:
    packages = ("pyterrier_expandr", "torch", "transformers", "peft")
    record = record | {"versions": {name: version(name) for name in packages}}
    (finished / "README.md").write_text(merged_card(record), encoding="utf-8")
    write_json(finished / RECORD, record)
    publish(finished, out)
