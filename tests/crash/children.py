"""Runs something in forked children, which share what this process has imported, and ends them in the middle."""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass


@dataclass
class Ended:
    """How a child ended: its exit status (negative: the signal that killed it), its seconds, and what it said."""

    status: int
    seconds: float
    said: str


class Child:
    """A forked child that runs a function, with its output in a file; used once."""

    def __init__(self, run):
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  closed by `wait`
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(run, self.output.fileno())

    def signal_after(self, seconds, number):
        """Send a signal; False if the child has ended before."""
        end = self.start + seconds
        while time.monotonic() < end:
            if self._poll():
                return False
            time.sleep(0.002)
        if self._poll():
            return False
        os.kill(self.pid, number)
        return True

    def _poll(self):
        info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return info is not None

    def wait(self):
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self.start
        self.output.seek(0)
        said = self.output.read().decode(errors="replace")
        self.output.close()
        return Ended(os.waitstatus_to_exitcode(status), seconds, said)


def _become(run, output):
    """What the child does instead of returning."""
    status = 1
    try:
        sys.dont_write_bytecode = True
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finished(run):
    """What a child said that must end well."""
    ended = Child(run).wait()
    if ended.status != 0:
        raise AssertionError(f"ended with status {ended.status}:\n{ended.said[-3000:]}")
    return ended


def command(*arguments):
    """A function that runs the command line."""

    def run():
        from pyterrier_expandr.cli import main

        sys.argv = ["expandr", *map(str, arguments)]
        main()

    return run


def emptied(folder):
    """The folder, without what was in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
