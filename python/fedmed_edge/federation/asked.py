"""What the server asked this site to do, and how far it is: the site's own list.

    REQUESTS/ID.json

A sync writes down what is asked and reports what came of it; `duties` does it in between.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedmed_edge.federation.messages import Ask, Report
from fedmed_edge.federation.records import Records

__all__ = ["Asked", "Duty"]


class Duty(BaseModel):
    """One request of the server.

    Attributes:
        state: `open`, `answered` once `report` is known, `reported` once the server knows it.
        tries: How often it failed, and `not_before` when to try again (seconds since 1970).
        asked: When the server asked it last, in so far as it matters: first, and once after the deadline.
    """

    model_config = ConfigDict(frozen=True)

    ask: Ask
    state: Literal["open", "answered", "reported"] = "open"
    report: Report | None = None
    tries: int = 0
    not_before: float = 0.0
    asked: float = 0.0

    def is_wanted(self, now: float) -> bool:
        """Before its deadline, or asked again behind it: then the server still waits for this site."""
        return now < self.ask.deadline or self.asked >= self.ask.deadline


class Asked:
    """Requests of the server.

    Args:
        folder: `requests/` of the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._records = Records(folder, Duty)

    def note(self, asks: Iterable[Ask]) -> list[Duty]:
        """Write down what is asked now; those that are new. What is no longer asked goes."""
        now, wanted = time.time(), {ask.id: ask for ask in asks}
        known = {duty.ask.id: duty for duty in self._records.all()}
        for gone in known.keys() - wanted.keys():
            self._records.delete(gone)
        for key, duty in known.items():
            if key in wanted and not duty.is_wanted(now):
                self._records.write(key, duty.model_copy(update={"asked": now}))
        new = [Duty(ask=wanted[key], asked=now) for key in wanted if key not in known]
        for duty in new:
            self._records.write(duty.ask.id, duty)
        return new

    def all(self) -> list[Duty]:
        """Everything that is asked, the most urgent first."""
        return sorted(self._records.all(), key=lambda duty: (duty.ask.deadline, duty.ask.id))

    def open(self) -> list[Duty]:
        """What is to be done now, the most urgent first; nothing for which the server may wait no longer."""
        now = time.time()
        return [
            duty
            for duty in self.all()
            if duty.state == "open" and duty.not_before <= now and duty.is_wanted(now)
        ]

    def put_off(self, duty: Duty, wait_s: float) -> None:
        """It failed: try it again later."""
        later = {"tries": duty.tries + 1, "not_before": time.time() + wait_s}
        self._records.write(duty.ask.id, duty.model_copy(update=later))

    def answer(self, duty: Duty, report: Report) -> None:
        """What came of it; the next sync reports it."""
        answered = duty.model_copy(update={"state": "answered", "report": report})
        self._records.write(duty.ask.id, answered)

    def answered(self) -> list[Duty]:
        """What the server is to be told."""
        return [duty for duty in self.all() if duty.state == "answered"]

    def told(self, duty: Duty) -> None:
        """The server knows."""
        self._records.write(duty.ask.id, duty.model_copy(update={"state": "reported"}))
