"""Ends a stage's command at random moments, runs it again, and compares with an undisturbed run."""

import shutil
import signal
from dataclasses import dataclass, field
from importlib import import_module

from tests.crash.children import Child, command, emptied, finished
from tests.crash.contents import contents, differences
from tests.crash.stages import make_inputs

#: a round is one folder, in which the command is killed so many times before it may end
KILLS_PER_ROUND = 5

#: seconds that a command may take to stop at a signal, on a busy machine
STOPS_WITHIN = 8.0


@dataclass
class Tally:
    """Counts of one stage, and what went wrong, with the moments of it."""

    stage: str
    kills: int = 0
    survived: int = 0
    signals: int = 0
    answered: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Rounds:
    """Rounds of one stage, all in the same folder, since files may name it."""

    def __init__(self, stage, work):
        for name in stage.imports:
            import_module(name)
        self.stage, self.inputs, self.template, self.out = stage, work / "inputs", work / "before", work / "out"
        self.inputs.mkdir(parents=True, exist_ok=True)
        make_inputs(stage, self.inputs)
        emptied(self.template)
        if stage.before is not None:
            finished(command(*stage.before(self.inputs, emptied(self.out))))
            shutil.rmtree(self.template)
            shutil.copytree(self.out, self.template)
        self.run = command(*stage.arguments(self.inputs, self.out))
        self.begin()
        self.seconds = finished(self.run).seconds
        self.expected = contents(self.out)

    def begin(self):
        """An empty folder, or one that holds what the stage replaces."""
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.template, self.out)

    def disturbed(self, number, after):
        """The child that was sent a signal, when it has ended; None if it was quicker."""
        child = Child(self.run)
        sent = child.signal_after(after, number)
        ended = child.wait()
        if not sent:  # the machine has become quicker
            self.seconds = min(self.seconds, ended.seconds)
        return ended if sent and (number != signal.SIGKILL or ended.status == -number) else None

    def ended_equal(self):
        """What a rerun leaves that an undisturbed run does not; empty if all is equal."""
        try:
            finished(self.run)
        except AssertionError as error:
            return [str(error)]
        return differences(self.expected, contents(self.out))


def kill(rounds, tally, count, draw):
    """One round: kill the stage at most `count` times in one folder, at moments of the random numbers `draw`."""
    rounds.begin()
    made, moments = 0, []
    for _ in range(min(KILLS_PER_ROUND, count)):
        moments.append(round(draw.uniform(0, rounds.seconds), 3))
        if rounds.disturbed(signal.SIGKILL, moments[-1]) is None:
            break
        made += 1
    if not made:  # it was quicker than usual
        return
    wrong = rounds.ended_equal()
    tally.kills += made
    tally.survived += 0 if wrong else made
    tally.wrong += [f"killed after {moments} s: {line}" for line in wrong[:5]]


def interrupt(rounds, tally, draw):
    """Send SIGINT or SIGTERM, by turns: one line, the right status, soon, and the rerun goes on."""
    number = (signal.SIGINT, signal.SIGTERM)[tally.signals % 2]
    rounds.begin()
    moment = draw.uniform(0.15, 0.9) * rounds.seconds
    ended = rounds.disturbed(number, moment)
    if ended is None or ended.status == 0:  # it had just ended
        return
    tally.signals += 1
    late = ended.seconds - moment
    tally.slowest = max(tally.slowest, late)
    wrong = _unlike_a_stop(ended, number, late) + rounds.ended_equal()
    tally.answered += not wrong
    tally.wrong += [f"{number.name} after {moment:.2f} s: {line}" for line in wrong[:5]]


def _unlike_a_stop(ended, number, late):
    wrong = []
    if ended.status != 128 + number:
        wrong.append(f"the status is {ended.status}: {ended.said[-1500:]}")
    if ended.said.count("expandr: stopped by") != 1 or "Traceback" in ended.said:
        wrong.append(f"it says {ended.said[-1500:]!r}")
    if late > STOPS_WITHIN:
        wrong.append(f"it stopped after {late:.1f} s")
    return wrong
