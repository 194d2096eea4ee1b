"""What Ctrl-C and SIGTERM do to a command."""

import os
import signal
import subprocess
import sys
import time

import pytest

#: a library's own code, in which Python can raise nothing
BUSY = """
import sys
from pyterrier_expandr.cli import signals
signals.GRACE = 0.5
with signals.stoppable():
    print("busy", flush=True)
    sum(range(10**12))
"""

EXPAND = "from pyterrier_expandr.cli import main; main()"


def stopped(process, number, within):
    """What a process says to a signal."""
    start = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < within
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        f"expandr: stopped by {number.name}: what is finished is kept, and the same command continues"
    )
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_library_that_does_not_return_is_cut_off(number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", BUSY], **pipes)
    assert process.stdout.readline() == "busy\n"
    stopped(process, number, within=20)


def test_an_engine_that_generates_stops_within_seconds(tiny_llama, tmp_path):
    arguments = ["expand", "--collection", "pocket", "--llm", f"{tiny_llama}?batch_size=4", "--n", "4"]
    arguments += ["--max-new-tokens", "400", "--out", str(tmp_path / "e.jsonl"), "--device", "cpu"]
    command = [sys.executable, "-c", EXPAND, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.set_blocking(process.stderr.fileno(), False)
    seen = ""
    while "1/37" not in seen and process.poll() is None:  # the first query is in the cache
        seen += process.stderr.read() or ""
        time.sleep(0.05)
    os.set_blocking(process.stderr.fileno(), True)
    stopped(process, signal.SIGINT, within=20)
    assert not (tmp_path / "e.jsonl").exists() and not (tmp_path / ".e.jsonl.lock").exists()

    from pyterrier_expandr import GenerationCache

    cache = GenerationCache(tmp_path / "e.sqlite")
    assert 4 <= len(cache) < 148
    cache.close()


def test_a_signal_that_the_parent_ignored_stays_ignored():
    code = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from pyterrier_expandr.cli.signals import stoppable\n"
        "with stoppable():\n    os.kill(os.getpid(), signal.SIGINT)\n    print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_handlers_are_put_back():
    from pyterrier_expandr.cli.signals import SIGNALS, stoppable

    before = [signal.getsignal(number) for number in SIGNALS]
    with stoppable():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
