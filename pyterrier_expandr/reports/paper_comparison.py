"""The paper's numbers next to ours: what they are, and whether the settings match."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..encoding.models.catalogue import ENCODERS
from ..evaluation.averages import AVERAGES, FORUMS
from ..evaluation.beir_collections import SOURCES
from ..evaluation.cell_files import CELL
from ..evaluation.result_store import cell_folder
from ..evaluation.results import Results
from .paper import CAPPED_RECALL, PaperRow, inconsistencies, paper_row

#: rows of the paper whose retriever was not trained further; in all others with a slash in their name it was
UNTRAINED = ("Raw", "Query", "query", "vanilla", "w/o Retriever Training")

#: rows whose checkpoint the paper does not name, so which one it is can only be claimed
UNNAMED = ("coCondenser", "E5", "Nomic-Embed")

#: the signs for differing settings, and for settings that were not recorded
UNLIKE, STATED = "≠", "°"


@dataclass(frozen=True)
class Setting:
    """What an experiment recorded about one system on one collection.

    Attributes:
        n_queries: number of judged queries that were evaluated.
        standard_queries: number of judged queries in the standard split of that collection; None if it has none.
        encoder: hub id or folder of the encoder; None if none is recorded.
    """

    n_queries: int
    standard_queries: int | None
    encoder: str | None


@dataclass(frozen=True)
class Beside:
    """A value from the paper next to one of ours.

    Attributes:
        value: in percent.
        places: number of decimal places that the paper prints.
        unlike: known differences in the settings.
        stated: no record identifies our retriever; that it is the paper's is only the user's claim.
    """

    value: float
    places: int
    unlike: tuple[str, ...]
    stated: bool


def beside_paper(name: str, measure: str, settings: Mapping[str, Setting]) -> dict[str, Beside]:
    """The paper's values to set beside one system's: collection (or average) -> `Beside`, if the paper prints one.

    Two numbers are comparable if measure, collection and queries are the same and the encoder is the retriever that the
    paper's row names, trained further or not as there. If the record of the system cannot tell (a folder of
    trained weights), the report's author is taken at their word. LLM and sampling may differ in any case.

    Args:
        name: a row of the paper, see `paper_row`.
        measure: the measure of the table.
        settings: collection -> setting of the system; averages take those of their members.

    Raises:
        ValueError: the paper has no such row.

    Example:
        >>> beside_paper("BM25", "nDCG@10", {"SciFact": Setting(809, 300, None)})["SciFact"].unlike
        ('809 queries evaluated, 300 in the standard split',)
    """
    row = paper_row(name, measure)
    if row is None:
        return {}
    found = {
        collection: Beside(row.values[collection], row.places, *_compare(row, collection, setting))
        for collection, setting in settings.items()
        if collection in row.values
    }
    bad = inconsistencies()
    wrong: dict[tuple[int, str, str], str] = {
        (table, system, average): verdict
        for table, system, average, verdict in zip(
            bad["table"], bad["system"], bad["average"], bad["verdict"], strict=True
        )
    }
    for average in row.values:
        if not average.startswith("Avg"):
            continue
        members = AVERAGES.get(average) or [each for each in row.values if not each.startswith("Avg")]
        # "Avg" (Table 3) is over the collections present: unless they are the same, it is a different number.
        if not set(members) <= set(found) or (average == "Avg" and set(members) != set(settings)):
            continue
        unlike = [reason for member in members for reason in found[member].unlike]
        if verdict := wrong.get((row.table, row.system, average)):
            unlike.append(f"the paper's own average contradicts its rows ({verdict})")
        stated = any(found[member].stated for member in members)
        found[average] = Beside(row.values[average], row.places, tuple(dict.fromkeys(unlike)), stated)
    return found


def _compare(row: PaperRow, collection: str, setting: Setting) -> tuple[tuple[str, ...], bool]:
    """How two settings differ, and whether the retriever is only claimed."""
    unlike = []
    if setting.standard_queries is None:
        unlike.append("not a collection of the paper, whatever its name")
    elif setting.n_queries != setting.standard_queries:
        unlike.append(f"{setting.n_queries} queries evaluated, {setting.standard_queries} in the standard split")
    if (row.table, row.system, collection) in CAPPED_RECALL:
        unlike.append("the paper prints capped recall here")
    wanted, checkpoints = _retriever_of(row), _checkpoints()
    named = checkpoints.get(setting.encoder or "")
    # Any checkpoint may be a trained one; an untrained retriever with a known checkpoint must be that one.
    known = named is not None or (setting.encoder is not None and wanted in checkpoints.values())
    if known and named != wanted:
        unlike.append(f"the encoder is {setting.encoder}, the paper's is {wanted}")
    return tuple(unlike), not known


def _retriever_of(row: PaperRow) -> str:
    """The retriever of a row: "Contriever" if it was not trained further, else "Contriever/ExpandR" or the like."""
    if row.table == 5 and row.system == "ExpandR":
        return "AnchorDR/ExpandR"
    retriever, _, training = row.system.partition("/")
    return retriever if row.table == 8 or training in UNTRAINED else row.system


def _checkpoints() -> dict[str, str]:
    """Hub id -> what the paper calls it: "Contriever", or "AnchorDR/ExpandR" for the released retriever."""
    names = {entry.model: entry.paper.partition(", ")[2] for entry in ENCODERS.values() if entry.model and entry.paper}
    return {model: name for model, name in names.items() if name not in UNNAMED}


def standard_queries(collection: str) -> int | None:
    """The number of judged queries in a collection's standard split; None if it is not one of the paper's.

    Example:
        >>> standard_queries("SciFact"), standard_queries("pocket")
        (300, None)
    """
    import ir_datasets

    if collection == "CQADupStack":
        return sum(standard_queries(forum) or 0 for forum in FORUMS)
    if collection not in SOURCES:
        return None
    _, name, _ = SOURCES[collection]
    return int(ir_datasets.load(name).metadata()["queries"]["count"])


def settings_of(results: Results, system: str) -> dict[str, Setting]:
    """What was recorded about one system on each collection; the sub-forums of CQADupStack together."""
    done = results.cells[(results.cells["system"] == system) & (results.cells["state"] == "done")]
    counts = dict(zip(done["collection"], done["n_queries"].astype(int), strict=True))
    settings = {}
    for collection in results.collections:
        parts = FORUMS if collection == "CQADupStack" else (collection,)
        if set(parts) <= set(counts):
            queries = sum(counts[part] for part in parts)
            encoder = _encoder(results, system, parts[0])
            settings[collection] = Setting(queries, standard_queries(collection), encoder)
    return settings


def _encoder(results: Results, system: str, collection: str) -> str | None:
    """The hub id of the encoder that read the queries, as the cell's record describes the pipeline."""
    record = json.loads((cell_folder(results.folder, system, collection) / CELL).read_text(encoding="utf-8"))
    return _hub_id(record.get("pipeline"))


def _hub_id(part: Any) -> str | None:
    """The first encoder of queries in what `describe_pipeline` says, if it came from the hub."""
    if isinstance(part, dict) and part.get("view") == "QueryEncoder":
        name: str | None = part["encoder"].get("model")
        return name
    parts = part if isinstance(part, list) else []
    return next((found for each in parts if (found := _hub_id(each))), None)
