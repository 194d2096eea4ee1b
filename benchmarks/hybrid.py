"""Lexical, dense and hybrid search on several collections, without passages and with those of several LLMs.

    EXPANDR_DATA=FOLDER python -m benchmarks.hybrid [--passages COLLECTION:LLM=FILE.jsonl] [--folder KEEP] [--json FILE]

SciFact, Vaswani and PubMedQA from FOLDER, in BEIR format, and pocket; those that are missing are left out. Passages
recorded from LLMs are taken where FOLDER has some; `--passages` adds others, such as those that `expandr expand` wrote.
Each search is tested against dense, BM25 and the hybrid without passages (paired permutation test, Holm-corrected for
the number of systems). `--folder` keeps indexes and results: a rerun computes what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pyterrier_expandr.collections import pocket
from pyterrier_expandr.collections.opening import open_collection
from pyterrier_expandr.encoding import demo_encoder_folder
from pyterrier_expandr.evaluation.beir import experiment
from pyterrier_expandr.evaluation.beir_collections import Collection
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.reports.result_tables import BETTER, LEVEL, WORSE
from pyterrier_expandr.systems.names import SystemOpener

MEASURES = ["nDCG@10", "R@100"]
FOLDERS = {"SciFact": "scifact", "Vaswani": "vaswani", "PubMedQA": "pubmedqa_pqal"}
SCIFACT = {
    "Qwen2.5-7B": "query2doc.zs.Qwen2.5-7B-Instruct.7b422d71.5f6de3.jsonl",
    "Qwen2.5-72B": "query2doc.fs.Qwen2.5-72B-Instruct.0656857b.059e46.jsonl",
}
#: each search by its name for `SystemOpener`; these, without passages, are what the others are tested against
SEARCHES = {"dense": "{encoder}", "BM25": "bm25", "hybrid": "{encoder}+bm25"}
MAX_LENGTH = 256


def collections(data: Path) -> list[Collection]:
    """Those of `data` that are there, and pocket."""
    there = {name: data / folder for name, folder in FOLDERS.items() if (data / folder).is_dir()}
    return [
        *(Collection(name, lambda path=path: open_collection(str(path))) for name, path in there.items()),
        Collection("pocket", pocket()),
    ]


def passages(data: Path, collection: str, given: list[str]) -> dict[str, Path]:
    """Files of passages for a collection by the name of their LLM: recorded ones, and those that were given."""
    recorded = {name: data / "expansions" / "scifact" / file for name, file in SCIFACT.items()}
    found = {name: path for name, path in recorded.items() if collection == "SciFact" and path.is_file()}
    if collection == "pocket":
        found["recorded"] = pocket().expansions_path
    for option in given:
        where, _, rest = option.partition(":")
        name, _, file = rest.rpartition("=")
        if where == collection:
            found[name] = Path(file)
    return found


def run(data: Path, folder: Path, given: list[str]) -> list[dict[str, Any]]:
    """One row for each collection, search, LLM and measure, with its differences from the searches without passages."""
    rows = []
    opened = SystemOpener(folder / "indexes", device="cpu", encoder={"max_length": MAX_LENGTH})
    for collection in collections(data):
        kinds = {(search, "none"): spec for search, spec in SEARCHES.items()}
        for llm, file in passages(data, collection.name, given).items():
            kinds |= {(search, llm): f"{spec}+{file}" for search, spec in SEARCHES.items()}
        systems = {
            f"{search}, {llm}": opened(spec.format(encoder=demo_encoder_folder()))
            for (search, llm), spec in kinds.items()
        }
        out = folder / "results" / collection.name
        results = experiment(systems, collection, out, measures=MEASURES, indexes=folder / "indexes")
        if not results.failures.empty:
            raise RuntimeError(str(results.failures.iloc[0].tolist()))
        rows += rows_of(results, list(kinds))
    return rows


def rows_of(results: Results, kinds: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows of one collection."""
    compared = {search: results.compare(f"{search}, none", correction="holm") for search in SEARCHES}
    named = {f"{search}, {llm}": (search, llm) for search, llm in kinds}
    rows = []
    for system, collection, measure, value in results.means().itertuples(index=False, name=None):
        search, llm = named[system]
        row = {"collection": collection, "search": search, "passages": llm, "measure": measure, "value": value}
        for other, frame in compared.items():
            mine = frame[(frame["system"] == system) & (frame["measure"] == measure)]
            for difference, p in zip(mine["difference"], mine["p_corrected"], strict=True):
                row[f"against {other}"] = {"difference": difference, "p_corrected": p}
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of nDCG@10 and R@100, and of the gains in nDCG@10 over the searches without passages."""
    others = [f"against {search}" for search in SEARCHES]
    heads = ["collection", "passages", "search", *MEASURES, *(f"{other}, no passages" for other in others)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    recall = {key_of(row): row["value"] for row in rows if row["measure"] == MEASURES[1]}
    for row in (row for row in rows if row["measure"] == MEASURES[0]):
        gains = [gain(row[other]) if other in row else "" for other in others]
        cells = [*key_of(row), f"{row['value']:.4f}", f"{recall[key_of(row)]:.4f}", *gains]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def key_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """Collection, passages and search of a row."""
    return row["collection"], row["passages"], row["search"]


def gain(compared: dict[str, float]) -> str:
    """A difference with the sign of its significance.

    Example:
        >>> gain({"difference": 0.0421, "p_corrected": 0.01}), gain({"difference": -0.01, "p_corrected": 0.2})
        ('+0.042†', '-0.010')
    """
    sign = (BETTER if compared["difference"] > 0 else WORSE) if compared["p_corrected"] < LEVEL else ""
    return f"{compared['difference']:+.3f}{sign}"


def main() -> int:
    """Run, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", action="append", default=[], metavar="COLLECTION:LLM=FILE")
    parser.add_argument("--folder", type=Path, help="keep indexes and results here; a temporary folder if not given")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    with tempfile.TemporaryDirectory() as temporary:
        rows = run(data, args.folder or Path(temporary), args.passages)
    print(markdown(rows))
    if args.json:
        content = {"encoder": "all-MiniLM-L6-v2", "max_length": MAX_LENGTH, "versions": versions(), "rows": rows}
        args.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
