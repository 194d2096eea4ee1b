"""The model card of a student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def card(record: Mapping[str, Any]) -> str:
    """The README.md of a student, from its record (`student.json`)."""
    from huggingface_hub import ModelCardData

    teacher = record["teacher"]["model"]
    name = Path(teacher).name if Path(teacher).exists() else teacher
    data = ModelCardData(
        base_model=None if Path(teacher).exists() or "/" not in teacher else teacher,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["expandr", "dense-retrieval", "query-expansion", "distillation"],
    )
    counts = ", ".join(f"{count} {what}" for what, count in record["data"].items())
    settings = {key: value for key, value in record["settings"].items() if not isinstance(value, dict)}
    closeness = record["closeness"]
    lines = [
        f"---\n{data.to_yaml()}\n---",
        "# Dense retriever for queries without an LLM",
        "",
        f"The query side was trained to place a query alone where `{name}` places it together with passages that an",
        f"LLM wrote for it. The document side is that of `{name}`, whose indexes this encoder searches.",
        f"Data: {counts}. Mean cosine to the targets: {closeness['before']:.4f} before training, "
        f"{closeness['after']:.4f} after.",
        "",
        "```python",
        "from pyterrier_expandr import ExpandREncoder",
        "",
        'encoder = ExpandREncoder("FOLDER OR NAME OF THIS MODEL")',
        "```",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {settings[key]!r} |" for key in sorted(settings)),
        "",
        "Made with " + ", ".join(f"{package} {number}" for package, number in record["versions"].items()) + ".\n",
    ]
    return "\n".join(lines)
