"""How much damage is noticed, and how many hostile inputs give a raw error.

    python -m benchmarks.damage [--copies 200] [--inputs 1000] [--json FILE]

For each artefact, copies with one file damaged (a bit flipped, cut, cut at a line's end, a block of zeros, emptied,
removed, bytes put in, halves exchanged) are opened as a user would, each at a place of its own, and checked with
`expandr verify`. For each reader, mutated files and names are read; a raw error is one that is not a sentence of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.tiny import build_tiny_llama
from tests.trust.damage import artefacts, try_damage
from tests.trust.fuzzing import fuzz
from tests.trust.targets import targets

#: opening an adapter takes a tenth of a second, other inputs milliseconds
SLOW = {"adapter, opened"}


def measure(copies: int = 200, inputs: int = 1000) -> list[dict[str, Any]]:
    """One row for each artefact (`copies`, `noticed at opening`, `noticed by verify`) and each reader (`inputs`)."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="expandr-damage-") as name:
        folder = Path(name)
        os.environ["EXPANDR_CACHE"] = str(folder / "cache")
        build_tiny_llama(folder / "llama")
        (folder / "whole").mkdir()
        for number, artefact in enumerate(artefacts(folder / "whole", str(folder / "llama"))):
            rows.append(try_damage(artefact, folder / f"copies{number}", copies))
        (folder / "fuzz").mkdir()
        for reader, (strategy, run) in targets(folder / "fuzz", str(folder / "llama")).items():
            tried, raw = fuzz(strategy, run, max(1, inputs // 20) if reader in SLOW else inputs)
            rows.append({"reader": reader, "inputs": tried, "raw errors": len(raw), "examples": raw[:3]})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as two Markdown tables."""
    lines = [
        "| artefact | damaged copies | noticed at opening | noticed by verify | raw errors |",
        "|---|---|---|---|---|",
    ]
    names = ("artefact", "copies", "noticed at opening", "noticed by verify", "raw errors")
    lines += [
        f"| {' | '.join('-' if row[n] is None else str(row[n]) for n in names)} |" for row in rows if "artefact" in row
    ]
    lines += ["", "| reader | inputs | raw errors |", "|---|---|---|"]
    lines += [f"| {row['reader']} | {row['inputs']} | {row['raw errors']} |" for row in rows if "reader" in row]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = measure(given.copies, given.inputs)
    print(table(rows))
    for row in rows:
        for example in row["examples"]:
            print(f"{row.get('artefact') or row.get('reader')}: {example}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
