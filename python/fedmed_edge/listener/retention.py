"""What is no longer needed goes: after `retain_days`, and before the disk is full."""

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path

from fedmed_edge.listener.incoming import Incoming
from fedmed_edge.listener.journal import Journal
from fedmed_edge.listening import Listen
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

_EVERY_S = 60.0
_STALE_S = 3600.0
_DAY_S = 86400.0


class Retention:
    """Purges every minute, and at once when an instance had to be turned away."""

    def __init__(self, settings: Listen, journal: Journal, incoming: Incoming) -> None:
        self._settings, self._journal, self._incoming = settings, journal, incoming
        self._wake, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Purge from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Purge no more."""
        self._stopping = True
        self._wake.set()

    def hurry(self) -> None:
        """The disk is full: purge now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.purge()
            except Exception as error:
                log.error("listen: nothing could be purged: %s", type(error).__name__)
                log.debug("", exc_info=True)
            self._wake.wait(_EVERY_S)
            # turned away once a second at most, whatever the senders do
            time.sleep(0 if self._stopping else 1)
            self._wake.clear()

    def purge(self) -> int:
        """Delete what is over `retain_days`, then images at rest while the disk is below the watermark.

        Counts by day stay, without the study that they came from.

        Returns:
            How many series went.
        """
        before = time.time() - self._settings.retain_days * _DAY_S
        expired = self._journal.expire(before)
        if expired:
            objects = counted(expired, "object was", "objects were")
            log.error("listen: %s not delivered within `retain_days`, given up", objects)
        gone = sum(self._forget(uid, before) for uid in self._journal.at_rest(before))
        self._journal.drop_empty(before)
        self._sweep()
        return gone + self._make_room()

    def _make_room(self) -> int:
        """Images of answered series go before their time, the oldest first: the archive has them."""
        gone, now = 0, time.time()
        if self._incoming.full:
            for uid in self._journal.at_rest(now):
                if not self._incoming.full:
                    break
                gone += self._drop_images(uid, now)
        if self._incoming.full:
            gone += self._drop_sent()
        if gone:
            log.warning("listen: files of %d answered series went before their time: the disk is full", gone)
        return gone

    def _drop_sent(self) -> int:
        """Results that have arrived where they go, the oldest first."""
        gone = 0
        for job, folder in self._journal.sent_results():
            if not self._incoming.full:
                break
            shutil.rmtree(folder, ignore_errors=True)
            self._journal.drop_result(job)
            gone += 1
        return gone

    def _drop_images(self, series_uid: str, before: float) -> bool:
        """Files first, then their rows; an instance that comes meanwhile is noted behind it, or keeps all."""
        with self._journal.change():
            if not self._journal.is_at_rest(series_uid, before):
                return False
            files = self._journal.paths_of(series_uid)
            for file in files:
                file.unlink(missing_ok=True)
            self._journal.drop_instances(series_uid)
        for folder in {file.parent for file in files}:
            _remove_if_empty(folder)
        return bool(files)

    def _forget(self, series_uid: str, before: float) -> bool:
        with self._journal.change():
            if not self._journal.is_at_rest(series_uid, before):
                return False
            self._drop_images(series_uid, before)
            for folder in self._journal.results_of(series_uid):
                shutil.rmtree(folder, ignore_errors=True)
            self._journal.forget(series_uid)
            return True

    def _sweep(self) -> None:
        """Files of associations that broke off."""
        for file in self._incoming.receiving.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - _STALE_S:
                    file.unlink()


def _remove_if_empty(folder: Path) -> None:
    for one in (folder, folder.parent):
        with contextlib.suppress(OSError):
            one.rmdir()
