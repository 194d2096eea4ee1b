"""Model cards for trained expanders: what a checkpoint is and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...expansion.backends.gguf import SMOLLM2, SMOLLM2_HUB
from .online.signs import gained


def adapter_card(record: dict[str, Any]) -> str:
    """The README.md of an adapter, from its record (`expander.json`)."""
    settings, pairs = record["settings"], record["pairs"]
    rows_are = "Queries" if "online" in settings else "Pairs"
    rows = [f"| {name} | {settings[name]} |" for name in sorted(settings) if name != "base_fingerprint"]
    return "\n".join(
        [
            _front_matter(record["base"], "peft", "lora", *_tags(settings)),
            "# Query expander, a LoRA adapter",
            "",
            *_method(settings),
            "",
            f"Base model: `{_shown(record['base'])}`. {rows_are}: {pairs['training']} for training,",
            f"{pairs['held out']} held out, {sum(pairs['dropped'].values())} dropped of {pairs['read']}.",
            f"Step {record['kept_step']} of {record['steps']} was kept.",
            *([f"It shows a collapse: {reason}."] if (reason := record.get("collapse")) else []),
            "",
            *_held_out(record["before"], record["after"]),
            *_generations(record["generation_words"]),
            "| setting | value |",
            "|---|---|",
            *rows,
            "",
            _versions(record["versions"]),
        ]
    )


def _method(settings: dict[str, Any]) -> list[str]:
    """The training objective of the adapter; `losses` are not recorded if they are the paper's."""
    tags = _tags(settings)
    if "online" in settings:
        name = {"grpo": "GRPO", "online-dpo": "online DPO"}[settings["method"]]
        rewards = ", ".join(settings["online"]["rewards"])
        method = f"Trained by {name} on texts that it wrote itself (rewards: {rewards})"
    elif tags == ["dpo"]:
        method = "Trained by direct preference optimisation (DPO)"
    elif "dpo" in tags:
        method = "Trained by direct preference optimisation (DPO) with a supervised loss on the chosen passages"
    else:
        method = "Fine-tuned on the chosen passages of preference pairs"
    equations = ", Eq. 10-17" if "dpo" in tags else ""
    return [
        f"{method} to write passages that its dense retriever prefers, after",
        f"ExpandR (Yao et al., EMNLP 2025{equations}). The prompt for expansions is one user message; see",
        "`pyterrier_expandr`.",
    ]


def _tags(settings: dict[str, Any]) -> list[str]:
    """What the hub calls the methods of training."""
    if "online" in settings:
        return [settings["method"]]
    names = ["sft" if name == "sft" else "dpo" for name in settings.get("losses") or ("sigmoid",)]
    return list(dict.fromkeys(names))


def _held_out(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    if not (before and after):
        return []
    if "reward" in after:
        # A run that began before a figure existed lacks it in its first row.
        names = [name for name in after if name in before and name != "tokens"]
        measured = [f"| {name} | {before[name]:.4f} | {after[name]:.4f} |" for name in names]
        chosen, failed = "queries", "**The reward did not rise: training brought nothing.**"
    else:
        measured = [f"| loss | {before['loss']:.4f} | {after['loss']:.4f} |"]
        chosen, failed = "pairs", "**The loss did not fall: training brought nothing.**"
    if "reward_margin" in after:
        measured += [
            f"| reward accuracy | - | {after['reward_accuracy']:.4f} |",
            f"| reward margin | {before['reward_margin']:.4f} | {after['reward_margin']:.4f} |",
            "",
            "Before training the model is its own reference: all rewards are 0, without accuracy (chance is 0.5).",
        ]
    else:
        measured.append("")
    return [
        f"| on held-out {chosen} | before | after |",
        "|---|---|---|",
        *measured,
        f"The same {chosen} choose the step that is kept, which flatters the figures after training a little.",
        *([] if gained(before, after) else [failed]),
        "",
    ]


def _generations(words: dict[str, Any] | None) -> list[str]:
    if words is None:
        return []
    before, after = words["before"], words["after"]
    of = f"{words['prompts']} {words['of']} prompts, at most {words['max_tokens']} tokens"
    return [
        f"| generations for {of} | before | after |",
        "|---|---|---|",
        f"| mean words | {before['mean']:.1f} | {after['mean']:.1f} |",
        f"| truncated | {before['truncated']:.1%} | {after['truncated']:.1%} |",
        "",
    ]


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
    """A hub name, or the last part of a folder's path, since the full path means nothing on other machines."""
    return Path(model).name if Path(model).exists() else model


def _front_matter(base: str, library: str, *tags: str) -> str:
    from huggingface_hub import ModelCardData

    named = None if Path(base).exists() else SMOLLM2_HUB if base == SMOLLM2 else base
    data = ModelCardData(base_model=named, library_name=library, tags=[*tags, "expandr", "query-expansion"])
    return f"---\n{data.to_yaml()}\n---"


def _versions(versions: dict[str, str]) -> str:
    return "Made with " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".\n"
