"""One writer for each output, seen from a second process."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from pyterrier_expandr.common import files, locks
from pyterrier_expandr.common.locks import InUseError, one_writer, without_stale_lock

HOLD = """
import sys, time
from pathlib import Path
from pyterrier_expandr.common.locks import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held(path, seconds=60.0):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_writes_until_kill_9(tmp_path):
    out = tmp_path / "new" / "out"
    with held(out) as process:
        holder = f"process {process.pid} on host {socket.gethostname()}"
        with pytest.raises(InUseError, match=holder) as refused, one_writer(out):
            pass
        assert str(out) in str(refused.value)
        with one_writer(out.with_name("other")):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (out.parent / ".out.lock").exists()  # it stays, and locks nothing
        with one_writer(out):
            assert not out.exists()
    assert list(out.parent.iterdir()) == []


def test_what_a_killed_writer_left_of_its_lock_goes_and_a_lock_that_is_held_stays(tmp_path):
    out, file = tmp_path / "out", tmp_path / ".out.lock"
    with held(out) as process:
        without_stale_lock(out)
        assert file.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        without_stale_lock(out)
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_another_process(tmp_path):
    with held(tmp_path / "out", seconds=0.5), one_writer(tmp_path / "out", wait=30):
        assert (tmp_path / ".out.lock").read_text().startswith(f"{os.getpid()}\n")


def test_blocks_may_be_nested_in_a_thread_but_not_across_threads(tmp_path):
    found = []

    def other():
        try:
            with one_writer(tmp_path / "out"):
                found.append("held")
        except InUseError as error:
            found.append(str(error))

    with one_writer(tmp_path / "out"), one_writer(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} " in found[0]
    other()
    assert found[1] == "held" and list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_writer_says_so(tmp_path):
    (tmp_path / "file").touch()
    with one_writer(tmp_path / "file" / "out"):
        assert [path.name for path in tmp_path.iterdir()] == ["file"], "no lock is left beside a file"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", refused)
    with pytest.raises(OSError, match=r"out' cannot be locked \(No locks available\)"), one_writer(tmp_path / "out"):
        pass


def folder(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "one after the other"])
def test_a_folder_is_replaced(tmp_path, exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    target = tmp_path / "target"
    for content in ("first", "second"):
        files.replace_folder(folder(tmp_path / "new", content), target)
        assert (target / "file").read_text() == content
        assert list(tmp_path.iterdir()) == [target]


def test_names_change_places_here(tmp_path):
    """If this fails, the file system of the tests is one on which `replace_folder` needs two steps."""
    one, other = folder(tmp_path / "one", "1"), folder(tmp_path / "other", "2")
    assert files.exchange(one, other)
    assert ((one / "file").read_text(), (other / "file").read_text()) == ("2", "1")
    assert not files.exchange(one, tmp_path / "nowhere")


def test_a_folder_that_was_moved_aside_comes_back(tmp_path):
    target = tmp_path / "target"
    assert not files.restored(target)
    folder(tmp_path / ".old.target", "old")
    assert files.restored(target) and (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
