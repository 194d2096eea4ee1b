"""Writes the results in the README and in docs from the files in docs/results, so that no figure is typed by hand.

    python -m benchmarks.report [--check]

`--check` changes nothing and fails where a page is not what the files say.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import encoding, expander_laboratory, expander_table, hybrid, recipe_table, scale, scale_plan, student
from benchmarks.expander_attempts import CHOSEN
from benchmarks.markdown import table
from pyterrier_expandr.reports.result_tables import BETTER, LEVEL, WORSE

ROOT = Path(__file__).parent.parent
RESULTS, README, ENGINES = ROOT / "docs" / "results", ROOT / "README.md", ROOT / "docs" / "backends.md"
HYBRID, STUDENT, SCALE, TRAINING, ONLINE = (
    ROOT / "docs" / f"{name}.md" for name in ("hybrid", "student", "scale", "expander_training", "online")
)
BEGIN, END = "<!-- results: written by benchmarks.report -->", "<!-- end of results -->"


def scifact_table() -> str:
    """The measured scores, one line for each system; signs say what differs significantly from the baseline."""
    measured = json.loads((RESULTS / "scifact.json").read_text())
    rows = measured["rows"]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells = {(row["system"], row["measure"]): f"{row['measured']:.4f}{sign(row)}" for row in rows}
    lines = [[system, *(cells[system, measure] for measure in measures)] for system in systems]
    note = (
        f"{BETTER} better, {WORSE} worse than {measured['baseline']} with p < {LEVEL} (paired permutation test, "
        f"{measured['correction'].capitalize()}-corrected for the number of systems)."
    )
    return f"{table(['system', *measures], lines)}\n\n{note}"


def sign(row: dict[str, Any]) -> str:
    """The dagger of a row with `difference` and `p_corrected`, or nothing where it is not significant."""
    if row.get("p_corrected", 1) >= LEVEL:
        return ""
    return BETTER if row["difference"] > 0 else WORSE


def training_table(rows: list[dict[str, Any]]) -> str:
    """What training did to the passages of a small LLM on the test queries, and whether that is what it was to do."""
    computed = (expander_table.PROOF, (None, None))  # no LLM touched the query alone
    shown = {"query alone"} | {f"{name}{way}" for name in ("base", CHOSEN) for way in expander_laboratory.WAYS}
    here = [row for row in rows if row["queries"] == "SciFact" and expander_table.arithmetic_of(row) in computed]
    proof = [row for row in here if row["attempt"] in shown]
    weight = f"weight {expander_laboratory.WEIGHT}"
    hidden = (
        "queries",
        "computed in",
        weight,
        "similarity, p",
        "words",
        "equal lengths, p",
        "accuracy, p",
        "tokens",
        "seconds",
    )
    verdict = "reached" if expander_table.reached(rows) else "not reached as a whole"
    return (
        "The same queries with passages that SmolLM2-135M writes, before and after training by DPO with the setting "
        "that the development queries chose:\n\n"
        f"{expander_table.markdown(proof, hidden)}\n\n"
        f"The target is {verdict}: {expander_table.TARGET} above the base with p < {expander_table.LEVEL} in each of "
        f"{expander_table.SEEDS} seeds, and not below the query alone ([more](docs/expander_training.md)).\n\n"
        "All methods of training ([which is worth its price](docs/online.md)):\n\n"
        f"{expander_table.methods(rows)}"
    )


def speed_table() -> str:
    """The speed of the package as a ratio to a named peer, both measured in one run."""
    measured = json.loads((RESULTS / "speed.json").read_text())
    lines = [
        [f"{row['what']} ({row['unit']})", f"{row['ours']:.3f}", f"{row['theirs']:.3f}", f"{row['ratio']:.2f}"]
        for row in measured["rows"]
    ]
    machine = measured["machine"]
    compared = table(["compared, and in what unit", "ours", "theirs", "ratio"], lines)
    return f"{compared}\n\n({machine['cpus']} cores, {machine['processor']}, no GPU.)"


def generation_tables() -> str:
    """What each backend did in one run: speed, time to the first result, memory; then the ratios that have a target."""
    measured = json.loads((RESULTS / "generation.json").read_text())
    systems = [
        [
            row["system"],
            f"{row['tokens_per_second']:.0f}",
            f"{row['first_result_seconds']:.2f}",
            f"{row['memory_mib']:.0f}",
        ]
        for row in measured["systems"]
    ]
    ratios = [[row["what"], f"{row['ratio']:.2f}", f"{row['target']}"] for row in measured["rows"]]
    tables = [
        table(["backend", "tokens/s", "first result, s", "memory, MiB"], systems),
        table(["compared", "ratio of tokens/s", "to reach"], ratios),
    ]
    settings, versions = measured["settings"], measured["versions"]
    work = f"{settings['queries']} queries, {settings['samples']} samples of {settings['tokens']} tokens each"
    place = f"{measured['machine']['cpus']} cores, {settings['threads']} thread(s) of torch"
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    note = f"({work}; the server is {settings['server']} with {settings['concurrency']} connections; {place}; {named}.)"
    return "\n\n".join([*tables, note])


def filled(path: Path, *blocks: str) -> str:
    """A page with its results replaced by `blocks`, in their order."""
    before, *parts = path.read_text(encoding="utf-8").split(BEGIN)
    new = (f"{BEGIN}\n\n{block}\n\n{END}{part.split(END)[1]}" for block, part in zip(blocks, parts, strict=True))
    return "".join([before, *new])


def scale_blocks() -> list[str]:
    """Speed of encoders, indexes of growing size, and the plans that are worked out from both."""
    found = json.loads((RESULTS / "encoding.json").read_text())
    cells = json.loads((RESULTS / "scale.json").read_text())["cells"]
    return [encoding.markdown(found), scale.markdown(cells), *scale_plan.blocks()]


def pages() -> dict[Path, str]:
    """Each page with results, as the files say it."""
    trained = json.loads((RESULTS / "expander_effect.json").read_text())["rows"]
    recipe = json.loads((RESULTS / "recipe_smollm2.json").read_text())
    return {
        README: filled(README, "\n\n".join([scifact_table(), training_table(trained), speed_table()])),
        TRAINING: filled(TRAINING, recipe_table.markdown(recipe), expander_table.markdown(trained)),
        ONLINE: filled(ONLINE, expander_table.methods(trained)),
        ENGINES: filled(ENGINES, generation_tables()),
        HYBRID: filled(HYBRID, hybrid.markdown(json.loads((RESULTS / "hybrid.json").read_text())["rows"])),
        SCALE: filled(SCALE, *scale_blocks()),
        STUDENT: filled(STUDENT, "\n\n".join(student.markdown(json.loads((RESULTS / "student.json").read_text())))),
    }


def main() -> int:
    """Write or check; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        return int(any(text != path.read_text(encoding="utf-8") for path, text in pages().items()))
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
