"""Model cards of trained expanders: what a checkpoint is and how it came about, for those who find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def adapter_card(record: dict[str, Any]) -> str:
    """The README.md of an adapter, from its record (`expander.json`)."""
    settings, pairs, lengths = record["settings"], record["pairs"], record["generation_tokens"]
    rows = [f"| {name} | {settings[name]} |" for name in sorted(settings) if not isinstance(settings[name], dict)]
    results = [
        f"| generation, mean tokens | {lengths['before']['mean']:.1f} | {lengths['after']['mean']:.1f} |",
        f"| generation, truncated | {lengths['before']['truncated']:.1%} | {lengths['after']['truncated']:.1%} |",
    ]
    if record["before"] and record["after"]:
        names = {"loss": "DPO loss", "reward_accuracy": "reward accuracy", "reward_margin": "reward margin"}
        results = [
            f"| {label} | {record['before'][name]:.4f} | {record['after'][name]:.4f} |" for name, label in names.items()
        ] + results
    return "\n".join(
        [
            _front_matter(record["base"], "peft"),
            "# Query expander, a LoRA adapter",
            "",
            "Trained by direct preference optimisation (DPO) to write passages that its dense retriever prefers, as in",
            "ExpandR (Yao et al., EMNLP 2025, Eq. 10-17). The prompt for expansions is one user message; see",
            "`pyterrier_expandr`.",
            "",
            f"Base model: `{_shown(record['base'])}`. Pairs: {pairs['training']} for training,",
            f"{pairs['held out']} held out, {sum(pairs['dropped'].values())} dropped of {pairs['read']}.",
            f"Step {record['kept_step']} of {record['steps']} was kept.",
            "",
            "| on held-out queries | before | after |",
            "|---|---|---|",
            *results,
            "",
            "| setting | value |",
            "|---|---|",
            *rows,
            "",
            _versions(record["versions"]),
        ]
    )


def merged_card(record: dict[str, Any]) -> str:
    """The README.md of a merged model, from its record (`merge.json`)."""
    return "\n".join(
        [
            _front_matter(record["base"], "transformers"),
            "# Query expander",
            "",
            f"`{_shown(record['base'])}` with the LoRA adapter `{_shown(record['adapter'])}` merged into its",
            f"weights, in {record['dtype']}. On {record['prompts']} prompts the logits differ from those of base and",
            f"adapter by {record['error']:.2g} of their size at most; the adapter changes them by"
            f" {record['effect']:.2g}.",
            "",
            _versions(record["versions"]),
        ]
    )


def _shown(model: str) -> str:
    """A hub name, or the last part of a folder's: its place on this machine means nothing elsewhere."""
    return Path(model).name if Path(model).exists() else model


def _front_matter(base: str, library: str) -> str:
    from huggingface_hub import ModelCardData

    named = None if Path(base).exists() else base
    data = ModelCardData(base_model=named, library_name=library, tags=["dpo", "lora", "expandr", "query-expansion"])
    return f"---\n{data.to_yaml()}\n---"


def _versions(versions: dict[str, str]) -> str:
    return "Made with " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".\n"
