"""Writes the README's results from the files in docs/results, so that no figure is typed by hand.

    python -m benchmarks.report [--check]

`--check` changes nothing and fails where the README is not what the files say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pyterrier_expandr.report import BETTER, LEVEL, WORSE

ROOT = Path(__file__).parent.parent
RESULTS, README = ROOT / "docs" / "results", ROOT / "README.md"
BEGIN, END = "<!-- results: written by benchmarks.report -->", "<!-- end of results -->"


def scifact_table() -> str:
    """The measured scores, one line for each system; signs say what differs significantly from the baseline."""
    measured = json.loads((RESULTS / "scifact.json").read_text())
    rows = measured["rows"]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells = {(row["system"], row["measure"]): f"{row['measured']:.4f}{_sign(row)}" for row in rows}
    lines = [f"| system | {' | '.join(measures)} |", "|---|" + "---|" * len(measures)]
    lines += [f"| {system} | {' | '.join(cells[system, measure] for measure in measures)} |" for system in systems]
    note = (
        f"{BETTER} better, {WORSE} worse than {measured['baseline']} with p < {LEVEL} (paired permutation test, "
        f"{measured['correction'].capitalize()}-corrected for the number of systems)."
    )
    return "\n".join([*lines, "", note])


def _sign(row: dict[str, Any]) -> str:
    if row.get("p_corrected", 1) >= LEVEL:
        return ""
    return BETTER if row["difference"] > 0 else WORSE


def speed_table() -> str:
    """The speed of the package as a ratio to a named peer, both measured in one run."""
    measured = json.loads((RESULTS / "speed.json").read_text())
    lines = ["| compared, and in what unit | ours | theirs | ratio |", "|---|---|---|---|"]
    for row in measured["rows"]:
        values = f"{row['ours']:.3f} | {row['theirs']:.3f} | {row['ratio']:.2f}"
        lines.append(f"| {row['what']} ({row['unit']}) | {values} |")
    machine = measured["machine"]
    return "\n".join([*lines, "", f"({machine['cpus']} cores, {machine['processor']}, no GPU.)"])


def readme() -> str:
    """The README with its results replaced by what the files say."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{scifact_table()}\n\n{speed_table()}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write or check; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        return int(readme() != README.read_text(encoding="utf-8"))
    README.write_text(readme(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
