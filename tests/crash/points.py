"""Kills a build or a publish at each of its file-system calls in turn, looks at what is left, and runs it again."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.children import Child, emptied, finished
from tests.crash.contents import contents, differences

#: audit events of calls that change the file system; `open` counts where it may write
CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.utime"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Scenario:
    """Something that is written, and must be all there or not at all.

    Attributes:
        name: as the table shows it.
        act: writes into a folder; run again after a kill, it finishes the work.
        look: raises AssertionError if what is in the folder at any moment must not be seen there.
        before: fills the folder with what is there from the beginning.
        imports: run once, before children are forked.
        exchange: False lets the file system be one that cannot exchange two names.
    """

    name: str
    act: Callable[[Path], None]
    look: Callable[[Path], None]
    before: Callable[[Path], None] = lambda folder: None
    imports: Callable[[], None] = lambda: None
    exchange: bool = True


@dataclass
class Points:
    """How many calls a scenario makes, at how many of them it was killed, and what went wrong."""

    scenario: str
    calls: int = 0
    tried: int = 0
    survived: int = 0
    wrong: list[str] = field(default_factory=list)


def _counted(act, at):
    """Run `act`, and kill this process before its call number `at`; returns the number of calls."""
    calls = 0

    def call():
        nonlocal calls
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

    armed = True

    def hook(event, arguments):
        writes = event in CALLS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if armed and writes and not str(arguments[0]).startswith(("/dev", "/proc")):
            call()

    _count_others(call)
    sys.addaudithook(hook)
    act()
    armed = False
    return calls


def _count_others(call):
    """Calls that Python does not report: to the disk, and those of FAISS and of the exchange of two names."""
    from pyterrier_expandr.common import files

    def counted(function):
        def calling(*arguments):
            call()
            return function(*arguments)

        return calling

    os.fsync = counted(os.fsync)
    files.exchange = counted(files.exchange)
    if "faiss" in sys.modules:
        faiss = sys.modules["faiss"]
        faiss.write_index = counted(faiss.write_index)


def _run(scenario, folder, at=-1):
    from pyterrier_expandr.common import files

    if not scenario.exchange:
        files.exchange = lambda one, other: False
    print("calls", _counted(lambda: scenario.act(folder), at))


def walked(scenario, work, *, every=1):
    """Kill at each call (or at every n-th), each time in a fresh folder, and tally what was found and what came of it."""
    scenario.imports()
    template, folder, tally = emptied(work / "template"), work / "folder", Points(scenario.name)
    finished(lambda: scenario.before(template))

    def begin():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)

    for _ in range(2):  # the first run also fills caches outside the folder
        begin()
        tally.calls = int(finished(lambda: _run(scenario, folder)).said.split("calls ")[-1])
    expected = contents(folder)
    for at in range(0, tally.calls, every):
        begin()
        killed = Child(lambda at=at: _run(scenario, folder, at)).wait()
        wrong = [] if killed.status == -signal.SIGKILL else [f"not killed: {killed.said[-500:]}"]
        wrong += _looked_and_run_again(scenario, folder) or differences(expected, contents(folder))
        tally.tried += 1
        tally.survived += not wrong
        tally.wrong += [f"call {at}: {line}" for line in wrong[:3]]
    return tally


def _looked_and_run_again(scenario, folder):
    def again():
        scenario.look(folder)
        _run(scenario, folder)
        scenario.look(folder)

    try:
        finished(again)
    except AssertionError as error:
        return [str(error)]
    return []
