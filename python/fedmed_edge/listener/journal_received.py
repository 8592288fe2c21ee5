"""The journal's part about what came in: series, their instances, and what the archive had already."""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedmed_edge.listener.journal_file import JournalFile

# Series that nothing is to be done with: all answered, nothing waiting to be sent.
_AT_REST = """
SELECT series_uid FROM series WHERE received_at < ? AND NOT fresh AND NOT EXISTS (
    SELECT 1 FROM jobs LEFT JOIN deliveries USING (job) WHERE jobs.series_uid = series.series_uid AND (
        jobs.state IN ('queued', 'running') OR deliveries.state = 'pending'))
"""


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


class Received(JournalFile):
    """Series and instances."""

    def receive(self, one: Instance) -> bool:
        """Note a file that is on the disk; False where it was noted before.

        A repeated instance of a series whose last job failed, also with another content, has the series
        answered again.
        """
        with self.change() as connection:
            connection.execute(
                "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
                (one.series_uid, one.study_uid, one.accession, one.patient, one.sender, time.time()),
            )
            new = connection.execute(
                "INSERT INTO instances VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (one.sop_uid, one.series_uid, str(one.path), one.sha256, one.bytes),
            ).rowcount
            connection.execute(
                "UPDATE instances SET sha256 = ?, bytes = ? WHERE sop_uid = ?",
                (one.sha256, one.bytes, one.sop_uid),
            )
            connection.execute("DELETE FROM dropped WHERE sop_uid = ?", (one.sop_uid,))
            wanted = new or self._failed(connection, one.series_uid)
            if wanted:
                connection.execute(
                    "UPDATE series SET fresh = 1, received_at = ? WHERE series_uid = ?",
                    (time.time(), one.series_uid),
                )
            return bool(new)

    def last_failed(self, series_uid: str) -> bool:
        """Whether the last job of a series failed."""
        with self.change() as connection:
            return self._failed(connection, series_uid)

    @staticmethod
    def _failed(connection: sqlite3.Connection, series_uid: str) -> bool:
        last = connection.execute(
            "SELECT state FROM jobs WHERE series_uid = ? ORDER BY job DESC LIMIT 1", (series_uid,)
        ).fetchone()
        return bool(last == ("failed",))

    def fresh(self) -> set[str]:
        """Series with instances that no job has."""
        return {uid for (uid,) in self._rows("SELECT series_uid FROM series WHERE fresh = 1")}

    def is_ours(self, sop_uid: str) -> bool:
        """Whether this node made the object itself."""
        return bool(self._rows("SELECT 1 FROM made WHERE sop_uid = ?", sop_uid))

    def instances_of(self, series_uid: str) -> int:
        """How many instances of a series are on the disk."""
        ((count,),) = self._rows("SELECT count(*) FROM instances WHERE series_uid = ?", series_uid)
        return int(count)

    def seen(self) -> dict[str, int]:
        """Series of the archive, and how many instances each had when all were last here, kept or not."""
        return {str(uid): int(count) for uid, count in self._rows("SELECT series_uid, instances FROM seen")}

    def see(self, series_uid: str, instances: int) -> None:
        """All instances that the archive has of a series were here."""
        self._execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", series_uid, instances)

    def unsee(self, series_uids: Iterable[str]) -> None:
        """The archive tells of these series no more."""
        with self.change() as connection:
            connection.executemany("DELETE FROM seen WHERE series_uid = ?", [(uid,) for uid in series_uids])

    # --- what lies on the disk ---------------------------------------------------------------------------

    def paths(self) -> set[Path]:
        """Where every instance lies."""
        return {Path(path) for (path,) in self._rows("SELECT path FROM instances")}

    def paths_of(self, series_uid: str) -> list[Path]:
        """Where the instances of a series lie."""
        found = self._rows("SELECT path FROM instances WHERE series_uid = ?", series_uid)
        return [Path(path) for (path,) in found]

    def stored(self) -> tuple[int, int]:
        """How many instances are on the disk, and their bytes."""
        ((count, size),) = self._rows("SELECT count(*), coalesce(sum(bytes), 0) FROM instances")
        return int(count), int(size)

    def lose(self, path: Path) -> None:
        """An instance is not where it was."""
        self._drop("path = ?", str(path))

    def drop_instances(self, series_uid: str) -> None:
        """The files of a series are gone; what was answered stays, and which they were."""
        self._drop("series_uid = ?", series_uid)

    def _drop(self, which: str, value: str) -> None:
        with self.change() as connection:
            connection.execute(
                f"INSERT OR IGNORE INTO dropped SELECT sop_uid, series_uid FROM instances WHERE {which}",
                (value,),
            )
            connection.execute(f"DELETE FROM instances WHERE {which}", (value,))

    def at_rest(self, before: float) -> list[str]:
        """Series received before then that nothing is to be done with, the oldest first."""
        return [uid for (uid,) in self._rows(f"{_AT_REST} ORDER BY received_at", before)]

    def is_at_rest(self, series_uid: str, before: float) -> bool:
        """Whether one of these still is: an instance of it may have come since."""
        return bool(self._rows(f"{_AT_REST} AND series_uid = ?", before, series_uid))

    def drop_empty(self, before: float) -> None:
        """Forget series received before then whose instances are all gone."""
        self._execute(
            "DELETE FROM series WHERE NOT fresh AND series_uid NOT IN"
            " (SELECT series_uid FROM instances) AND received_at < ?",
            before,
        )
