"""What survives kills, signals, two processes at once, and damage.

    python -m benchmarks.trust [--kills N] [--signals N] [--pairs N] [--every N] [--seed N] [--only NAME ...]
                               [--copies N] [--inputs N] [--work FOLDER] [--json docs/results/trust.json]

Kills: each stage's command is killed (SIGKILL) at random moments, up to five times in one folder, and run again; it
survived if the folder then equals that of an undisturbed run, in every name and every byte except times. Signals: the
same with SIGINT and SIGTERM, which must end the command within seconds with one line and status 130 or 143.
Points: each build and publish is killed at each of its file-system calls in turn; whatever is there at that moment must
open, old or new. Pairs: two processes run the same command in one folder. Damage and fuzzing: `benchmarks.damage`.

What is measured is kept in --work; a second call measures only the rest, also with more kills, signals, pairs or
file-system calls, and prints all. With `--only none` it prints and measures nothing. The exit status is 1 if anything
failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from tests.crash.kills import Rounds, Tally, interrupt, kill
from tests.crash.points import walked
from tests.crash.scenarios import SCENARIOS
from tests.crash.stages import STAGES
from tests.crash.together import Pairs, shared_experiments, twice

Row = dict[str, Any]

#: what the table shows of each part
COLUMNS = {
    "kills": ["stage", "kills", "survived", "signals", "answered", "slowest"],
    "points": ["scenario", "calls", "tried", "survived"],
    "pairs": ["stage", "tried", "right", "refused"],
    "damage": ["artefact", "copies", "noticed at opening", "noticed by verify", "raw errors"],
    "fuzzing": ["reader", "inputs", "raw errors"],
}


def measure(given: argparse.Namespace, work: Path) -> None:
    """Measure what `work` does not hold yet, and keep it there."""

    def chosen(name: str, part: str) -> bool:
        return not given.only or name in given.only or part in given.only

    for name, scenario in SCENARIOS.items():
        if chosen(name, "points"):
            file = work / f"points {name}.json"
            if _too_few(file, given.every):
                file.unlink()
            once(file, "points", lambda s=scenario: _walked(s, work, given))
    for name in STAGES:
        if chosen(name, "stages"):
            _stage(name, work / f"stage {name}.json", given)
    if chosen("damage", "damage"):
        # It imports torch, whose threads should not be there when children are forked.
        from benchmarks.damage import measurements

        for part, name, function in measurements(given.copies, given.inputs):
            once(work / f"{part} {name}.json", part, function)


def once(file: Path, part: str, function: Callable[[], Row]) -> None:
    """Keep the row that the function returns, unless an earlier call has."""
    if not file.is_file():
        keep(file, {part: function()})


def keep(file: Path, found: dict[str, Row]) -> None:
    """Write and print rows, each with the part of the record that it belongs to."""
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for part, row in found.items():
        print(f"{part}: { {name: row[name] for name in COLUMNS[part]} }", flush=True)


def collected(work: Path) -> dict[str, list[Row]]:
    """All that `work` holds: part -> rows."""
    order = [*(f"points {name}" for name in SCENARIOS), *(f"stage {name}" for name in STAGES)]
    order += sorted(file.stem for part in ("damage", "fuzzing") for file in work.glob(f"{part} *.json"))
    rows: dict[str, list[Row]] = {part: [] for part in COLUMNS}
    for file in (work / f"{name}.json" for name in order):
        for part, row in json.loads(file.read_text(encoding="utf-8")).items() if file.is_file() else ():
            rows[part].append(row)
    return rows


def _too_few(file: Path, every: int) -> bool:
    """Whether an earlier call has tried fewer of the file-system calls."""
    row = json.loads(file.read_text(encoding="utf-8"))["points"] if file.is_file() else None
    return row is not None and row["tried"] < len(range(0, row["calls"], every))


def _walked(scenario: Any, work: Path, given: argparse.Namespace) -> Row:
    return asdict(walked(scenario, work / "points", every=given.every))


def _stage(name: str, file: Path, given: argparse.Namespace) -> None:
    """Tally kills and signals of a stage, and pairs of its processes, until there are enough; kept after each round."""
    found = json.loads(file.read_text()) if file.is_file() else {"kills": {"stage": name}, "pairs": {"stage": name}}
    tally, pairs = Tally(**found["kills"]), Pairs(**found["pairs"])
    together = shared_experiments if name == "experiment" else twice
    rounds, draw = None, random.Random(f"{given.seed} {found}")
    while missing := _missing(tally, pairs, given):
        rounds = rounds or Rounds(STAGES[name], file.parent)
        if missing == "kills":
            kill(rounds, tally, given.kills - tally.kills, draw)
        elif missing == "signals":
            interrupt(rounds, tally, draw)
        else:
            together(rounds, pairs, draw)
        keep(file, {"kills": asdict(tally), "pairs": asdict(pairs)})


def _missing(tally: Tally, pairs: Pairs, given: argparse.Namespace) -> str | None:
    """What a stage has not had enough of yet."""
    if tally.kills < given.kills:
        return "kills"
    return "signals" if tally.signals < given.signals else "pairs" if pairs.tried < given.pairs else None


def show(part: str, rows: list[Row]) -> None:
    """Print the table of a part, and below it what went wrong."""
    if rows:
        frame = pd.DataFrame(rows)
        print(f"\n{part}\n{frame[COLUMNS[part]].to_string(index=False, float_format='{:.1f}'.format, na_rep='-')}")
        for row in rows:
            for line in wrong(row):
                print(f"  {row[COLUMNS[part][0]]}: {line}")


def wrong(row: Row) -> list[str]:
    """What went wrong, in words: kills that were not survived, or raw errors."""
    lines: list[str] = row["wrong"] if "wrong" in row else row["examples"]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="what survives kills, signals, two processes at once, and damage")
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--signals", type=int, default=2, help="of each stage: SIGINT and SIGTERM by turns")
    parser.add_argument("--pairs", type=int, default=2, help="of processes for each stage")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th file-system call")
    parser.add_argument("--copies", type=int, default=200, help="of each artefact, one file of which is damaged")
    parser.add_argument("--inputs", type=int, default=1000, help="of each reader, hostile or broken")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="names of the tables, or: points stages damage none")
    parser.add_argument("--work", type=Path, help="folder of what is measured; a new temporary one if not given")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="expandr-trust-"))
    work.mkdir(parents=True, exist_ok=True)
    print(f"seed {given.seed}, kept in {work}", flush=True)
    measure(given, work)
    found = collected(work)
    for part, rows in found.items():
        show(part, rows)
    if given.json is not None:
        record = {"machine": platform.platform(), **found}
        given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(wrong(row) for rows in found.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
