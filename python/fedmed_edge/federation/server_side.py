"""The server's end of the wire: one request in, one reply out; everything it knows lies on the disk.

FEDERATION/inbox/SITE/DIGEST.part, .have   what arrives
FEDERATION/inbox/SITE/DIGEST.json          what arrived and is in the store
FEDERATION/offers/                         what sites may fetch
FEDERATION/requests/SITE/                  what sites are asked
FEDERATION/sites/SITE.json                 when a site was here last
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fedmed_edge import __version__
from fedmed_edge.atomic import locked
from fedmed_edge.errors import FedmedError, InputError, StoreError, TrustError
from fedmed_edge.federation.messages import (
    PASSING,
    Commit,
    Fields,
    Get,
    Hello,
    Kind,
    Offer,
    Offered,
    Progress,
    Put,
    Report,
    Taken,
    Welcome,
    parse_fields,
)
from fedmed_edge.federation.offers import Offers, OnOffer
from fedmed_edge.federation.parts import Assembly, Incomplete, count_parts
from fedmed_edge.federation.records import Records, on_disk
from fedmed_edge.federation.requests import Requests
from fedmed_edge.federation.wire import PROTOCOL, Reply, Request, refusal
from fedmed_edge.statistics.reading import parse_envelope
from fedmed_edge.store.store import Store
from fedmed_edge.tensorfile import Content

__all__ = ["Heard", "heard_of", "serve"]

log = logging.getLogger(__name__)

OPEN_FILES_CAP = 4
"""Files of one site that may be on their way at once."""

ROOM_BYTES = 256 << 20
"""Free bytes that a disk must have beyond what is to come."""


class Heard(BaseModel):
    """When a site was here last, and what it said of itself."""

    model_config = ConfigDict(frozen=True)

    site: str
    when: Annotated[float, Field(ge=0)]
    version: str
    has: dict[str, Kind] = {}


def heard_of(folder: Path) -> Records[Heard]:
    """What the sites said when they were here last, by name."""
    return Records(folder / "sites", Heard)


def serve(store: Store, folder: Path, site: str, request: Request) -> Reply:
    """Answer a request of a site; a refusal is a reply, too, and nothing is raised.

    Any number of processes may serve at once: what came and what is there lies in `store` and `folder`.

    Args:
        folder: `federation/` of the server's folder: what arrives, what is on offer, what is asked.
        site: Name in the certificate that the request came with; nothing in the request can change it.
    """
    try:
        _check_site(store, site)
        if request.op not in _OPERATIONS:
            raise InputError("request: unknown operation")
        operation, model = _OPERATIONS[request.op]
        said = parse_fields(model, request.fields, request.op)
        return operation(_Visit(store, folder, site), said, request.data)
    except Incomplete as error:
        return refusal(error, again=True)
    except (InputError, TrustError) as error:
        return _refuse(request, site, error)
    except StoreError as error:  # its text is for the server's admin: it names paths
        log.warning("%s of %s: %s", request.op[:10], site, error)
        return refusal(StoreError("server: cannot take it now"), again=True)
    except Exception:
        log.exception("%s of %s", request.op[:10], site)
        return refusal(FedmedError("server: failed"), again=True)


def _refuse(request: Request, site: str, error: FedmedError) -> Reply:
    log.warning("refused %s of %s: %s", ascii(request.op)[1:11], site, error)
    return refusal(error)


def _check_site(store: Store, site: str) -> None:
    known = {entry.name: entry for entry in store.sites()}
    if site not in known:
        raise TrustError("site: is not enrolled")
    if known[site].revoked:
        raise TrustError(f"site `{site}`: was revoked")


class _Visit:
    """One request of one site."""

    def __init__(self, store: Store, folder: Path, site: str) -> None:
        self.store, self.folder, self.site = store, folder, site
        self.inbox = folder / "inbox" / site
        self.taken = Records(self.inbox, Taken)
        self.offers, self.requests = Offers(folder / "offers"), Requests(folder / "requests")

    def hello(self, said: Hello, data: bytes) -> Reply:
        if said.protocol != PROTOCOL:
            raise InputError(
                f"hello: `protocol` has {said.protocol}, expected {PROTOCOL}",
                hint=f"the server runs fedmed-edge {__version__}: upgrade the older of the two",
            )
        now = time.time()
        heard_of(self.folder).write(
            self.site, Heard(site=self.site, when=now, version=said.version, has=said.has)
        )
        withdrawn = [entry.digest for entry in self.store.models() if entry.withdrawn]
        self.offers.withdraw(withdrawn, {entry.id for entry in self.store.contribution_entries()})
        every = self.offers.all()
        known = {one.digest: one for one in every}
        held = [one for one in every if one.digest in said.has]
        self._ask_to_contribute(every, now)
        asked = self.requests.open_for(self.site)
        welcome = Welcome(
            protocol=PROTOCOL,
            version=__version__,
            clock=now,
            sequence=self.store.next_sequence(self.site),
            offers=tuple(
                Offered.model_validate(one.model_dump())
                for one in every
                if one.is_for(self.site) and said.has.get(one.digest) != one.kind
            )[:_LISTED],
            requests=tuple(one.ask for one in asked)[:_LISTED],
            made={one.digest: one.made for one in held[-_LISTED:] if one.is_for(self.site)},
            withdrawn=tuple(one.digest for one in held if one.state == "withdrawn"),
            taken_back=tuple(
                digest
                for digest, kind in said.has.items()
                if (digest not in known and kind in PASSING)
                or (
                    digest in known
                    and known[digest].state != "withdrawn"
                    and not known[digest].is_for(self.site)
                )
            ),
            withdrawn_models=tuple(withdrawn[:_WITHDRAWN]),
        )
        for one in asked:
            self.requests.tell(one)
        return Reply(welcome.values)

    def _ask_to_contribute(self, offers: list[OnOffer], now: float) -> None:
        """Whoever hears of a generation for the first time is asked for statistics, however late it joins."""
        for offer in offers:
            for recipe in offer.recipes_for(self.site):
                self.requests.make(
                    self.site,
                    offer.purpose(recipe),
                    kind="contribute",
                    recipe=recipe,
                    generation=offer.digest,
                    deadline=now + _CONTRIBUTE_S,
                )

    def offer(self, said: Offer, data: bytes) -> Reply:
        with self._alone():
            assembly = self._assembly(said.digest)
            if self.taken.read(said.digest) is not None:
                assembly.discard()  # where a process was killed before it did
                return Reply(Progress(taken=True).values)
            if not assembly.begun:
                self._check_room(said.bytes)
            assembly.begin(said.bytes)
            return Reply(Progress(taken=False, missing=assembly.missing()).values)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Requests of one site about its files take turns."""
        with ExitStack() as held:
            with on_disk("inbox"):
                held.enter_context(locked(self.inbox / "lock"))
            yield

    def _assembly(self, digest: str) -> Assembly:
        return Assembly(self.inbox, digest, self.store.cipher)

    def _check_room(self, size: int) -> None:
        coming = sum(1 for _ in self.inbox.glob("*.have"))
        if coming >= OPEN_FILES_CAP:
            raise StoreError(
                f"{self.inbox}: {coming} files are on their way, expected fewer than {OPEN_FILES_CAP}"
            )
        free = shutil.disk_usage(self.inbox).free
        if free < 2 * size + ROOM_BYTES:  # once here and once in the store
            raise StoreError(f"{self.inbox}: disk has {free} bytes free, expected {2 * size + ROOM_BYTES}")

    def put(self, said: Put, data: bytes) -> Reply:
        self._assembly(said.digest).put(said.part, data)
        return Reply({})

    def commit(self, said: Commit, data: bytes) -> Reply:
        with self._alone():
            taken = self.taken.read(said.digest)
            if taken is None:
                assembly = self._assembly(said.digest)
                taken = self._import(assembly)
                self.taken.write(said.digest, taken)
                assembly.discard()
            return Reply(taken.values)

    def _import(self, assembly: Assembly) -> Taken:
        where = f"contribution {assembly.digest[:12]}"
        with ExitStack() as held:
            if self.store.cipher.key:  # what is encrypted is in memory whole: one at a time
                held.enter_context(locked(self.folder / "inbox" / "lock"))
            content = assembly.content()
            try:
                self._check_claim(content, where)
                done = self.store.import_contribution(content, where=where, details={"came": "federation"})
            except (InputError, TrustError):
                assembly.discard()
                raise
        return Taken(id=done.id)

    def _check_claim(self, content: Content, where: str) -> None:
        """The header's site must be the certificate's; the store compares it with that of the signing key."""
        claimed = parse_envelope(content, where).header.site
        if claimed == self.site:
            return
        why = f"`site` has {claimed}, expected {self.site}, whose certificate it came with"
        self.store.ledger_append("refused", self.site, details={"why": why, "came": "federation"})
        raise TrustError(f"{where}: {why}")

    def get(self, said: Get, data: bytes) -> Reply:
        offer = self.offers.read(said.digest)
        if offer is None or not offer.is_for(self.site):
            raise InputError("get: no such object for this site")
        if said.part >= count_parts(offer.bytes):
            raise InputError(f"get: `part` has {said.part}, expected less than {count_parts(offer.bytes)}")
        return Reply({}, self.offers.part(said.digest, said.part))

    def report(self, said: Report, data: bytes) -> Reply:
        self.requests.answer(self.site, said)
        return Reply({})


_CONTRIBUTE_S = 30 * 86400.0

_LISTED = 64
"""Most offers and requests of one reply; the others come next time."""

_WITHDRAWN = 1024

_Operation = tuple[Callable[[_Visit, Any, bytes], Reply], type[Fields]]

_OPERATIONS: dict[str, _Operation] = {
    "hello": (_Visit.hello, Hello),
    "offer": (_Visit.offer, Offer),
    "put": (_Visit.put, Put),
    "commit": (_Visit.commit, Commit),
    "get": (_Visit.get, Get),
    "report": (_Visit.report, Report),
}
