"""Cards for the hub: what a data set or an index is, how it was made, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAIRS = """Each row holds two passages that one LLM wrote for one query: the one that helps dense retrieval most, and
the one that helps least, by two rewards (ExpandR, Yao et al., EMNLP 2025, Eq. 11 to 16). The rows are TRL's: `prompt`,
`chosen`, `rejected`."""
EXPANSIONS = """Each row holds one query and the passages that a language model wrote for it, to be fused with the query
in dense retrieval (ExpandR) or added to its words."""
WRITTEN = """All passages were written by a language model and may be wrong. Queries and documents keep the licence of
their source."""
VECTORS = """Whoever has an index has the ids and vectors of the documents, and texts can be guessed from vectors: share
it only if you may share the collection."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def size_category(rows: int) -> str:
    """The hub's word for a number of rows.

    Example:
        >>> size_category(300), size_category(30_000)
        ('n<1K', '10K<n<100K')
    """
    return next((word for limit, word in SIZES if rows < limit), "n>1M")


def pairs_card(record: Mapping[str, Any], file: str, repo: str, license: str | None) -> str:
    """The README.md of preference pairs, from the record of the run that made them (`pairs.json`)."""
    report, settings = record["report"], record["settings"]
    words = report["mean_words"]
    facts = {
        "pairs": report["pairs"],
        "queries": report["queries"],
        "mean words, chosen": words["chosen"],
        "mean words, rejected": words["rejected"],
        **{f"queries without a pair: {reason}": count for reason, count in report["dropped"].items() if count},
        "source": settings["source"],
        "LLM": _model(settings["llm"]),
        "reward encoder": _model(settings["encoder"]),
        **settings["candidates"],
        **settings["preferences"],
    }
    return _card(
        _dataset(report["pairs"], file, ["dpo", "preference", "query-expansion"], ["text-generation"], license),
        "Preference pairs for query expansion",
        PAIRS,
        f'from datasets import load_dataset\n\npairs = load_dataset("{repo}", split="train")',
        facts,
        WRITTEN,
        record["versions"],
    )


def expansions_card(records: Iterable[Any], file: str, repo: str, about: Mapping[str, Any], license: str | None) -> str:
    """The README.md of recorded expansions, from the records in their file and from what is known `about` them."""
    lists = [record.passages for record in records]
    texts = [text for passages in lists for text in passages]
    facts = {
        "queries": len(lists),
        "passages": len(texts),
        "mean words": sum(len(text.split()) for text in texts) / max(1, len(texts)),
        **{name: _model(value) if name == "model" else value for name, value in about.items() if name != "versions"},
    }
    return _card(
        _dataset(len(lists), file, ["query-expansion"], ["text-retrieval"], license),
        "Recorded query expansions",
        EXPANSIONS,
        f'from pyterrier_expandr import RecordedExpander\n\nexpander = RecordedExpander.from_hub("{repo}")',
        facts,
        WRITTEN,
        about.get("versions", {}),
    )


def artefact_card(artefact: Any, record: Mapping[str, Any], repo: str, license: str | None) -> str:
    """The README.md of an index or a system, from its record; what is nested in it is told one by one."""
    kind, form = artefact.ARTIFACT_TYPE, artefact.ARTIFACT_FORMAT
    name = type(artefact).__name__
    told = {name: value for name, value in record.items() if name not in ("versions", "format_version", "files")}
    hidden = ("sha256", "bytes")
    facts = {place: value for place, value in _flat(told) if value is not None and not place.endswith(hidden)}
    tags = ["pyterrier", "pyterrier-artifact", f"pyterrier-artifact.{kind}", f"pyterrier-artifact.{kind}.{form}"]
    return _card(
        {"license": license, "tags": tags, "task_categories": ["text-retrieval"], "viewer": False},
        f"{kind.replace('_', ' ').capitalize()} ({name})",
        f"A PyTerrier artefact, to be opened by `pyterrier_expandr.{name}`.",
        f'from pyterrier_expandr import {name}\n\nopened = {name}.from_hf("{repo}")',
        facts,
        VECTORS,
        record.get("versions", {}),
    )


def _dataset(rows: int, file: str, tags: list[str], tasks: list[str], license: str | None) -> dict[str, Any]:
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}]
    return {
        "license": license,
        "tags": ["pyterrier", "expandr", *tags],
        "task_categories": tasks,
        "size_categories": [size_category(rows)],
        "configs": configs,
    }


def _card(
    front: Mapping[str, Any],
    title: str,
    what: str,
    code: str,
    facts: Mapping[str, Any],
    limits: str,
    versions: Mapping[str, str],
) -> str:
    from huggingface_hub import CardData

    data = CardData(**{name: value for name, value in front.items() if value is not None})
    lines = [f"---\n{data.to_yaml()}\n---", f"# {title}", "", what, "", "```python", code, "```", ""]
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items()),
        "",
        limits,
    ]
    if versions:
        lines += ["", "Made with " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "."]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    """A value on one line of a table: numbers short, paths of this machine by their last part."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and Path(value).is_absolute():
        value = Path(value).name
    return " ".join(str(value).replace("|", "\\|").split())


def _model(described: Any) -> str:
    """The name in the description of a model; a hash where a folder gives no name."""
    if not isinstance(described, Mapping):
        return str(described)
    name = described.get("model") or described.get("name") or described.get("sha256", "unknown")
    return Path(name).name if Path(name).is_absolute() else str(name)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", value
