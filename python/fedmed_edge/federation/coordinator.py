"""The server's own will: meet the sites, carry rounds and validations on, whoever is online and when.

Engine-free: `wire.Sites` says who is there and lets one of them sync. What came of a sync stands on the disk,
so nothing is believed that an engine says of it, and a coordinator that was killed goes on where it was.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from fedmed_edge.atomic import locked
from fedmed_edge.backoff import wait_s
from fedmed_edge.config import ServerConfig
from fedmed_edge.errors import FedmedError, Unreachable
from fedmed_edge.federation.candidates import Candidates
from fedmed_edge.federation.offers import Offers, OnOffer
from fedmed_edge.federation.parts import Assembly
from fedmed_edge.federation.records import Records
from fedmed_edge.federation.requests import Requests
from fedmed_edge.federation.rounds import Rounds
from fedmed_edge.federation.server_side import heard_of
from fedmed_edge.federation.wire import Sites
from fedmed_edge.signing import read_private_key
from fedmed_edge.store.store import Store

__all__ = ["FOLDER", "Coordinator", "Meeting"]

log = logging.getLogger(__name__)

FOLDER = "federation"
"""Where all of this lies in the server's folder."""

POLL_S = 1.0
STALE_S = 30 * 86400.0
"""A file of which no part has come for so long is given up."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 15.0, 3600.0
_SWEEP_S = 3600.0
_LONGEST_RETRY_S = 300.0
"""Between two tries of a step that goes wrong, such as a round on a full disk."""


class Meeting(BaseModel):
    """How the last sync with a site went.

    Attributes:
        failures: Syncs without a word of the site, one after the other.
        not_before: When to try again, seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    failures: int = 0
    not_before: float = 0.0


class Trouble(NamedTuple):
    """What went wrong with a thing: why, how often, and when to try again, by the monotonic clock."""

    why: str
    times: int
    not_before: float


class Coordinator:
    """Meets the sites of one server; one for each server's folder.

    Args:
        folder: The server's folder.
        sites: The engine's way to them.
    """

    def __init__(self, folder: Path, config: ServerConfig, store: Store, sites: Sites) -> None:
        self._folder, self._rules, self._store, self._sites = folder / FOLDER, config.federation, store, sites
        key = read_private_key(config.key)
        self.rounds = Rounds(store, self._folder, key)
        self.candidates = Candidates(store, self._folder, key)
        self._offers, self._requests = Offers(self._folder / "offers"), Requests(self._folder / "requests")
        self._heard = heard_of(self._folder)
        self._meetings = Records(self._folder / "meetings", Meeting)
        self._busy: dict[str, threading.Thread] = {}
        self._troubles: dict[str, Trouble] = {}
        self._swept = 0.0

    def run(self, stop: Callable[[], bool]) -> None:
        """Go on until `stop`; syncs that run then end by themselves or with the process.

        Raises:
            InputError: Another coordinator runs for this server.
        """
        busy = "coordinator: another one is running for this server"
        with locked(self._folder / "coordinator.lock", busy=busy):
            log.info("coordinator: meets sites every %.0f s", self._rules.collect_s)
            while not stop():
                self._carefully("sites", self._meet)
                self._advance()
                time.sleep(POLL_S)

    def step(self) -> None:
        """Meet every site that is due, wait for all of them, and carry rounds and validations on; once.

        Raises:
            InputError: Another coordinator runs for this server.
        """
        busy = "coordinator: another one is running for this server"
        with locked(self._folder / "coordinator.lock", busy=busy):
            self._carefully("sites", self._meet)
            for thread in list(self._busy.values()):
                thread.join()
            self._advance()

    # --- meeting -----------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Begin a sync with every site that is online and due."""
        self._busy = {site: thread for site, thread in self._busy.items() if thread.is_alive()}
        try:
            online, news = self._sites.online(), set(self._sites.news())
        except Unreachable as error:
            self._complain("engine", str(error))
            return
        self._troubles.pop("engine", None)
        offers = self._offers.all()
        for site in online:
            if len(self._busy) >= self._rules.at_once:
                break
            if site not in self._busy:
                self._carefully(f"site {site}", partial(self._begin_if_due, site, news, offers))

    def _begin_if_due(self, site: str, news: set[str], offers: list[OnOffer]) -> None:
        if self._due(site, news, offers):
            sync, name = partial(self._sync, site), f"sync {site}"
            self._busy[site] = threading.Thread(
                target=self._carefully, args=(name, sync), name=name, daemon=True
            )
            self._busy[site].start()

    def _due(self, site: str, news: set[str], offers: list[OnOffer]) -> bool:
        now, meeting, heard = time.time(), self._meetings.read(site), self._heard.read(site)
        if meeting is not None and now < meeting.not_before <= now + _LONGEST_WAIT_S:
            return False
        if heard is None or site in news:
            return True
        if not 0 <= now - heard.when < self._rules.collect_s:  # a clock that was set back counts as due
            return True
        if any(offer.is_for(site) and offer.made > heard.when for offer in offers):
            return True
        return any(not one.told for one in self._requests.open_for(site))

    def _sync(self, site: str) -> None:
        """One sync; whether it was one is told by what the site said, not by how it ended."""
        began, meeting = time.time(), self._meetings.read(site) or Meeting()
        try:
            self._sites.sync(site, self._rules.sync_s)
        except Unreachable as error:
            log.warning("site %s: %s", site, error)
        except Exception:
            log.exception("site %s", site)
        heard = self._heard.read(site)
        if heard is not None and heard.when >= began - 1:
            self._meetings.write(site, Meeting())
            return
        wait = wait_s(meeting.failures, _FIRST_WAIT_S, _LONGEST_WAIT_S)
        later = Meeting(failures=meeting.failures + 1, not_before=time.time() + wait)
        self._meetings.write(site, later)

    # --- what runs ---------------------------------------------------------------------------------

    def _advance(self) -> None:
        for training in self.rounds.all():
            self._carefully(f"training {training.id[:12]}", partial(self.rounds.step, training))
        for candidate in self.candidates.all():
            self._carefully(f"candidate {candidate.digest[:12]}", partial(self.candidates.step, candidate))
        if not 0 <= time.time() - self._swept < _SWEEP_S:
            self._swept = time.time()
            self._carefully("parts that wait", self._sweep)

    def _carefully(self, what: str, step: Callable[[], object]) -> None:
        """What goes wrong with one thing is said once, tried again later and later, and holds up no other."""
        trouble = self._troubles.get(what)
        if trouble is not None and time.monotonic() < trouble.not_before:
            return
        try:
            step()
            self._troubles.pop(what, None)
        except FedmedError as error:
            self._complain(what, str(error))
        except Exception as error:
            self._complain(what, f"{type(error).__name__}: {error}", trace=True)

    def _complain(self, what: str, why: str, *, trace: bool = False) -> None:
        held = self._troubles.get(what, Trouble("", 0, 0.0))
        if held.why != why:
            log.warning("%s: %s", what, why, exc_info=trace)
        wait = wait_s(held.times, POLL_S, _LONGEST_RETRY_S)
        self._troubles[what] = Trouble(why, held.times + 1, time.monotonic() + wait)

    def _sweep(self) -> None:
        """Give up files of which nothing has come for long, and those of sites that were revoked."""
        revoked = {entry.name for entry in self._store.sites() if entry.revoked}
        for path in (self._folder / "inbox").glob("*/*.part"):
            with contextlib.suppress(FileNotFoundError):  # the site finished it meanwhile
                if path.parent.name in revoked or time.time() - path.stat().st_mtime > STALE_S:
                    Assembly(path.parent, path.stem, self._store.cipher).discard()
                    log.info("given up: %s of site %s", path.stem[:12], path.parent.name)
