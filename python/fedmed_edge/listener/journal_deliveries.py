"""The journal's part about objects on their way out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmed_edge.listener.journal_file import JournalFile

_ALL_SENT = (
    "UPDATE jobs SET state = 'sent' WHERE state = 'done'"
    " AND EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.job AND state = 'sent')"
    " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.job AND state = 'pending')"
)


@dataclass(frozen=True)
class Delivery:
    """One object on its way; `fallback` goes instead where the destination takes no such class."""

    delivery: int
    job: int
    destination: str
    path: Path
    fallback: Path | None
    attempts: int


class Deliveries(JournalFile):
    """Objects and their destinations."""

    def take_deliveries(self, destinations: Sequence[str], lease_s: float) -> list[Delivery]:
        """Objects of one job that are due at one of these; nobody else takes them for `lease_s`."""
        now, marks = time.time(), ", ".join("?" * len(destinations))
        with self.change() as connection:
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
        with self.change() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, reason = ? WHERE delivery = ?",
                (state, reason, one.delivery),
            )
            connection.execute(f"{_ALL_SENT} AND job = ?", (one.job,))

    def postpone(self, one: Delivery, delay_s: float, reason: str) -> None:
        """It did not arrive: try again later."""
        self._execute(
            "UPDATE deliveries SET due_at = ?, reason = ? WHERE delivery = ?",
            *(time.time() + delay_s, reason, one.delivery),
        )

    def postpone_all(self, destination: str, delay_s: float) -> None:
        """The destination does not answer: what waits for it waits longer."""
        due_at = time.time() + delay_s
        self._execute(
            "UPDATE deliveries SET due_at = ? WHERE destination = ? AND state = 'pending' AND due_at < ?",
            *(due_at, destination, due_at),
        )

    def next_due(self, destinations: Sequence[str]) -> float | None:
        """When a delivery to one of these is due next, as `time.time()`; None where nothing waits."""
        marks = ", ".join("?" * len(destinations))
        ((due_at,),) = self._rows(
            f"SELECT min(due_at) FROM deliveries WHERE state = 'pending' AND destination IN ({marks})",
            *destinations,
        )
        return None if due_at is None else float(due_at)

    def waits_since(self, destinations: Sequence[str], before: float) -> bool:
        """Whether a result that was there at `before` still waits for one of these."""
        marks = ", ".join("?" * len(destinations))
        found = self._rows(
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
        with self.change() as connection:
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
        self._execute("UPDATE deliveries SET due_at = 0 WHERE state = 'pending'")

    def expire(self, before: float) -> int:
        """Give up what was answered before then and still waits; returns how many objects."""
        with self.change() as connection:
            given_up = connection.execute(
                "UPDATE deliveries SET state = 'expired' WHERE state = 'pending' AND job IN"
                " (SELECT job FROM jobs WHERE finished_at < ?)",
                (before,),
            ).rowcount
            connection.execute(_ALL_SENT)
            return given_up

    def waiting(self) -> int:
        """How many objects wait."""
        return self.deliveries_by_state().get("pending", 0)

    def deliveries_by_state(self) -> dict[str, int]:
        """State → how many objects are in it."""
        return dict(self._rows("SELECT state, count(*) FROM deliveries GROUP BY state"))
