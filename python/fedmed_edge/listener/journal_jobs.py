"""The journal's part about answers: series that wait for one, what was found, and where results lie."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedmed_edge.listener.journal_file import JournalFile
from fedmed_edge.listening import LabelKey

MOST_ATTEMPTS = 3
"""Of a job that was running whenever the node ended: after the last it counts as failed."""

_COLUMNS: dict[LabelKey, str] = {
    "AccessionNumber": "accession",
    "StudyInstanceUID": "study_uid",
    "PatientID": "patient",
}


@dataclass(frozen=True)
class Job:
    """One series to be answered: its files as they were when it was taken up.

    Attributes:
        instances: SHA-256 over the files' own, in order of SOPInstanceUID: another set is another result.
        missing: How many instances were here before, are no longer, and have not come again.
    """

    job: int
    series_uid: str
    study_uid: str
    instances: str
    files: tuple[Path, ...]
    missing: int = 0


@dataclass(frozen=True)
class Answer:
    """What a job found, for one image of it: a label, and whether the image is like those of the sites."""

    label: str | None
    known: bool | None


class Jobs(JournalFile):
    """Jobs and answers."""

    def settle(self, series_uid: str) -> None:
        """The series is complete for now: it waits for its turn."""
        with self.change() as connection:
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
        with self.change() as connection:
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
            (missing,) = connection.execute(
                "SELECT count(*) FROM dropped WHERE series_uid = ?", (series_uid,)
            ).fetchone()
            digest = hashlib.sha256("".join(sha256 for _, sha256 in files).encode()).hexdigest()
            connection.execute(
                "UPDATE jobs SET state = 'running', instances = ?, attempts = attempts + 1 WHERE job = ?",
                (digest, job),
            )
            return Job(job, series_uid, study_uid, digest, tuple(Path(path) for path, _ in files), missing)

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
        with self.change() as connection:
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
        with self.change() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'failed', finished_at = ?, reason = 'the node ended while it ran'"
                " WHERE state = 'running' AND attempts >= ?",
                (time.time(), MOST_ATTEMPTS),
            )
            connection.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")

    def give_back(self, job: Job) -> None:
        """A job that was interrupted by no fault of its own waits again."""
        self._execute("UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE job = ?", job.job)

    # --- what was found ----------------------------------------------------------------------------------

    def jobs_by_state(self) -> dict[str, int]:
        """State → how many jobs are in it."""
        return dict(self._rows("SELECT state, count(*) FROM jobs GROUP BY state"))

    def answers_by_day(self) -> list[tuple[str, str, int | None, int]]:
        """Day, label, whether known (None: cannot be told) and how many; also of studies that are purged."""
        return [
            (str(day), str(label), known, int(count))
            for day, label, known, count in self._rows(
                "SELECT day, coalesce(label, ''), known, count(*) FROM answers GROUP BY 1, 2, 3 ORDER BY 1, 2"
            )
        ]

    def answers_by(self, key: LabelKey) -> list[tuple[str | None, str]]:
        """What names the study, and the label, of every answer."""
        found = self._rows(f"SELECT {_COLUMNS[key]}, coalesce(label, '') FROM answers")
        return [(name, str(label)) for name, label in found]

    def not_answered(self) -> dict[str, int]:
        """State and reason of what was skipped or failed → how many, the most first."""
        rows = self._rows(
            "SELECT state || ': ' || coalesce(reason, ''), count(*) FROM jobs"
            " WHERE state IN ('failed', 'skipped') GROUP BY 1 ORDER BY 2 DESC"
        )
        return {str(reason): int(count) for reason, count in rows}

    def failed(self) -> list[dict[str, str]]:
        """Accession number, UIDs of study and series, and `reason`, of every series whose last job failed."""
        rows = self._rows(
            "SELECT coalesce(accession, ''), study_uid, series_uid, coalesce(reason, '')"
            " FROM jobs JOIN series USING (series_uid) WHERE state = 'failed'"
            " AND job = (SELECT max(job) FROM jobs AS later WHERE later.series_uid = series.series_uid)"
            " ORDER BY job"
        )
        names = ("AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "reason")
        return [dict(zip(names, map(str, row), strict=True)) for row in rows]

    # --- where results lie -------------------------------------------------------------------------------

    def results_of(self, series_uid: str) -> list[Path]:
        """Folders of the results of a series."""
        found = self._rows("SELECT folder FROM jobs WHERE series_uid = ? AND folder IS NOT NULL", series_uid)
        return [Path(folder) for (folder,) in found]

    def sent_results(self) -> list[tuple[int, Path]]:
        """Jobs whose results have arrived where they go, the oldest first, and the folders that still lie."""
        found = self._rows(
            "SELECT job, folder FROM jobs WHERE state = 'sent' AND folder IS NOT NULL ORDER BY job"
        )
        return [(int(job), Path(folder)) for job, folder in found]

    def drop_result(self, job: int) -> None:
        """The folder of a job's results is gone."""
        self._execute("UPDATE jobs SET folder = NULL WHERE job = ?", job)

    def forget(self, series_uid: str) -> None:
        """All of a series goes but the counts of its answers."""
        own = "(SELECT job FROM jobs WHERE series_uid = ?)"
        with self.change() as connection:
            for change in (
                f"UPDATE answers SET study_uid = NULL, accession = NULL, patient = NULL WHERE job IN {own}",
                f"DELETE FROM deliveries WHERE job IN {own}",
                f"DELETE FROM made WHERE job IN {own}",
                "UPDATE jobs SET folder = NULL, reason = NULL WHERE series_uid = ?",
                "DELETE FROM series WHERE series_uid = ?",
            ):
                connection.execute(change, (series_uid,))
