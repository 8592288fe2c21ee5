"""A site's end of the wire: hand over what lies in the outbox, fetch what is on offer, take requests.

SITE/outbox/        what waits to be handed over: see `outbox`
SITE/inbox/         what came or is coming: see `inbox`
SITE/requests/      what the server asked: see `asked`
SITE/egress.jsonl   every byte that left: see `egress`
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from fedmed_edge import __version__
from fedmed_edge.atomic import locked
from fedmed_edge.backoff import wait_s
from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import InputError, TrustError, Unreachable
from fedmed_edge.federation.asked import Asked, Duty
from fedmed_edge.federation.egress import Metered, Pace
from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.messages import (
    Commit,
    Fields,
    Get,
    Hello,
    Offer,
    Offered,
    Progress,
    Put,
    Taken,
    Welcome,
    parse_fields,
)
from fedmed_edge.federation.outbox import Outbox, Parcel
from fedmed_edge.federation.parts import part_of
from fedmed_edge.federation.policy import within_hours
from fedmed_edge.federation.sequence import raise_sequence
from fedmed_edge.federation.wire import PROTOCOL, Channel, Reply
from fedmed_edge.inference.model_folder import ModelFolder
from fedmed_edge.signing import read_public_key, verify_detached

__all__ = ["PATIENCE_S", "SyncResult", "sync"]

log = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""How long a sync goes on trying, from the last reply that it got."""

_OFF_CLOCK_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_HAS_CAP = 1024
_IN_TOUCH = "federation.server"

Answer = TypeVar("Answer", bound=Fields)
Got = TypeVar("Got")


@dataclass
class SyncResult:
    """What a sync did.

    Attributes:
        sent: Ids of the contributions that the server took.
        received: Digests of the objects that came, whole and with the server's signature.
        untrusted: Digests of objects that were on offer without a good signature.
        asked: Ids of the requests that the server made anew; `duties.work` does them, not the sync.
        reported: Ids of the requests that the server has the answer to now.
        refused: Why the server refused a contribution, by its id; it is not sent again.
        waiting: Files that lie in the outbox still.
    """

    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    untrusted: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    waiting: int = 0


def sync(
    channel: Channel,
    folder: Path,
    config: SiteConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
    patience_s: float = PATIENCE_S,
) -> SyncResult:
    """Bring site and server up to date with each other; does no training and no extraction.

    It may be cut off anywhere and run again: at most the parts that were on their way are sent again.

    Args:
        folder: The site's folder, which holds `outbox/` and `inbox/`.
        stop: Asked between parts; True ends the sync as a lost connection would.
        patience_s: How long to try again from the last reply; 0 gives up at once.

    Raises:
        Unreachable: The server did not answer, or cannot serve now; what was done until then is kept.
        InputError: The server refused to talk to this site, or answered what is no answer or a `sequence` far
            beyond this folder's; or another sync of this folder is running.
        TrustError: Something is on offer, and no `server_key` says whose signature to trust.
        StoreError: The site's disk is full.
    """
    with locked(folder / "sync.lock", busy="sync: another one of this site is running"):
        visit = _Visit(channel, folder, config, stop, patience_s)
        try:
            visit.run()
        finally:
            visit.result.waiting = len(visit.outbox.waiting())
        return visit.result


class _Refused(Exception):
    """The server said no; `again` where it may say yes later."""

    def __init__(self, why: str, hint: str | None, again: bool) -> None:
        super().__init__(why)
        self.why, self.hint, self.again = why, hint, again


class _Stopped(Unreachable):
    """Whoever runs the sync wants it to end."""


class _Visit:
    """One sync."""

    def __init__(
        self, channel: Channel, folder: Path, config: SiteConfig, stop: Callable[[], bool], patience_s: float
    ) -> None:
        rules = config.federation
        self.folder, self.config, self.stop, self.patience_s = folder, config, stop, patience_s
        self.channel = Metered(channel, folder, Pace(rules.bytes_per_s))
        self.outbox, self.inbox = Outbox(folder / "outbox"), Inbox(folder / "inbox")
        self.asked = Asked(folder / "requests")
        self.result = SyncResult()
        self.heard = time.monotonic()

    def run(self) -> None:
        self.outbox.sweep()
        welcome = self._hello()
        self.inbox.sweep({one.digest for one in welcome.offers})
        open_now = within_hours(self.config.federation, datetime.now())
        for parcel in self.outbox.waiting() if open_now else ():
            if parcel.not_before > time.time() or not self._hand_over(parcel):
                break  # a newer contribution must not overtake it
        for duty in self.asked.answered():
            self._report(duty)
        for offered in welcome.offers if open_now else ():
            self._fetch(offered)

    def _hello(self) -> Welcome:
        here = [one for one in self.inbox.all() if one.state != "withdrawn"][-_HAS_CAP:]
        has = {one.digest: one.kind for one in here}
        said = Hello(protocol=PROTOCOL, version=__version__, has=has)
        try:
            welcome = self._ask(said, Welcome, _IN_TOUCH)
        except _Refused as refusal:
            if refusal.again:
                raise Unreachable(refusal.why, hint=refusal.hint) from None
            raise InputError(f"server: {refusal.why}", hint=refusal.hint) from None
        off = time.time() - welcome.clock
        if abs(off) > _OFF_CLOCK_S:
            log.warning("clock: is %.0f seconds off the server's; set it by NTP", off)
        raise_sequence(self.folder, welcome.sequence)
        for digest in welcome.taken_back:
            self.inbox.change(digest, "taken back")
        for digest in welcome.withdrawn:
            self.inbox.change(digest, "withdrawn")
        gone = {*welcome.taken_back, *welcome.withdrawn}
        for one in here:
            if one.digest not in gone:
                self.inbox.still_published(one.digest, welcome.made.get(one.digest))
        if welcome.withdrawn_models:
            ModelFolder(self.folder).mark_withdrawn(welcome.withdrawn_models)
        self.result.asked += [duty.ask.id for duty in self.asked.note(welcome.requests)]
        return welcome

    # --- up ----------------------------------------------------------------------------------------

    def _hand_over(self, parcel: Parcel) -> bool:
        """Send what the server misses of a file and have it taken; False where it shall wait."""
        if not self.outbox.path(parcel.digest).is_file():
            log.warning("contribution %s: its file is gone from the outbox", parcel.id[:12])
            self.outbox.settle(parcel, "refused", "its file is gone from the outbox")
            return True
        try:
            taken = self._sent(parcel)
        except _Refused as refusal:
            if refusal.again:
                log.warning("contribution %s: waits: %s", parcel.id[:12], refusal.why)
                self.outbox.put_off(parcel, refusal.why)
                return False
            log.warning("contribution %s: refused: %s", parcel.id[:12], refusal.why)
            self.outbox.settle(parcel, "refused", refusal.why)
            self.result.refused[parcel.id] = refusal.why
            return True
        self.outbox.settle(parcel, "taken")
        log.info("contribution %s: taken, %d bytes", taken.id[:12], parcel.bytes)
        self.result.sent.append(taken.id)
        return True

    def _sent(self, parcel: Parcel) -> Taken:
        path, digest, rule = self.outbox.path(parcel.digest), parcel.digest, parcel.rule

        def missing() -> tuple[int, ...]:
            said = self._ask(Offer(digest=digest, bytes=parcel.bytes), Progress, rule)
            return () if said.taken else said.missing

        def put(part: int) -> None:
            try:
                self._once(Put(digest=digest, part=part), part_of(path, part), rule)
            except _Refused as refusal:  # an older sync may have finished meanwhile: the next offer tells
                raise _Refused(refusal.why, refusal.hint, again=True) from None

        self._all_parts(missing, put)
        return self._ask(Commit(digest=digest), Taken, rule)

    # --- down --------------------------------------------------------------------------------------

    def _fetch(self, offered: Offered) -> None:
        """Fetch what is missing of an object, once its signature has been found good."""
        if self.config.server_key is None:
            raise TrustError(
                "server: no key to check its signatures against",
                hint="name the server's public key as `server_key` in fedmed.toml",
            )
        where = f"{offered.kind} {offered.digest[:12]}"
        try:
            key = read_public_key(self.config.server_key)
            verify_detached(offered.signature.encode(), bytes.fromhex(offered.digest), key, where)
        except TrustError as error:
            log.warning("%s", error)
            self.result.untrusted.append(offered.digest)
            return
        assembly = self.inbox.assembly(offered)

        def get(part: int) -> None:
            asked = Get(digest=offered.digest, part=part)
            assembly.put(part, self._once(asked, b"", _IN_TOUCH).data)

        try:
            if self.inbox.has_as_other(offered):  # a candidate that was published
                self.inbox.rename(offered)
                self.result.received.append(offered.digest)
                return
            assembly.begin(offered.bytes)
            self._all_parts(assembly.missing, get)
            self.inbox.take(offered)
        except (_Refused, InputError) as error:  # taken back meanwhile, or damaged on its way: next time
            log.warning("%s: not fetched: %s", where, error)
            return
        self.result.received.append(offered.digest)

    def _report(self, duty: Duty) -> None:
        report = duty.report
        if report is None or any(one.request == duty.ask.id for one in self.outbox.waiting()):
            return  # what it tells of must be there first
        try:
            self._patiently(lambda: self._once(report, b"", f"federation.may_{duty.ask.kind}"))
        except _Refused as refusal:
            log.warning("request %s: report refused: %s", duty.ask.id[:12], refusal.why)
            if refusal.again:
                return  # the next sync tells it
        self.asked.told(duty)
        self.result.reported.append(duty.ask.id)

    # --- asking ------------------------------------------------------------------------------------

    def _ask(self, said: Fields, answer: type[Answer], rule: str) -> Answer:
        reply = self._patiently(lambda: self._once(said, b"", rule))
        return parse_fields(answer, reply.fields, "server")

    def _once(self, said: Fields, data: bytes, rule: str) -> Reply:
        reply = self.channel.ask(said.op, said.values, data, rule=rule)
        self.heard = time.monotonic()
        if "error" in reply.fields:
            why, hint = (_printable(reply.fields.get(name)) for name in ("error", "hint"))
            raise _Refused(why or "no reason given", hint, reply.fields.get("again") is True)
        return reply

    def _all_parts(self, missing: Callable[[], Iterable[int]], send: Callable[[int], None]) -> None:
        """Bring every missing part over, several at once; where that breaks, ask anew what is missing."""

        def attempt() -> None:
            broken = threading.Event()

            def one(part: int) -> None:
                if broken.is_set():
                    return
                try:
                    self._go_on()
                    send(part)
                except BaseException:
                    broken.set()
                    raise

            with ThreadPoolExecutor(self.config.federation.parts_in_flight) as pool:
                for done in [pool.submit(one, part) for part in missing()]:
                    done.result()

        self._patiently(attempt)

    def _patiently(self, attempt: Callable[[], Got]) -> Got:
        """Try until it is done, or nothing was heard of the server for too long."""
        for failures in itertools.count():
            self._go_on()
            try:
                return attempt()
            except _Stopped:
                raise
            except Unreachable:
                if time.monotonic() - self.heard >= self.patience_s:
                    raise
            time.sleep(wait_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        raise AssertionError

    def _go_on(self) -> None:
        if self.stop():
            raise _Stopped("sync: was stopped")


def _printable(said: object) -> str | None:
    """What the server says, as it may stand in a log."""
    return None if said is None else "".join(filter(str.isprintable, str(said)))[:300]
