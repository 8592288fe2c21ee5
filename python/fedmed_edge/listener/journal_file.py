"""The file `journal.sqlite` itself: its tables, and one change at a time from all threads of the node."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmed_edge.errors import InputError

FORMAT_VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS series (
    series_uid TEXT PRIMARY KEY, study_uid TEXT NOT NULL, accession TEXT, patient TEXT, sender TEXT,
    received_at REAL NOT NULL, fresh INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
    sop_uid TEXT PRIMARY KEY, series_uid TEXT NOT NULL REFERENCES series ON DELETE CASCADE,
    path TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS instances_by_series ON instances (series_uid);
CREATE TABLE IF NOT EXISTS dropped (
    sop_uid TEXT PRIMARY KEY, series_uid TEXT NOT NULL REFERENCES series ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS dropped_by_series ON dropped (series_uid);
CREATE TABLE IF NOT EXISTS seen (series_uid TEXT PRIMARY KEY, instances INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    job INTEGER PRIMARY KEY, series_uid TEXT REFERENCES series ON DELETE SET NULL, state TEXT NOT NULL,
    instances TEXT, attempts INTEGER NOT NULL DEFAULT 0, queued_at REAL NOT NULL, finished_at REAL,
    seconds REAL, folder TEXT, model TEXT, reason TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_series ON jobs (series_uid);
CREATE TABLE IF NOT EXISTS answers (
    job INTEGER NOT NULL REFERENCES jobs, day TEXT NOT NULL, label TEXT, known INTEGER,
    study_uid TEXT, accession TEXT, patient TEXT);
CREATE TABLE IF NOT EXISTS made (sop_uid TEXT PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs);
CREATE TABLE IF NOT EXISTS deliveries (
    delivery INTEGER PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs, destination TEXT NOT NULL,
    sop_uid TEXT NOT NULL, path TEXT NOT NULL, fallback TEXT, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL, reason TEXT, UNIQUE (destination, sop_uid));
CREATE INDEX IF NOT EXISTS deliveries_by_state ON deliveries (state, due_at);
"""


class JournalFile:
    """An open journal; threads share one.

    Args:
        path: Made where it is missing.

    Raises:
        InputError: It cannot be opened or is of a newer release.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                path, timeout=30, isolation_level=None, check_same_thread=False
            )
            # The files themselves are flushed; what a power cut takes of the newest rows is found again.
            self._connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
            )
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version > FORMAT_VERSION:
                raise InputError(f"{path}: `version` has {version}, expected at most {FORMAT_VERSION}")
            self._connection.executescript(f"{_TABLES} PRAGMA user_version = {FORMAT_VERSION};")
        except sqlite3.Error as error:
            raise InputError(
                f"{path}: cannot be opened: {error}",
                hint="move its folder away: the node begins anew, and the images in it can be sent again",
            ) from None
        path.chmod(0o600)

    def close(self) -> None:
        """Give the file back; what was committed stays."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """All that the block does to the journal is one change, and nobody else's comes between."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection  # part of a larger one
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _execute(self, query: str, *values: Any) -> int:
        """One change; returns how many rows it met."""
        with self.change() as connection:
            return connection.execute(query, values).rowcount
