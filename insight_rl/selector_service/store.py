"""What the selector service keeps on disk: pools, runs, the log of their operations and snapshots of their state.

One SQLite file in write-ahead mode. ``synchronous=FULL`` makes a commit wait until the log is on the disk itself, so
that a power cut loses nothing acknowledged (``NORMAL`` would survive ``kill -9`` only). That wait is shared: a single
writer thread commits whatever has queued up meanwhile in one transaction.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from insight_rl.errors import UsageError
from insight_rl.files import lock_folder
from insight_rl.state_codec import encode_state

T = TypeVar("T")

MAX_GROUP = 256
"""Transactions that share one wait for the disk."""
_FORMAT = 1
_STATEMENTS = """
CREATE TABLE pools (
    pool TEXT PRIMARY KEY, num_prompts INTEGER, fingerprint TEXT
);
CREATE TABLE chunks (
    pool TEXT NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, PRIMARY KEY (pool, number)
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT UNIQUE NOT NULL, definition TEXT NOT NULL,
    base_version INTEGER NOT NULL, forked_from TEXT, created_at REAL NOT NULL
);
CREATE TABLE operations (
    run_id INTEGER NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL, step INTEGER NOT NULL,
    round INTEGER NOT NULL, request TEXT NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (run_id, version), UNIQUE (run_id, kind, step, round)
);
CREATE TABLE snapshots (
    run_id INTEGER NOT NULL, version INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY (run_id, version)
);
"""
_VIEW_STATEMENTS = """
CREATE TABLE IF NOT EXISTS activity (
    run_id INTEGER PRIMARY KEY, last_seen_at REAL NOT NULL, is_finished INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS accuracies (
    run_id INTEGER NOT NULL, step INTEGER NOT NULL, accuracy REAL NOT NULL, PRIMARY KEY (run_id, step)
);
"""
"""What only the page shows; a version of the service that does not know these tables leaves them alone."""
_CLOSE = object()


class OutOfOrder(RuntimeError):
    """An operation whose predecessor did not reach the log; it must not reach it either."""


class Store:
    """The open data folder, locked against a second service until :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        """Raises ``UsageError`` if the folder cannot be used."""
        self._lock_file = lock_folder(
            folder,
            key="--data-dir",
            occupied="another service is using it; choose another",
            remedy="choose another",
        )
        self._path = folder / "selector.sqlite"
        try:
            self._refuse_damage()
            self._writer = self._connect()
            self._prepare(folder)
            self._reader = self._connect()
        except (UsageError, sqlite3.DatabaseError) as error:
            self._lock_file.close()
            raise error if isinstance(error, UsageError) else self._damaged(str(error)) from error
        self._reader_lock = threading.Lock()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.num_commits = 0
        self._thread = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _refuse_damage(self) -> None:
        """Raises ``UsageError`` for a file that is not as SQLite left it. Reads it once from end to end."""
        if not self._path.exists():
            return
        if self._path.stat().st_size == 0:
            raise self._damaged("it is empty")
        with closing(sqlite3.connect(self._path, timeout=30.0)) as connection:
            (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if finding != "ok":
            raise self._damaged(str(finding))

    def _damaged(self, finding: str) -> UsageError:
        reason = " ".join(finding.split())
        return UsageError(
            f"--data-dir: {self._path} is damaged ({reason}); restore it from a copy, or move it away to start without "
            "its runs"
        )

    def _prepare(self, folder: Path) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._writer.executescript(f"BEGIN; {_STATEMENTS} PRAGMA user_version = {_FORMAT}; COMMIT;")
        elif version != _FORMAT:
            raise UsageError(
                f"--data-dir={str(folder)!r}: written in format {version}, this version reads {_FORMAT}; use the "
                "version that wrote it, or another folder"
            )
        self._writer.executescript(_VIEW_STATEMENTS)

    # Writing

    def submit(self, write: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Have the writer thread run ``write``; the future is done once its transaction is on disk.

        Writes take effect in the order submitted. One that raises has no effect; the others of its group do.
        """
        future: Future[T] = Future()
        self._queue.put((write, future))
        return future

    def _write_loop(self) -> None:
        while True:
            item = self._queue.get()
            if item is _CLOSE:
                return
            group = [item]
            while len(group) < MAX_GROUP and not self._queue.empty():
                item = self._queue.get_nowait()
                if item is _CLOSE:
                    self._queue.put(_CLOSE)
                    break
                group.append(item)
            self._commit(group)

    def _commit(self, group: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for write, _ in group:
                outcomes.append(self._run_alone(write))
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            outcomes = [(None, error)] * len(group)
        self.num_commits += 1
        for (_, future), (result, failure) in zip(group, outcomes, strict=True):
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _run_alone(self, write: Callable[[sqlite3.Connection], Any]) -> tuple[Any, Exception | None]:
        """Run one write of a group; the exception goes to whoever submitted it."""
        self._writer.execute("SAVEPOINT one")
        try:
            result = write(self._writer)
        except Exception as error:
            if not self._writer.in_transaction:  # e.g. a full disk: SQLite has rolled back the whole group
                raise sqlite3.OperationalError(str(error)) from error
            self._writer.execute("ROLLBACK TO one")
            self._writer.execute("RELEASE one")
            return None, error
        self._writer.execute("RELEASE one")
        return result, None

    def append(
        self, run_id: int, version: int, kind: str, step: int, round: int, request: str, result: str
    ) -> Future[None]:
        """Log operation number ``version`` of a run; fails unless operation ``version - 1`` is there."""

        def write(connection: sqlite3.Connection) -> None:
            if _last_version(connection, run_id) != version - 1:
                raise OutOfOrder(f"operation {version} of run {run_id} has no predecessor in the log")
            connection.execute(
                "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run_id, version, kind, step, round, request, result),
            )
            _note_activity(connection, run_id, is_finished=False)

        return self.submit(write)

    def report(self, run_id: int, step: int, *, accuracy: float | None, is_finished: bool) -> Future[None]:
        """Keep what the page shows of a run besides its selector."""

        def write(connection: sqlite3.Connection) -> None:
            if accuracy is not None:
                connection.execute("INSERT OR REPLACE INTO accuracies VALUES (?, ?, ?)", (run_id, step, accuracy))
            _note_activity(connection, run_id, is_finished=is_finished)

        return self.submit(write)

    def save_snapshot(self, run_id: int, version: int, state: Mapping[str, Any], *, keep: int) -> Future[None]:
        """Keep ``state`` (which must not change any more) and the ``keep`` newest of the run."""

        def write(connection: sqlite3.Connection) -> None:
            if _last_version(connection, run_id) != version:
                raise OutOfOrder(f"snapshot {version} of run {run_id} is ahead of the log")
            connection.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (run_id, version, encode_state(state))
            )
            connection.execute(
                "DELETE FROM snapshots WHERE run_id = ?1 AND version NOT IN (SELECT version FROM snapshots WHERE "
                "run_id = ?1 ORDER BY version DESC LIMIT ?2) "
                "AND version != (SELECT base_version FROM runs WHERE id = ?1)",  # a fork has no log before its first
                (run_id, keep),
            )

        return self.submit(write)

    # Reading

    def read(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._reader_lock:
            return self._reader.execute(statement, parameters).fetchall()

    def scan(self, statement: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        """Like :meth:`read` for many rows, one at a time and without holding up other readers."""
        with closing(self._connect()) as connection:
            yield from connection.execute(statement, parameters)

    def last_version(self, run_id: int) -> int:
        with self._reader_lock:
            return _last_version(self._reader, run_id)

    def snapshots(self, run_id: int, *, at_most: int) -> Iterator[tuple[int, bytes]]:
        """Version and encoded state of each snapshot of a run up to that version, the newest first."""
        where = "FROM snapshots WHERE run_id = ? AND version"
        for (version,) in self.read(f"SELECT version {where} <= ? ORDER BY version DESC", run_id, at_most):
            for (state,) in self.read(f"SELECT state {where} = ?", run_id, version):
                yield version, state

    def close(self) -> None:
        """Write what is queued and release the folder."""
        self._queue.put(_CLOSE)
        self._thread.join()
        self._reader.close()
        self._writer.close()
        self._lock_file.close()


def _note_activity(connection: sqlite3.Connection, run_id: int, *, is_finished: bool) -> None:
    connection.execute("INSERT OR REPLACE INTO activity VALUES (?, ?, ?)", (run_id, time.time(), is_finished))


def _last_version(connection: sqlite3.Connection, run_id: int) -> int:
    row = connection.execute(
        "SELECT coalesce((SELECT max(version) FROM operations WHERE run_id = ?1), base_version) "
        "FROM runs WHERE id = ?1",
        (run_id,),
    ).fetchone()
    if row is None:
        raise OutOfOrder(f"run {run_id} has been deleted")
    return int(row[0])
