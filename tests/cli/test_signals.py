"""What Ctrl-C and SIGTERM do to a command."""

import re
import signal
import subprocess
import sys
import time

import pytest

#: a library's own code, for minutes, in which Python can raise nothing
BUSY = """
import hashlib
from pyterrier_expandr.cli import signals
signals.GRACE = 0.5
with signals.stoppable():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""

#: Python ignores what a finaliser raises, and prints it
FINALISED = """
import os, signal, time
from pyterrier_expandr.cli import signals
signals.GRACE = 0.5
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
with signals.stoppable():
    Freed()
    time.sleep(60)
"""

EXPAND = "from pyterrier_expandr.cli import main; main()"


def stopped(process, number, within, said):
    """Send a signal to a process that writes to the file `said`, and see that it stops as it should."""
    start = time.monotonic()
    process.send_signal(number)
    process.wait(60)
    seconds = time.monotonic() - start
    said.seek(0)
    said = said.read()
    assert seconds < within
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        f"expandr: stopped by {number.name}: what is finished is kept, and the same command continues"
    )
    return seconds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_library_that_does_not_return_is_cut_off(number, tmp_path):
    with open(tmp_path / "said", "w+") as said:
        process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=said, text=True)
        assert process.stdout.readline() == "busy\n"
        try:
            stopped(process, number, within=20, said=said)
        finally:
            process.kill()


def test_an_engine_that_generates_stops_within_seconds(tiny_llama, tmp_path):
    arguments = ["expand", "--collection", "pocket", "--llm", f"{tiny_llama}?batch_size=4", "--n", "4"]
    arguments += ["--max-new-tokens", "150", "--out", str(tmp_path / "e.jsonl"), "--device", "cpu"]
    command = [sys.executable, "-c", EXPAND, *arguments]
    with open(tmp_path / "said", "w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while (
            " 4/148" not in (tmp_path / "said").read_text() and process.poll() is None
        ):  # these texts are in the cache
            time.sleep(0.05)
        stopped(process, signal.SIGINT, within=20, said=said)
    assert not (tmp_path / "e.jsonl").exists() and not (tmp_path / ".e.jsonl.lock").exists()

    from pyterrier_expandr import GenerationCache

    cache = GenerationCache(tmp_path / "e.sqlite")
    assert 4 <= len(cache) < 148
    cache.close()


@pytest.mark.slow
def test_three_passages_for_each_query_of_scifact(expandr_data, tmp_path):
    """Measured: the seconds from a signal to the end, and the rerun that ends in the same file."""
    arguments = ["expand", "--collection", str(expandr_data / "scifact"), "--n", "3", "--max-new-tokens", "32"]
    arguments += ["--llm", f"{expandr_data / 'stories260K' / 'hf'}?batch_size=30", "--device", "cpu"]

    def start(folder, said):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", EXPAND, *arguments, "--out", str(folder / "e.jsonl")]
        return subprocess.Popen(command, stdout=said, stderr=said)

    for number, generated in ((signal.SIGINT, 90), (signal.SIGTERM, 450)):
        with open(tmp_path / "said", "w+") as said:
            process = start(tmp_path / "stopped", said)
            while process.poll() is None and _generated(tmp_path / "said") < generated:
                time.sleep(0.1)
            seconds = stopped(process, number, within=8, said=said)
            print(f"{number.name} after {_generated(tmp_path / 'said')} of 900 passages: ended after {seconds:.2f} s")
    for folder in ("stopped", "undisturbed"):
        with open(tmp_path / "said", "w+") as said:
            assert start(tmp_path / folder, said).wait() == 0, (tmp_path / "said").read_text()
    assert (tmp_path / "stopped" / "e.jsonl").read_bytes() == (tmp_path / "undisturbed" / "e.jsonl").read_bytes()


def _generated(said):
    """How many of the 900 passages there are by now: a rerun's progress bar counts those that were missing."""
    bars = re.findall(r"Generating: [^\r\n]* (\d+)/(\d+) \[", said.read_text())
    return 900 - int(bars[-1][1]) + int(bars[-1][0]) if bars else 0


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


def test_a_signal_that_a_finaliser_swallows_stops_the_command_all_the_same():
    done = subprocess.run([sys.executable, "-c", FINALISED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143
    assert done.stderr == "expandr: stopped by SIGTERM: what is finished is kept, and the same command continues\n"
