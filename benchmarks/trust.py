"""What survives kills, signals, two processes at once, and damage.

    python -m benchmarks.trust [--kills N] [--signals N] [--pairs N] [--every N] [--seed N] [--only NAME ...]
                               [--work FOLDER] [--json docs/results/trust.json]

Kills: each stage's command is killed (SIGKILL) at random moments, up to five times in one folder, and run again; it
survived if the folder then equals that of an undisturbed run, in every name and every byte except times. Signals: the
same with SIGINT and SIGTERM, which must end the command within seconds with one line and status 130 or 143.
Points: each build and publish is killed at each of its file-system calls in turn; whatever is there at that moment must
open, old or new. Pairs: two processes run the same command in one folder. Damage: `benchmarks.damage`.

What is measured is kept in --work, and a second call measures only the rest. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from tests.crash.kills import Rounds, Tally, interrupt, kill
from tests.crash.points import walked
from tests.crash.scenarios import SCENARIOS
from tests.crash.stages import STAGES
from tests.crash.together import shared_experiments, twice

Row = dict[str, Any]

#: what the table shows of each part
COLUMNS = {
    "kills": ["stage", "kills", "survived", "signals", "answered", "slowest"],
    "points": ["scenario", "calls", "tried", "survived"],
    "pairs": ["stage", "tried", "right", "refused"],
    "damage": None,
}


def measured(given: argparse.Namespace, work: Path) -> Iterator[tuple[str, list[Row]]]:
    """(part, its rows), as they are measured."""
    for name, scenario in SCENARIOS.items():
        if not given.only or name in given.only or "points" in given.only:
            yield "points", kept(work, f"points {name}", lambda s=scenario: [asdict(_walked(s, work, given))])
    for name in STAGES:
        if not given.only or name in given.only or "stages" in given.only:
            for row in kept(work, f"stage {name}", lambda n=name: _stage(n, work, given)):
                yield ("kills" if "kills" in row else "pairs"), [row]
    if (not given.only or "damage" in given.only) and find_spec("benchmarks.damage") is not None:
        from benchmarks.damage import measure  # the other half: damaged files and fuzzed inputs

        yield "damage", kept(work, "damage", measure)


def kept(work: Path, name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows that an earlier call has kept, or those that `measure` returns."""
    file = work / f"{name}.json"
    if not file.is_file():
        file.write_text(json.dumps(measure(), indent=1))
    rows: list[Row] = json.loads(file.read_text())
    return rows


def _walked(scenario: Any, work: Path, given: argparse.Namespace) -> Any:
    return walked(scenario, work / "points", every=given.every)


def _stage(name: str, work: Path, given: argparse.Namespace) -> list[Row]:
    """The tally of kills and signals of a stage, and that of its pairs of processes."""
    rounds, tally = Rounds(STAGES[name], work), Tally(name)
    kill(rounds, tally, given.kills, given.seed)
    interrupt(rounds, tally, given.signals, given.seed + 1)
    together = shared_experiments if name == "experiment" else twice
    pairs = [together(rounds, count=given.pairs, seed=given.seed)] if given.pairs else []
    return [asdict(tally), *map(asdict, pairs)]


def show(part: str, rows: list[Row]) -> None:
    """Print the table of a part, and below it what went wrong."""
    if rows:
        frame = pd.DataFrame(rows)
        columns = COLUMNS[part] or [name for name in frame.columns if name != "wrong"]
        print(f"\n{part}\n{frame[columns].to_string(index=False, float_format='{:.1f}'.format)}")
        for line in [line for row in rows for line in row.get("wrong", [])]:
            print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description="what survives kills, signals, two processes at once, and damage")
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--signals", type=int, default=2, help="of each stage: SIGINT and SIGTERM by turns")
    parser.add_argument("--pairs", type=int, default=2, help="of processes for each stage")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th file-system call")
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
            print(f"seed {given.seed}: {part}: { {name: row[name] for name in COLUMNS[part] or row} }", flush=True)
    for part, rows in found.items():
        show(part, rows)
    if given.json is not None:
        settings = {name: getattr(given, name) for name in ("kills", "signals", "pairs", "every", "seed")}
        record = {"settings": settings, "machine": platform.platform(), **found}
        given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(row.get("wrong") for rows in found.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
