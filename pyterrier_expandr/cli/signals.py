"""Ctrl-C (SIGINT) and SIGTERM: a command stops within seconds, says one line, and exits as a shell expects."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: seconds in which a command may put its things in order; what does not return by then, such as a library's long
#: computation, is cut off, which is as harmless as `kill -9`
GRACE = 5.0

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal has stopped the command; not an Exception, so that only code that puts things in order sees it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that SIGINT and SIGTERM end with one line and status 130 or 143; in the main thread only.

    The signal is raised as `Stopped`. Python cannot do that while a library's own code runs, such as FAISS's; therefore
    a thread ends the process after `GRACE` seconds, and at once if there is a second signal (if the library lets other
    threads run, as FAISS and torch do). A signal that the parent
    process had ignored, as a shell does for background jobs, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    heard, written = socket.socketpair()  # Python writes the number of each signal to it, whatever is running
    written.setblocking(False)
    wakeup = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    said = threading.Lock()
    for number in SIGNALS:
        if handlers[number] is not signal.SIG_IGN:
            signal.signal(number, _raising(os.getpid()))
    threading.Thread(target=_watch, args=(heard, said), daemon=True).start()
    unraisable, sys.unraisablehook = sys.unraisablehook, _quiet
    try:
        yield
    except Stopped as stopped:
        _say(stopped.number, said)
        # Handlers and thread stay: other threads may keep the process alive, and a second signal may come.
        sys.exit(128 + stopped.number)
    except BaseException:
        sys.unraisablehook = unraisable
        _put_back(handlers, wakeup, written)
        raise
    sys.unraisablehook = unraisable
    _put_back(handlers, wakeup, written)


def _quiet(ignored: Any) -> None:
    """Say nothing of a signal that was raised where Python ignores errors, as in a finaliser: the thread sees to it."""
    if not isinstance(ignored.exc_value, Stopped):
        sys.__unraisablehook__(ignored)


def _raising(owner: int) -> Any:
    raised = False

    def stop(number: int, _: Any) -> None:
        nonlocal raised
        if os.getpid() != owner:  # a worker process that was forked: the first process speaks for it
            os._exit(128 + number)
        if not raised:
            raised = True
            raise Stopped(number)

    return stop


def _watch(heard: socket.socket, said: Any) -> None:
    """End the process `GRACE` seconds after the first signal, or at the second one."""
    number = _next_signal(heard)
    if number is None:
        return
    heard.settimeout(GRACE)
    with suppress(TimeoutError):
        _next_signal(heard)
    _say(number, said)
    os._exit(128 + number)


def _next_signal(heard: socket.socket) -> int | None:
    """The next of `SIGNALS` that arrives; None if the other end is closed."""
    while (byte := heard.recv(1)) and byte[0] not in SIGNALS:
        pass
    return byte[0] if byte else None


def _say(number: int, said: Any) -> None:
    if said.acquire(blocking=False):  # once
        name = signal.Signals(number).name
        print(f"expandr: stopped by {name}: what is finished is kept, and the same command continues", file=sys.stderr)
        sys.stderr.flush()


def _put_back(handlers: dict[signal.Signals, Any], wakeup: int, written: socket.socket) -> None:
    signal.set_wakeup_fd(wakeup)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    written.close()
