"""What the node has received, what is to be done with it, and how far that is; survives a kill at any point.

A file is on the disk before its row, and a row is there before anybody is told. The other order of a crash, a
file without a row, is mended when the node starts (`Incoming.recover`).

    series     fresh → (settled) → a job
    job        queued → running → done | skipped | failed; done → sent, once all its deliveries are
    delivery   pending → sent | refused (its class is not taken there) | expired
"""

import contextlib
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedmed_edge.errors import InputError

JOURNAL = "journal.sqlite"
FORMAT_VERSION = 1
MOST_ATTEMPTS = 3
"""Of a job that was running when the node ended: the fourth time it counts as failed."""

_TABLES = """
CREATE TABLE IF NOT EXISTS series (
    series_uid TEXT PRIMARY KEY, study_uid TEXT NOT NULL, accession TEXT, patient TEXT, sender TEXT,
    received_at REAL NOT NULL, fresh INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
    sop_uid TEXT PRIMARY KEY, series_uid TEXT NOT NULL REFERENCES series ON DELETE CASCADE,
    path TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS instances_by_series ON instances (series_uid);
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

_ALL_SENT = (
    "UPDATE jobs SET state = 'sent' WHERE state = 'done'"
    " AND EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.job AND state = 'sent')"
    " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.job AND state = 'pending')"
)


@dataclass(frozen=True)
class Instance:
    """One received file.

    Attributes:
        sender: AE title, or address of the archive, that it came from.
    """

    sop_uid: str
    series_uid: str
    study_uid: str
    accession: str
    patient: str
    sender: str
    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Job:
    """One series to be answered: its files as they were when it was taken up.

    Attributes:
        instances: SHA-256 over the files' own, in order of SOPInstanceUID: another set is another result.
    """

    job: int
    series_uid: str
    study_uid: str
    instances: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Answer:
    """What a job found, for one image of it: a label, and whether the image is like those of the sites."""

    label: str | None
    known: bool | None


@dataclass(frozen=True)
class Delivery:
    """One object on its way; `fallback` goes instead where the destination takes no such class."""

    delivery: int
    job: int
    destination: str
    path: Path
    fallback: Path | None
    attempts: int


class Journal:
    """The file `journal.sqlite`; threads of the node share one.

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
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def execute(self, query: str, *values: Any) -> int:
        """One change; returns how many rows it met."""
        with self._write() as connection:
            return connection.execute(query, values).rowcount

    # --- received ----------------------------------------------------------------------------------------

    def receive(self, one: Instance) -> bool:
        """Note a file that is on the disk; False where it was noted before.

        A repeated instance of a series whose last job failed has the series answered again.
        """
        with self._write() as connection:
            connection.execute(
                "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
                (one.series_uid, one.study_uid, one.accession, one.patient, one.sender, time.time()),
            )
            new = connection.execute(
                "INSERT INTO instances VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (one.sop_uid, one.series_uid, str(one.path), one.sha256, one.bytes),
            ).rowcount
            wanted = new or self._failed(connection, one.series_uid)
            if wanted:
                connection.execute(
                    "UPDATE series SET fresh = 1, received_at = ? WHERE series_uid = ?",
                    (time.time(), one.series_uid),
                )
            return bool(new)

    @staticmethod
    def _failed(connection: sqlite3.Connection, series_uid: str) -> bool:
        last = connection.execute(
            "SELECT state FROM jobs WHERE series_uid = ? ORDER BY job DESC LIMIT 1", (series_uid,)
        ).fetchone()
        return bool(last == ("failed",))

    def fresh(self) -> set[str]:
        """Series with instances that no job has."""
        return {uid for (uid,) in self.rows("SELECT series_uid FROM series WHERE fresh = 1")}

    def is_ours(self, sop_uid: str) -> bool:
        """Whether this node made the object itself."""
        return bool(self.rows("SELECT 1 FROM made WHERE sop_uid = ?", sop_uid))

    def instances_of(self, series_uid: str) -> int:
        """How many instances of a series are on the disk."""
        ((count,),) = self.rows("SELECT count(*) FROM instances WHERE series_uid = ?", series_uid)
        return int(count)

    # --- the archive that is polled ----------------------------------------------------------------------

    def seen(self) -> dict[str, int]:
        """Series of the archive, and how many instances each had when all were last here, kept or not."""
        return {str(uid): int(count) for uid, count in self.rows("SELECT series_uid, instances FROM seen")}

    def see(self, series_uid: str, instances: int) -> None:
        """All instances that the archive has of a series were here."""
        self.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", series_uid, instances)

    def unsee(self, series_uids: Iterable[str]) -> None:
        """The archive tells of these series no more."""
        with self._write() as connection:
            connection.executemany("DELETE FROM seen WHERE series_uid = ?", [(uid,) for uid in series_uids])

    # --- jobs --------------------------------------------------------------------------------------------

    def settle(self, series_uid: str) -> None:
        """The series is complete for now: it waits for its turn."""
        with self._write() as connection:
            settled = connection.execute(
                "UPDATE series SET fresh = 0 WHERE series_uid = ? AND fresh = 1", (series_uid,)
            ).rowcount
            queued = connection.execute(
                "SELECT 1 FROM jobs WHERE series_uid = ? AND state = 'queued'", (series_uid,)
            ).fetchone()
            if settled and not queued:
                connection.execute(
                    "INSERT INTO jobs (series_uid, state, queued_at) VALUES (?, 'queued', ?)",
                    (series_uid, time.time()),
                )

    def take_job(self) -> Job | None:
        """The oldest waiting job, from now on running; one whose series grows again waits on."""
        with self._write() as connection:
            found = connection.execute(
                "SELECT job, series_uid, study_uid FROM jobs JOIN series USING (series_uid)"
                " WHERE state = 'queued' AND NOT fresh ORDER BY job LIMIT 1"
            ).fetchone()
            if found is None:
                return None
            job, series_uid, study_uid = found
            files = connection.execute(
                "SELECT path, sha256 FROM instances WHERE series_uid = ? ORDER BY sop_uid", (series_uid,)
            ).fetchall()
            digest = hashlib.sha256("".join(sha256 for _, sha256 in files).encode()).hexdigest()
            connection.execute(
                "UPDATE jobs SET state = 'running', instances = ?, attempts = attempts + 1 WHERE job = ?",
                (digest, job),
            )
            return Job(job, series_uid, study_uid, digest, tuple(Path(path) for path, _ in files))

    def finish_job(
        self,
        job: Job,
        state: str,
        *,
        reason: str | None = None,
        seconds: float = 0.0,
        folder: Path | None = None,
        model: str | None = None,
        answers: Sequence[Answer] = (),
        made: Mapping[Path, str] = MappingProxyType({}),
        deliveries: Sequence[tuple[str, Path, Path | None]] = (),
    ) -> None:
        """A job has ended, and this is all that follows from it, in one change.

        Args:
            state: `done`, `skipped` (the model is not for such a series) or `failed`.
            made: Files of the objects made, with their SOPInstanceUIDs.
            deliveries: Destination, object and its fallback; an object goes to a destination once.
        """
        now, day = time.time(), time.strftime("%Y-%m-%d")
        with self._write() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, reason = ?, seconds = ?, folder = ?, model = ?, finished_at = ?"
                " WHERE job = ?",
                (state, reason, seconds, folder and str(folder), model, now, job.job),
            )
            connection.executemany(
                "INSERT INTO answers SELECT ?, ?, ?, ?, study_uid, accession, patient FROM series"
                " WHERE series_uid = ?",
                [(job.job, day, one.label, one.known, job.series_uid) for one in answers],
            )
            connection.executemany(
                "INSERT INTO made VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(uid, job.job) for uid in made.values()],
            )
            connection.executemany(
                "INSERT INTO deliveries (job, destination, sop_uid, path, fallback, state, due_at)"
                " VALUES (?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING",
                [
                    (job.job, to, made[path], str(path), fallback and str(fallback), now)
                    for to, path, fallback in deliveries
                ],
            )

    def requeue(self) -> None:
        """Jobs that were running when the node ended wait again; at the start, before any is taken."""
        with self._write() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'failed', finished_at = ?, reason = 'the node ended while it ran'"
                " WHERE state = 'running' AND attempts >= ?",
                (time.time(), MOST_ATTEMPTS),
            )
            connection.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")

    def give_back(self, job: Job) -> None:
        """A job that was interrupted by no fault of its own waits again."""
        self.execute("UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE job = ?", job.job)

    # --- deliveries --------------------------------------------------------------------------------------

    def take_deliveries(self, destinations: Sequence[str], lease_s: float) -> list[Delivery]:
        """Objects of one job that are due at one of these; nobody else takes them for `lease_s`."""
        now, marks = time.time(), ", ".join("?" * len(destinations))
        with self._write() as connection:
            first = connection.execute(
                "SELECT job, destination FROM deliveries WHERE state = 'pending' AND due_at <= ?"
                f" AND destination IN ({marks}) ORDER BY due_at, delivery LIMIT 1",
                (now, *destinations),
            ).fetchone()
            if first is None:
                return []
            rows = connection.execute(
                "SELECT delivery, job, destination, path, fallback, attempts FROM deliveries"
                " WHERE job = ? AND destination = ? AND state = 'pending' AND due_at <= ? ORDER BY delivery",
                (*first, now),
            ).fetchall()
            connection.executemany(
                "UPDATE deliveries SET due_at = ?, attempts = attempts + 1 WHERE delivery = ?",
                [(now + lease_s, row[0]) for row in rows],
            )
        return [
            Delivery(number, job, to, Path(path), Path(other) if other else None, attempts + 1)
            for number, job, to, path, other, attempts in rows
        ]

    def end_delivery(self, one: Delivery, state: str, reason: str | None = None) -> None:
        """It is `sent`, or `refused` for good; with the last of a job's that waited, the job is sent."""
        with self._write() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, reason = ? WHERE delivery = ?",
                (state, reason, one.delivery),
            )
            connection.execute(f"{_ALL_SENT} AND job = ?", (one.job,))

    def postpone(self, one: Delivery, delay_s: float, reason: str) -> None:
        """It did not arrive: try again later."""
        self.execute(
            "UPDATE deliveries SET due_at = ?, reason = ? WHERE delivery = ?",
            *(time.time() + delay_s, reason, one.delivery),
        )

    def postpone_all(self, destination: str, delay_s: float) -> None:
        """The destination does not answer: what waits for it waits longer."""
        due_at = time.time() + delay_s
        self.execute(
            "UPDATE deliveries SET due_at = ? WHERE destination = ? AND state = 'pending' AND due_at < ?",
            *(due_at, destination, due_at),
        )

    def next_due(self, destinations: Sequence[str]) -> float | None:
        """When a delivery to one of these is due next, as `time.time()`; None where nothing waits."""
        marks = ", ".join("?" * len(destinations))
        ((due_at,),) = self.rows(
            f"SELECT min(due_at) FROM deliveries WHERE state = 'pending' AND destination IN ({marks})",
            *destinations,
        )
        return None if due_at is None else float(due_at)

    def waits_since(self, destinations: Sequence[str], before: float) -> bool:
        """Whether a result that was there at `before` still waits for one of these."""
        marks = ", ".join("?" * len(destinations))
        found = self.rows(
            "SELECT 1 FROM deliveries JOIN jobs USING (job) WHERE deliveries.state = 'pending'"
            f" AND finished_at < ? AND destination IN ({marks}) LIMIT 1",
            *(before, *destinations),
        )
        return bool(found)

    def readdress(self, destinations: Sequence[str]) -> int:
        """Have what waits for a destination that is no longer named go to those that are.

        Returns:
            How many objects waited there: the address was mistyped, or the PACS has moved.
        """
        marks = ", ".join("?" * len(destinations))
        with self._write() as connection:
            strays = connection.execute(
                "SELECT delivery, job, sop_uid, path, fallback, due_at FROM deliveries"
                f" WHERE state = 'pending' AND destination NOT IN ({marks})",
                destinations,
            ).fetchall()
            connection.executemany("DELETE FROM deliveries WHERE delivery = ?", [row[:1] for row in strays])
            connection.executemany(
                "INSERT INTO deliveries (job, sop_uid, path, fallback, due_at, destination, state)"
                " VALUES (?, ?, ?, ?, ?, ?, 'pending') ON CONFLICT DO NOTHING",
                [(*row[1:], to) for row in strays for to in destinations],
            )
            connection.execute(_ALL_SENT)
        return len(strays)

    def hurry(self) -> None:
        """All that waits to be sent is due now."""
        self.execute("UPDATE deliveries SET due_at = 0 WHERE state = 'pending'")


def open_journal(folder: Path) -> Journal:
    """The journal of a node's folder that is there already.

    Raises:
        InputError: There is none.
    """
    if not (folder / JOURNAL).is_file():
        raise InputError(f"{folder}: has no {JOURNAL}", hint="`fedmed-edge listen` makes it when it runs")
    return Journal(folder / JOURNAL)
