"""Messages for commands that cannot continue: a sentence if the user can fix it, full details if it is a bug."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version

from ..common.printable import printable

#: how libraries that do not raise OSError report errors from the system
SYSTEM_SAID = re.compile(
    r"\(os error \d+\)|No space left on device|disk is full|Disk quota exceeded|File too large|Permission denied|"
    r"Read-only file system|Input/output error|Too many open files|unable to open database file"
)


@contextmanager
def answered() -> Iterator[None]:
    """Turn what the block raises into a message and an exit status: 2 if the user can fix it, 1 for a bug."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # a stream of another kind is left as it is
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # what a terminal cannot show
    plain = warnings.formatwarning
    _show_controls()
    try:
        yield
    except Exception as error:
        if (sentence := mendable(error)) is None:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
            sentence = (
                f"this is a bug in pyterrier_expandr {version('pyterrier_expandr')}: please report the lines above and "
                f"the command to its issue tracker: expandr {shlex.join(sys.argv[1:])}"
            )
            _say(sentence)
            sys.exit(1)
        _say(sentence)
        sys.exit(2)
    finally:
        warnings.formatwarning = plain


def _show_controls() -> None:
    """Make warnings and log messages, which quote queries and file names, harmless for the terminal."""
    plain = warnings.formatwarning
    warnings.formatwarning = lambda *given, **named: printable(plain(*given, **named))

    class Shown(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Shown())


def mendable(error: BaseException) -> str | None:
    """One sentence on an error that the user can fix, or None if it is a bug.

    Example:
        >>> mendable(PermissionError(13, "Permission denied", "/root/index"))
        "Permission denied: '/root/index'"
        >>> mendable(KeyError("qid")) is None
        True
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return _sentence(cause) if cause is error else f"{_first_line(error)}: {_sentence(cause)}"
        if SYSTEM_SAID.search(str(cause)):
            return _first_line(cause)
        cause = cause.__cause__
    return str(error) if isinstance(error, (ValueError, TypeError, ImportError)) else None


def as_flags(sentence: str, options: Iterable[str]) -> str:
    """A sentence of the package's Python side as a user of the command line reads it: options by their flags.

    Args:
        sentence: names arguments as `mode='resume'` or `num_results`.
        options: those that the command has; others are left as they are, and so is what stands in quotes.

    Example:
        >>> as_flags("continue it with indexer(mode='resume')", ["mode"])
        'continue it with --mode resume'
        >>> as_flags("num_results must be 1 or more; 'a/num_results' is a file", ["num_results"])
        "--num-results must be 1 or more; 'a/num_results' is a file"
    """
    name = f"(?:{'|'.join(sorted(map(re.escape, options), key=len, reverse=True))})"
    given = rf"(?:indexer\()?(?P<given>{name})=(?P<value>'[^']*'|\"[^\"]*\"|\.\.\.|[\w.-]*\w)\)?"
    alone = rf"(?:(?=\w+_)|(?<=leave out ))(?P<alone>{name})(?=[ ,;:.)]|$)|^(?P<first>{name})(?= must)"
    return re.sub(rf"(?<![\w./'\"-])(?:{given}|{alone}|'[^']*')", _as_flag, sentence)


def _as_flag(found: re.Match[str]) -> str:
    if found["given"]:
        return f"{_flag(found['given'])} " + found["value"].strip("'\"")
    option = found["alone"] or found["first"]
    return _flag(option) if option else found[0]


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _sentence(error: OSError) -> str:
    """The system's error message and the file, without the error number."""
    if error.strerror is None or error.args[:1] != (error.errno,):
        return str(error)
    files = " -> ".join(repr(str(name)) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror}: {files}" if files else error.strerror


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _say(sentence: str) -> None:
    print(f"expandr: error: {printable(sentence)}", file=sys.stderr)
