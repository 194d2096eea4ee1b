"""One writer for each output: a second process is told at once who is writing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class InUseError(OSError):
    """Another process is writing the folder; the message names the folder, the process and its host."""


@contextmanager
def one_writer(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock on an output while the block runs; within one thread, blocks for the same output may be nested.

    The lock is a file `.NAME.lock` next to the output, locked by the operating system: a process that ends, even by
    `kill -9`, holds nothing afterwards, whether or not the file is still there. The file contains the process and the
    host, for the message.

    On a network file system, the lock holds between hosts if the server keeps locks: NFS does by default (not with
    the mount options `nolock` or `local_lock`, which keep it within one host). Where the file system knows no locks at
    all, such as Lustre without the option `flock`, the existence of the file is the lock, and a warning says so; after
    `kill -9` on another host, that file must be removed by hand. Where a lock is refused, an OSError says so.

    Args:
        path: the file or folder to be written; its parent is created if missing.
        wait: seconds to wait for another process.

    Raises:
        InUseError: another process, or another thread, is writing it. OSError: the file system refuses locks.

    Example:
        >>> with one_writer(Path("pocket.faiss")):
        ...     print(Path(".pocket.faiss.lock").exists())
        True
        >>> Path(".pocket.faiss.lock").exists()
        False
    """
    file = _lock_file(path)
    if not _can_write(file.parent):  # then nothing else can be written there either, and the writer says so
        yield
        return
    lock = FileLock(file, is_singleton=True)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise InUseError(
            f"{str(path)!r} is being written by {_holder(file)}: wait until that has ended, or choose another place"
        ) from None
    except OSError as error:
        raise OSError(
            f"{str(path)!r} cannot be locked ({error.strerror or error}), so another process might write it as well: "
            "choose a folder on a file system that has locks"
        ) from error
    outermost = lock.lock_counter == 1
    try:
        if outermost and isinstance(lock, FileLock):  # a lock by existence has content of its own
            with suppress(OSError):
                file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        if outermost and isinstance(lock, FileLock):
            with suppress(OSError):
                file.unlink()  # while it is held: one who waits for it sees that it is gone, and makes a new one
        lock.release()


def without_stale_lock(path: Path) -> None:
    """Remove the lock file of a finished output whose writer was killed before it could; a lock that is held stays.

    For outputs that a rerun finds finished, and so does not lock.
    """
    if _lock_file(path).exists():
        with suppress(OSError), one_writer(path):
            pass


def _lock_file(path: Path) -> Path:
    return path.absolute().with_name(f".{path.name}.lock")


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _holder(file: Path) -> str:
    try:
        process, host = file.read_text(encoding="utf-8").split()[:2]
    except (OSError, ValueError):  # it is just beginning or ending
        return "another process"
    return f"process {process} on host {host}"
