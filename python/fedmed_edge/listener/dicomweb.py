"""A DICOMweb server that is asked for new series, and the client that results go out with."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicomweb import AS_STORED, open_server, pages
from fedmed_edge.listener.incoming import Incoming, Outcome
from fedmed_edge.listener.journal import Journal
from fedmed_edge.listening import Listen

log = logging.getLogger(__name__)

SILENT_S = 900.0
"""An archive that has not answered for so long is a fault."""


def open_client(url: str, settings: Listen) -> DICOMwebClient:
    """A client of one server; it does not try again by itself, the node does."""
    web, tls = settings.dicomweb, settings.tls
    password = None
    if web.user:
        if web.password_file is None:
            raise InputError("listen.dicomweb: `user` has no `password_file`")
        try:
            password = web.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{web.password_file}: cannot be read: {error}") from None
    return open_server(
        url,
        user=web.user or None,
        password=password,
        certificate=(tls.certificate, tls.key) if tls.certificate and tls.key else None,
        authority=web.authority or tls.authority,
        retry=False,
    )


class Polling:
    """Asks for series that match, and fetches those that have grown since and are complete.

    A series is fetched once two queries in a row told the same number of instances, and more than the last
    time that it was here whole. Not all of them need have been kept: some are results of ours or were purged
    since. Its settling then goes as that of any other.

    Args:
        arrived: As the SCP's.
    """

    def __init__(
        self, settings: Listen, journal: Journal, incoming: Incoming, arrived: Callable[[Outcome, str], None]
    ) -> None:
        self._settings, self._journal, self._incoming, self._arrived = settings, journal, incoming, arrived
        self._client = open_client(settings.dicomweb.url, settings)
        self._told: dict[str, int] = {}
        self._asked = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="polling", daemon=True)

    @property
    def well(self) -> bool:
        """Whether the server answered within `SILENT_S`, or at the last query where these are rarer."""
        silent = time.monotonic() - self._asked
        return self._thread.is_alive() and silent < max(SILENT_S, 2 * self._settings.dicomweb.poll_s)

    def start(self) -> None:
        """Ask every `poll_s` from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a series that is being fetched is fetched after the next start."""
        self._stopping.set()

    def _run(self) -> None:
        fault = ""
        while not self._stopping.is_set():
            started = time.monotonic()
            earlier, fault = fault, self._fault()
            if fault and fault != earlier:
                log.warning("listen: the DICOMweb server %s; it is asked again", fault)
            elif earlier and not fault:
                log.info("listen: the DICOMweb server answers again")
            self._stopping.wait(max(0.0, self._settings.dicomweb.poll_s - (time.monotonic() - started)))

    def _fault(self) -> str:
        """Ask once; what is in the way."""
        try:
            self.poll()
        except requests.RequestException as error:
            return f"cannot be asked: {type(error).__name__}"
        except Exception as error:  # a server may answer anything; the next time it may be sound
            log.debug("", exc_info=True)
            return f"gives an answer that is not understood: {type(error).__name__}"
        return ""

    def poll(self) -> int:
        """Ask once; returns how many instances were fetched."""
        told, fetched, seen = {}, 0, self._journal.seen()
        for study_uid, series_uid, count in self._query():
            told[series_uid] = count
            if count <= seen.get(series_uid, 0):
                continue
            if self._journal.instances_of(series_uid) < count:
                if self._told.get(series_uid) != count or self._stopping.is_set():
                    continue
                new, whole = self._fetch(study_uid, series_uid)
                fetched += new
                if not whole:
                    continue
            self._journal.see(series_uid, count)
        self._journal.unsee(seen.keys() - told.keys())
        self._told = told
        return fetched

    def _query(self) -> list[tuple[str, str, int]]:
        web = self._settings.dicomweb
        found: list[tuple[str, str, int]] = []
        today = date.today()
        since = today - timedelta(days=web.days)
        filters: dict[str, Any] = {"StudyDate": f"{since:%Y%m%d}-{today:%Y%m%d}", **web.query}
        fields = ["NumberOfSeriesRelatedInstances", "StudyInstanceUID"]
        for one in pages(self._client.search_for_series, search_filters=filters, fields=fields):
            count = int(one.get("NumberOfSeriesRelatedInstances") or 0)
            found.append((str(one.StudyInstanceUID), str(one.SeriesInstanceUID), count))
        self._asked = time.monotonic()
        return found

    def _fetch(self, study_uid: str, series_uid: str) -> tuple[int, bool]:
        """Fetch a series; how many instances were new, and whether there was room and time for all."""
        fetched = 0
        path = self._incoming.receiving / f"dicomweb-{secrets.token_hex(8)}"
        try:
            for dataset in self._client.iter_series(study_uid, series_uid, media_types=AS_STORED):
                self._asked = time.monotonic()
                if self._stopping.is_set() or self._incoming.full:
                    return fetched, False
                dataset.save_as(path)
                outcome, uid = self._incoming.take(path, self._client.host)
                self._arrived(outcome, uid or series_uid)
                if outcome is Outcome.FULL:
                    return fetched, False
                fetched += outcome is Outcome.STORED
                _delete(path)
        finally:
            _delete(path)
        return fetched, True


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
