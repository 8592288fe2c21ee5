"""Results on their way out: tried until they arrive, each time after a longer while."""

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fedmed_edge.backoff import wait_s
from fedmed_edge.errors import FedmedError, InputError, Undelivered
from fedmed_edge.listener.destinations import Destination, check_object, destination_of
from fedmed_edge.listener.journal import Journal, open_journal
from fedmed_edge.listening import Listen

log = logging.getLogger(__name__)

LEASE_S = 300.0
LATE_S = 900.0
"""A result that is older than this and has not arrived is a fault."""
_FIRST_DELAY_S, _LONGEST_DELAY_S = 5.0, 3600.0


def _delay_s(attempts: int) -> float:
    """Until the next try, of what was tried so often; from 1."""
    return wait_s(attempts - 1, _FIRST_DELAY_S, _LONGEST_DELAY_S)


class Delivering:
    """Sends what the journal holds, in one thread.

    Raises:
        InputError: A destination is none.
    """

    def __init__(self, settings: Listen, journal: Journal) -> None:
        self._journal = journal
        self._destinations = {to: destination_of(to, settings) for to in settings.destination}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="delivering", daemon=True)

    def start(self) -> None:
        """Send from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more; what was not confirmed is sent after the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    @property
    def well(self) -> bool:
        """Whether what is to be sent arrives within `LATE_S`."""
        try:
            late = self._journal.waits_since(list(self._destinations), time.time() - LATE_S)
        except sqlite3.Error:
            return False
        return self._thread.is_alive() and not late

    def wake(self) -> None:
        """There is something to send."""
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while not self._stopping:
            try:
                if not deliver_one(self._journal, self._destinations):
                    self._wait()
            except Exception:
                log.error("listen: a delivery could not be recorded")
                log.debug("", exc_info=True)
                time.sleep(1)

    def _wait(self) -> None:
        with self._changed:
            if self._stopping:
                return
            due = self._journal.next_due(list(self._destinations))
            self._changed.wait(None if due is None else max(0.05, due - time.time()))


def deliver_one(journal: Journal, destinations: dict[str, Destination]) -> bool:
    """Send the objects of one job that are due at one destination; False where none is."""
    due = journal.take_deliveries(list(destinations), LEASE_S)
    if not due:
        return False
    to = due[0].destination
    try:
        sent = destinations[to].store([(one.path, one.fallback) for one in due])
    except FedmedError as error:
        for one in due:
            journal.postpone(one, _delay_s(one.attempts), str(error))
        journal.postpone_all(to, _delay_s(due[0].attempts))
        log.warning("listen: %s; it is tried again", error)
        return True
    except Exception as error:  # one object that cannot be read holds up no other
        log.debug("", exc_info=True)
        for one in due:
            journal.postpone(one, _delay_s(one.attempts), type(error).__name__)
        return True
    for one, outcome in zip(due, sent, strict=True):
        if outcome.stored:
            journal.end_delivery(one, "sent", outcome.note)
        else:
            if outcome.final:
                journal.end_delivery(one, "refused", outcome.note)
            else:
                journal.postpone(one, _delay_s(one.attempts), outcome.note or "")
            log.warning("listen: an object was not taken by %s: %s", to, outcome.note)
    return True


def send_spool(settings: Listen) -> tuple[int, int]:
    """Try everything that waits, now.

    Returns:
        How many objects arrived, and how many still wait.

    Raises:
        InputError: Sending is not allowed yet, or there is no spool.
    """
    destinations, journal = _allowed(settings), open_journal(settings.folder)
    try:
        journal.readdress(settings.destination)
        before = journal.waiting()
        journal.hurry()
        while deliver_one(journal, destinations):
            pass
        left = journal.waiting()
    finally:
        journal.close()
    return before - left, left


def send_files(files: Sequence[Path], settings: Listen) -> None:
    """Send DICOM files to every destination, now.

    Raises:
        InputError: Sending is not allowed yet, or a file is no DICOM object.
        Undelivered: Some did not arrive; names the first and why.
    """
    failed, destinations = [], _allowed(settings)
    for file in files:
        check_object(file)
    for to, destination in destinations.items():
        try:
            sent = destination.store([(file, None) for file in files])
            failed += [f"{to}: {one.note}" for one in sent if not one.stored]
        except Undelivered as error:
            failed += [str(error)] * len(files)
    if failed:
        raise Undelivered(f"{len(failed)} not delivered: {failed[0]}", hint="send them again later")


def _allowed(settings: Listen) -> dict[str, Destination]:
    if not settings.send:
        raise InputError(
            "send: nothing leaves yet, as `send` is false in [listen]",
            hint="compare first with `fedmed-edge listen --report`, then set `send = true`",
        )
    return {to: destination_of(to, settings) for to in settings.destination}
