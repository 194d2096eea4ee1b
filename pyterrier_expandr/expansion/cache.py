"""A durable store of generations: one SQLite file, keyed by everything that determines a text."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..common.files import path_of
from .backends.base import Generation, Request

#: version of the tables below, kept in the file; a higher number means that a newer release wrote the file
SCHEMA_VERSION = 1

#: seconds that a process waits for another one that has locked the file
TIMEOUT = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, model TEXT NOT NULL, messages TEXT NOT NULL,
    temperature REAL NOT NULL, top_p REAL NOT NULL, max_new_tokens INTEGER NOT NULL, seed INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS generation (
    request INTEGER NOT NULL REFERENCES request (id), sample INTEGER NOT NULL, text TEXT NOT NULL,
    truncated INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, refused INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (request, sample)
) WITHOUT ROWID;
"""

_COLUMNS = (
    "model",
    "messages",
    "temperature",
    "top_p",
    "max_new_tokens",
    "seed",
    "sample",
    "text",
    "truncated",
    "created",
    "refused",
)


class GenerationCache:
    """Raw generations, keyed by model fingerprint, messages, sampling, seed and sample number.

    Every `put` is one transaction, so a process that is killed loses at most what it had not yet put. Several processes
    may share a file on a local disk. The file can be read without the model, see `records`.

    Args:
        path: the SQLite file, created if missing; ":memory:" keeps everything in this process.

    Raises:
        ValueError: the file is not such a cache, is damaged, or was written by a newer release. It is left unchanged.
        OSError: the file cannot be opened for writing.

    Example:
        >>> from pyterrier_expandr.expansion.backends.base import Sampling
        >>> cache = GenerationCache()
        >>> request = Request(({"role": "user", "content": "Hi"},), Sampling())
        >>> cache.put({"model": "m"}, request, {0: Generation("Hello")})
        >>> cache.get({"model": "m"}, request)
        {0: Generation(text='Hello', truncated=False, refused=False)}
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        self.path = str(path_of(path))
        self._lock = threading.Lock()
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, timeout=TIMEOUT, check_same_thread=False)
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > SCHEMA_VERSION:
                raise ValueError(
                    f"{self.path!r} was written by a newer release (format {found}, this one reads {SCHEMA_VERSION}): "
                    "upgrade pyterrier_expandr, or use another cache file"
                )
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not {"request", "generation"} <= tables:
                raise ValueError(f"{self.path!r} is an SQLite file but not a generation cache: choose another file")
            _write_ahead(connection)
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            _add_refused(connection)
        except sqlite3.OperationalError as error:
            if connection is not None:
                connection.close()
            raise OSError(
                f"cannot write the cache {self.path!r}: {error}; check that the folder exists and is writable"
            ) from error
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
            raise ValueError(
                f"{self.path!r} is not a cache, or is damaged ({error}): move it away, or use another file"
            ) from error
        except ValueError:
            if connection is not None:
                connection.close()
            raise
        return connection

    def get(self, fingerprint: dict[str, Any], request: Request) -> dict[int, Generation]:
        """The stored generations among `request.samples`, by sample number."""
        wanted = set(request.samples)
        query = (
            "SELECT sample, text, truncated, refused FROM generation JOIN request ON request.id = generation.request "
            "WHERE request.key = ?"
        )
        with self._lock:
            rows = self._connection.execute(query, (_key(fingerprint, request),)).fetchall()
        return {
            sample: Generation(text, bool(truncated), bool(refused), cached=True)
            for sample, text, truncated, refused in rows
            if sample in wanted
        }

    def put(self, fingerprint: dict[str, Any], request: Request, generations: dict[int, Generation]) -> None:
        """Store generations by sample number, in one transaction; samples already stored are not overwritten."""
        self.put_many(fingerprint, [(request, generations)])

    def put_many(self, fingerprint: dict[str, Any], rows: Iterable[tuple[Request, dict[int, Generation]]]) -> None:
        """Store the generations of several requests in one transaction.

        Raises:
            OSError: the disk is full; everything stored before is kept.
        """
        try:
            with self._lock, self._connection:
                for request, generations in rows:
                    self._insert(fingerprint, request, generations)
        except sqlite3.OperationalError as error:
            raise OSError(
                f"cannot write the cache {self.path!r}: {error}; what was stored before is kept: free some disk "
                "space and start again"
            ) from error

    def _insert(self, fingerprint: dict[str, Any], request: Request, generations: dict[int, Generation]) -> None:
        key, sampling = _key(fingerprint, request), request.sampling
        self._connection.execute(
            "INSERT OR IGNORE INTO request (key, model, messages, temperature, top_p, max_new_tokens, seed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                json.dumps(fingerprint, sort_keys=True),
                json.dumps(request.messages, ensure_ascii=False),
                sampling.temperature,
                sampling.top_p,
                sampling.max_new_tokens,
                sampling.seed,
            ),
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO generation (request, sample, text, truncated, refused) "
            "SELECT id, ?, ?, ?, ? FROM request WHERE key = ?",
            [(sample, g.text, int(g.truncated), int(g.refused), key) for sample, g in generations.items()],
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """Every generation with what it was made from, as a dict; `model` and `messages` are decoded from JSON."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM generation JOIN request ON request.id = generation.request"
        with self._lock:
            rows = self._connection.execute(f"{query} ORDER BY request.id, sample").fetchall()
        for row in rows:
            record = dict(zip(_COLUMNS, row, strict=True))
            yield record | {
                "model": json.loads(record["model"]),
                "messages": json.loads(record["messages"]),
                "truncated": bool(record["truncated"]),
                "refused": bool(record["refused"]),
            }

    def close(self) -> None:
        """Close the file; the cache cannot be used afterwards."""
        self._connection.close()

    def __del__(self) -> None:
        # Python 3.13 warns of a connection that is still open when it is freed. There is none if opening failed.
        if connection := self.__dict__.get("_connection"):
            connection.close()

    def __len__(self) -> int:
        with self._lock, closing(self._connection.execute("SELECT COUNT(*) FROM generation")) as cursor:
            return int(cursor.fetchone()[0])

    def __repr__(self) -> str:
        return f"GenerationCache({self.path!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, waiting for other processes: SQLite's own timeout does not cover the switch."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:  # Python 3.10 gives no error code
                raise
            time.sleep(0.01)


def _add_refused(connection: sqlite3.Connection) -> None:
    """Add the column for refusals to a file of an earlier release; that release can still use the file."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if "refused" not in {row[1] for row in connection.execute("PRAGMA table_info(generation)")}:
            connection.execute("ALTER TABLE generation ADD COLUMN refused INTEGER NOT NULL DEFAULT 0")


def _key(fingerprint: dict[str, Any], request: Request) -> bytes:
    s = request.sampling
    identity = [fingerprint, request.messages, s.temperature, s.top_p, s.max_new_tokens, s.seed]
    return sha256(json.dumps(identity, sort_keys=True).encode()).digest()
