"""Merges a LoRA adapter into a standalone model and checks it against base and adapter."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...common.extras import check_installed
from ...common.files import path_of
from ...common.fingerprint import model_fingerprint, pinned_revision
from ...common.records.manifest import write_record
from ...expansion.backends.base import Message
from ...expansion.backends.gguf import resolve_llm
from ...expansion.backends.huggingface import HuggingFaceBackend
from ...expansion.prompts import PROMPTS, render
from ..run_folder import is_finished, one_run
from ..setting_checks import check_number
from .model_card import merged_card
from .train import RECORD as ADAPTER_RECORD

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

#: the file in the merged model's folder that records how it was made
RECORD = "merge.json"

#: largest allowed relative difference of logits, by the dtype to which the weights are rounded
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}

#: queries used for the check unless the caller gives prompts
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

    Weights are added in float32, which takes 4 bytes of memory per weight, and then rounded to `dtype`. The saved model
    is reopened and its logits on sample prompts are compared with those of base and adapter, both computed in float32
    so that only the rounding of the weights shows. If they differ too much, nothing is left at `out`.
    `HuggingFaceBackend` and vLLM can open the folder.

    Args:
        adapter: folder created by `train_expander` or PEFT. An adapter that was trained on a 4-bit base is merged into
            the base's full-precision weights.
        out: folder to create; if it is already complete, it is returned immediately.
        base: hub name or folder of the base model; None means the one named by the adapter.
        prompts: conversations to compare logits on; None means the q2d prompt for a few queries.
        tolerance: largest allowed relative difference of logits, `|merged - (base + adapter)| / |base + adapter|` over
            a whole prompt; None means what rounding to `dtype` explains (`TOLERANCES`).
        dtype: of the merged weights, "float32", "bfloat16" or "float16"; None means bfloat16 on a GPU and float32 on
            a CPU.
        device: "cuda" or "cpu"; None means cuda if available.
        revision: the base model's revision on the hub; None means the one the adapter was trained on.
        trust_remote_code: run Python code shipped with the base model. An adapter's record cannot switch this on.

    Returns:
        `out`, with `merge.json`: adapter, base, the largest difference (`error`), the difference made by the
        adapter (`effect`), and versions.

    Raises:
        InUseError: another process is writing `out`.
        ValueError: no adapter, a base other than the one the adapter was trained on, no prompts, an unknown dtype, a
            difference above the tolerance or half of the adapter's effect, or an output folder of another run.
        ImportError: peft is missing.

    Example:
        >>> merge_adapter("adapter", "merged")  # doctest: +SKIP
    """
    check_installed("an adapter", "train", "peft")
    out, adapter = Path(path_of(out)), Path(path_of(adapter))
    prompts = [render(PROMPTS["q2d"], query=query) for query in SAMPLE_QUERIES] if prompts is None else prompts
    _check(prompts, tolerance, dtype)
    trained_on = _record(adapter)
    base = base or _base_of(adapter)
    if revision is None and resolve_llm(base) == resolve_llm(trained_on.get("base", base)):
        revision = trained_on.get("settings", {}).get("revision")
    options: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    adapted = HuggingFaceBackend(base, adapter=adapter, revision=revision, **options)
    _ = adapted.context_length  # fetches the configuration of a hub model, which contains its commit
    _check_base(adapter, trained_on, model_fingerprint(adapted.place, revision))
    settings = {"made_of": adapted.fingerprint(), "tolerance": tolerance, "prompts": [list(p) for p in prompts]}
    kind = str(settings["made_of"]["dtype"])
    record = {"base": base, "adapter": str(adapter), "dtype": kind, "prompts": len(prompts)}
    with one_run(out):
        if is_finished(out, RECORD, settings):
            return out
        with _work_folder(out) as work:
            expected, effect = _merge(adapted, kind, prompts, work)
            gc.collect()  # models contain reference cycles, and two models may not fit in memory
            error = _difference(expected, _logits(HuggingFaceBackend(work, **options), prompts))
            if (reason := _refusal(error, effect, TOLERANCES[kind] if tolerance is None else tolerance)) is not None:
                raise ValueError(f"{adapter} cannot be merged in {kind}: {reason}")
            _describe(work, record | {"error": error, "effect": effect, "settings": settings})
            work.rename(out)
    return out


def _check(prompts: Sequence[Sequence[Message]], tolerance: float | None, dtype: str | None) -> None:
    if not prompts:
        raise ValueError("prompts must contain at least one conversation: the merged model is checked on them")
    if tolerance is not None:
        check_number("tolerance", tolerance, least=0)
    if dtype is not None and dtype not in TOLERANCES:
        raise ValueError(f"dtype must be one of {sorted(TOLERANCES)}, got {dtype!r}")


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A temporary folder next to `out`; leftovers of an interrupted merge are removed first."""
    work = out.with_name(out.name + ".merging")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _base_of(adapter: Path) -> str:
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{str(adapter)!r} is not an adapter: it has no adapter_config.json")
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{file} does not name the base model: pass it as base=...")
    return str(base)


def _record(adapter: Path) -> dict[str, Any]:
    """The record that `train_expander` wrote for an adapter; empty for adapters from elsewhere."""
    file = adapter / ADAPTER_RECORD
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _check_base(adapter: Path, record: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise ValueError if the adapter was trained on a base whose weights differ from those found."""
    trained_on = record.get("settings", {}).get("base_fingerprint", {})
    for key in ("sha256", "gguf_sha256", "commit"):
        if trained_on.get(key, found.get(key)) != found.get(key, trained_on.get(key)):
            raise ValueError(
                f"{adapter} was trained on another base model ({key} {trained_on[key]!r}, but found {found[key]!r}): "
                "pass the right one as base=..."
            )


def _merge(
    adapted: HuggingFaceBackend, dtype: str, prompts: Sequence[Sequence[Message]], folder: Path
) -> tuple[list[torch.Tensor], float]:
    """Write the merged model to `folder`; return base + adapter logits and how much the adapter changes them."""
    expected = _logits(adapted, prompts)
    with cast("PeftModel", adapted.load()).disable_adapter():
        effect = _difference(expected, _logits(adapted, prompts))
    _save_merged(adapted, dtype, folder)
    adapted.close()
    return expected, effect


def _logits(backend: HuggingFaceBackend, prompts: Sequence[Sequence[Message]]) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) for each prompt, on the CPU; computed in float32 whatever the weights' dtype."""
    import torch

    model, found = backend.load().float(), []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([backend.prompt_ids(prompt)], device=model.device)
            found.append(model(input_ids=ids).logits[0].cpu())
    return found


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The largest relative difference over the prompts; infinite if shapes differ."""
    pairs = list(zip(expected, found, strict=True))
    if any(left.shape != right.shape for left, right in pairs):
        return float("inf")
    return max(float((left - right).norm() / left.norm()) for left, right in pairs)


def _refusal(error: float, effect: float, tolerance: float) -> str | None:
    """The reason to reject a merged model with this error, or None."""
    if not error <= tolerance:
        return (
            f"its logits differ from those of base and adapter by {error:.2g}, but only {tolerance:.2g} is allowed "
            "(weights shared by several modules cannot take an adapter of only one of them)"
        )
    if error > effect / 2:  # if rounding removes everything the adapter does, the two are equal
        return (
            f"rounding changes the logits by {error:.2g}, more than half of the adapter's own effect ({effect:.2g}): "
            "merge and serve in float32, or serve base and adapter without merging"
        )
    return None


def _save_merged(adapted: HuggingFaceBackend, dtype: str, folder: Path) -> None:
    """Write the merged weights, the base's own generation settings, and the tokenizer with its chat template."""
    import torch
    from transformers import GenerationConfig

    merged = cast("PeftModel", adapted.load()).merge_and_unload(safe_merge=True).to(getattr(torch, dtype))
    with contextlib.suppress(OSError):  # a base without such a file supplies its end-of-turn tokens
        merged.generation_config = GenerationConfig.from_pretrained(
            adapted.opened, revision=pinned_revision(adapted.place, adapted.revision)
        )
    merged.save_pretrained(folder)
    adapted.tokenizer.save_pretrained(folder)


def _describe(folder: Path, record: dict[str, Any]) -> None:
    packages = ("pyterrier_expandr", "torch", "transformers", "peft")
    record = record | {"versions": {name: version(name) for name in packages}}
    (folder / "README.md").write_text(merged_card(record), encoding="utf-8")
    write_record(folder / RECORD, record)
