"""Two processes at once: the same command twice, or two experiments that share a folder."""

import json
import re
import time
from dataclasses import dataclass, field

from tests.crash.children import Child, command, finished
from tests.crash.contents import contents, differences
from tests.crash.kills import Rounds

#: what the second process says
REFUSED = (
    r"expandr: error: '.*' is being written by (process \d+ on host \S+|another process): wait until that has ended"
)


@dataclass
class Pairs:
    """Pairs of processes tried with one stage, those that went well, and the second processes that were refused."""

    stage: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def twice(rounds: Rounds, tally: Pairs, draw):
    """The same command in two processes: one does the work, the other is refused in one sentence, or finds it done."""
    rounds.begin()
    # The first pairs start together; the others one during the work of the other.
    pause = 0.0 if tally.tried % 2 == 0 else draw.uniform(0, 0.6 * rounds.seconds)
    ended = _both(rounds.run, rounds.run, pause)
    refused = [one for one in ended if one.status == 2 and re.search(REFUSED, one.said)]
    wrong = [f"status {one.status}: {one.said[-800:]}" for one in ended if one.status and one not in refused]
    if len(refused) == 2:
        wrong.append("both were refused")
    wrong += differences(rounds.expected, contents(rounds.out)) or rounds.ended_equal()
    tally.refused += len(refused)
    _count(tally, pause, wrong)


def shared_experiments(rounds: Rounds, tally: Pairs, draw):
    """Two experiments with two systems each, one of them common, in one folder: all cells are there, each made once."""
    given = rounds.stage.arguments(rounds.inputs, rounds.out)
    systems = [place for place, argument in enumerate(given) if argument == "--system"]
    first, second = _without(given, systems[2]), _without(given, systems[0])  # BM25 and dense; dense and ExpandR
    rounds.begin()
    pause = draw.uniform(0, 0.3 * rounds.seconds)
    ended = _both(command(*first), command(*second), pause)
    wrong = [f"status {one.status}: {one.said[-800:]}" for one in ended if one.status]
    made = contents(rounds.out)
    names = json.loads((rounds.out / "results" / "experiment.json").read_text())["systems"]
    wrong += [] if sorted(names) == ["BM25", "ExpandR", "dense"] else [f"the record names only {names}"]
    finished(rounds.run)  # all three systems, of which nothing is left to compute
    wrong += [line for line in differences(made, contents(rounds.out)) if "experiment.json" not in line]
    wrong += [line for line in differences(rounds.expected, contents(rounds.out)) if "experiment.json" not in line]
    _count(tally, pause, wrong)


def _both(one, other, pause):
    first = Child(one)
    time.sleep(pause)
    second = Child(other)
    return [first.wait(), second.wait()]


def _count(tally, pause, wrong):
    tally.tried += 1
    tally.right += not wrong
    tally.wrong += [f"{pause:.2f} s apart: {line}" for line in wrong[:5]]


def _without(arguments, place):
    return arguments[:place] + arguments[place + 2 :]
