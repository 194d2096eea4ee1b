"""The report of a retriever training: loss curve, scores, and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: the name of the held-out score in the trainer's log
DEV_SCORE = "eval_dev_dot_ndcg@10"


def steps(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """`step`, `loss` and, if held-out queries were evaluated, `ndcg@10`: one entry per step; 0 is before training.

    Example:
        >>> steps([{"step": 0, "eval_dev_dot_ndcg@10": 0.5}, {"step": 1, "loss": 2.0}])
        [{'step': 0, 'ndcg@10': 0.5}, {'step': 1, 'loss': 2.0}]
    """
    found: dict[int, dict[str, float]] = {}
    for entry in history:
        for name, short in (("loss", "loss"), (DEV_SCORE, "ndcg@10")):
            if name in entry:
                found.setdefault(int(entry["step"]), {"step": int(entry["step"])})[short] = float(entry[name])
    return [found[step] for step in sorted(found)]


def scores(history: list[dict[str, Any]]) -> dict[str, Any]:
    """`steps` made, `kept_step`, and the held-out nDCG@10 `before` training and `after` that step; None without any.

    Example:
        >>> scores([{"step": 0, "eval_dev_dot_ndcg@10": 0.5}, {"step": 4, "eval_dev_dot_ndcg@10": 0.7}])
        {'steps': 4, 'kept_step': 4, 'before': 0.5, 'after': 0.7}
    """
    measured = {entry["step"]: entry["ndcg@10"] for entry in steps(history) if "ndcg@10" in entry}
    made = max((int(entry["step"]) for entry in history), default=0)
    # Ties go to the first, and never to the untrained model, which has no checkpoint.
    kept = max((step for step in measured if step), key=lambda step: measured[step], default=made)
    return {"steps": made, "kept_step": kept, "before": measured.get(0), "after": measured.get(kept)}


def card(record: dict[str, Any], model: SentenceTransformer) -> str:
    """The README.md of a trained encoder, from its record (`retriever.json`)."""
    from huggingface_hub import ModelCardData

    settings = record["settings"]
    base = Path(record["base"]).name if Path(record["base"]).exists() else record["base"]
    data = ModelCardData(
        base_model=None if Path(record["base"]).exists() or "/" not in record["base"] else record["base"],
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["expandr", "dense-retrieval", "query-expansion"],
    )
    how = {
        "raw": "Not trained: the base model, with the profile's pooling and normalisation.",
        "ft": "Trained contrastively on queries alone.",
        "expandr": "Trained contrastively on queries fused with their expansions by an LLM (ExpandR, Eq. 6-9).",
    }[settings["stage"]]
    shown = {name: value for name, value in settings.items() if not isinstance(value, dict) and value is not None}
    lines = [
        f"---\n{data.to_yaml()}\n---",
        "# Dense retriever",
        "",
        how,
        f"Base model: `{base}`. Data: `{Path(record['source']).name}`: "
        + ", ".join(f"{count} {name}" for name, count in record["data"].items())
        + f". Step {record['kept_step']} of {record['steps']} was kept.",
        "",
        "```python",
        "from pyterrier_expandr import ExpandREncoder",
        "",
        'encoder = ExpandREncoder("FOLDER OR NAME OF THIS MODEL")',
        "```",
        "",
        "```",
        str(model),
        "```",
        "",
        "| nDCG@10 of held-out queries, over the held-out documents | |",
        "|---|---|",
        *(f"| {name} | {_score(record[name])} |" for name in ("before", "after")),
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {shown[name]!r} |" for name in sorted(shown)),
        "",
        "Made with " + ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".\n",
    ]
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
