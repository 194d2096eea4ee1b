"""What survives kills, signals, two processes at once, and damage.

    python -m benchmarks.trust [--kills N] [--signals N] [--pairs N] [--every N] [--seed N] [--only NAME ...]
                               [--copies N] [--inputs N] [--work FOLDER] [--json docs/results/trust.json]

Kills: each stage's command is killed (SIGKILL) at random moments, up to five times in one folder, and run again; it
survived if the folder then equals that of an undisturbed run, in every name and every byte except times. Signals: the
same with SIGINT and SIGTERM, which must end the command within seconds with one line and status 130 or 143.
Points: each build and publish is killed at each of its file-system calls in turn; whatever is there at that moment must
open, old or new. Pairs: two processes run the same command in one folder. Damage and fuzzing: `benchmarks.damage`.

What is measured is kept in --work; a second call measures only the rest, also with larger numbers of kills, signals and
pairs. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
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


def measured(given: argparse.Namespace, work: Path) -> Iterator[tuple[str, list[Row]]]:
    """(part, its rows), as they are measured."""
    for name, scenario in SCENARIOS.items():
        if not given.only or name in given.only or "points" in given.only:
            yield "points", kept(work, f"points {name}", lambda s=scenario: [asdict(_walked(s, work, given))])
    for name in STAGES:
        if not given.only or name in given.only or "stages" in given.only:
            tally, pairs = _stage(name, work, given)
            yield "kills", [asdict(tally)]
            yield "pairs", [asdict(pairs)]
    if not given.only or "damage" in given.only:
        # It imports torch, whose threads should not be there when children are forked.
        from benchmarks.damage import measurements

        for name, measure in measurements(given.copies, given.inputs):
            for row in kept(work, f"damage {name}", lambda m=measure: [m()]):
                yield ("damage" if "artefact" in row else "fuzzing"), [row]


def kept(work: Path, name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows that an earlier call has kept, or those that `measure` returns."""
    file = work / f"{name}.json"
    if not file.is_file():
        file.write_text(json.dumps(measure(), indent=1))
    rows: list[Row] = json.loads(file.read_text())
    return rows


def _walked(scenario: Any, work: Path, given: argparse.Namespace) -> Any:
    return walked(scenario, work / "points", every=given.every)


def _stage(name: str, work: Path, given: argparse.Namespace) -> tuple[Tally, Pairs]:
    """The tally of kills and signals of a stage, and that of its pairs of processes; kept after each round."""
    file = work / f"stage {name}.json"
    found = json.loads(file.read_text()) if file.is_file() else [{"stage": name}, {"stage": name}]
    tally, pairs = Tally(**found[0]), Pairs(**found[1])
    together = shared_experiments if name == "experiment" else twice
    rounds, draw = None, random.Random(f"{given.seed} {name} {found}")
    while missing := _missing(tally, pairs, given):
        rounds = rounds or Rounds(STAGES[name], work)
        if missing == "kills":
            kill(rounds, tally, given.kills - tally.kills, draw)
        elif missing == "signals":
            interrupt(rounds, tally, draw)
        else:
            together(rounds, pairs, draw)
        file.write_text(json.dumps([asdict(tally), asdict(pairs)], indent=1))
    return tally, pairs


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
    parser.add_argument("--only", nargs="*", default=[], help="stages, scenarios, or: points stages damage")
    parser.add_argument("--work", type=Path, help="folder of what is measured; a new temporary one if not given")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="expandr-trust-"))
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = {}
    for part, rows in measured(given, work):
        found.setdefault(part, []).extend(rows)
        for row in rows:
            print(f"seed {given.seed}: {part}: { {name: row[name] for name in COLUMNS[part]} }", flush=True)
    for part, rows in found.items():
        show(part, rows)
    if given.json is not None:
        record = {"seed": given.seed, "machine": platform.platform(), **found}
        given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(wrong(row) for rows in found.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
