"""A model asked about at the sites before it is published.

    FEDERATION/candidates/DIGEST.json

Each site that may says how well the candidate does on its own test images, and how well the model does that
is published now. The candidate is published where, over the sites, it is not worse by more than a tolerance.
"""

import hashlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmed_edge.errors import InputError
from fedmed_edge.federation.messages import Digest
from fedmed_edge.federation.offers import Offers
from fedmed_edge.federation.records import Records
from fedmed_edge.federation.requests import Requests
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey
from fedmed_edge.store.entries import ModelEntry
from fedmed_edge.store.store import Store
from fedmed_edge.words import counted

__all__ = ["Candidate", "Candidates"]

log = logging.getLogger(__name__)


class Candidate(BaseModel):
    """A model that is being validated, or was.

    Attributes:
        sites: Who is asked, and who gets it once it is published (None: every site).
        tolerance: By how much its mean score may be below that of the model before it.
        scores: Site → its score and, where the site has one, that of the model before it.
        why: It was published or not, in words.
    """

    model_config = ConfigDict(frozen=True)

    digest: Digest
    task: str
    asked: tuple[str, ...]
    sites: tuple[str, ...] | None
    quorum: Annotated[int, Field(ge=1)]
    deadline: float
    tolerance: float
    scores: dict[str, tuple[float, float | None]] = {}
    state: Literal["asked", "published", "rejected"] = "asked"
    why: str = ""

    @property
    def purpose(self) -> str:
        """What the sites are asked for."""
        return f"validation of {self.digest}"


class Candidates:
    """Candidates of a server.

    Args:
        folder: `federation/` of the server's folder.
        key: The server's, which models are signed with.
    """

    def __init__(self, store: Store, folder: Path, key: PrivateKey) -> None:
        self._store, self._key = store, key
        self._records = Records(folder / "candidates", Candidate)
        self._offers, self._requests = Offers(folder / "offers"), Requests(folder / "requests")

    def begin(
        self,
        content: bytes,
        recipe: Recipe,
        entry: ModelEntry,
        asked: Sequence[str],
        *,
        sites: Collection[str] | None = None,
        quorum: int,
        deadline_s: float,
        tolerance: float = 0.02,
    ) -> Candidate:
        """Ask sites about an exported model; the same one again changes nothing while it is asked about or
        published, and asks once more where it was rejected or taken back.

        Args:
            content: Of the model's file.
            entry: The model in it.
            asked: Sites that validate it, but for those that are held back: they have no say.
            sites: Who gets it once it is published; None is every site.

        Raises:
            InputError: Fewer sites than the quorum, or the disk is full.
        """
        held_back = self._store.held_back.of(recipe.name)
        left_out = {site: why for site, why in held_back.items() if site in asked}
        asked = [site for site in asked if site not in left_out]
        if len(asked) < quorum:
            raise InputError(
                f"validation: has {counted(len(asked), 'site')}, expected at least the quorum {quorum}"
                + "".join(f"; {site} is held back: {why}" for site, why in left_out.items())
            )
        held = self._records.read(hashlib.sha256(content).hexdigest())
        if held is not None and self._stands(held):
            return held
        offer = self._offers.publish(
            content,
            self._key,
            kind="candidate",
            sites=asked,
            task=recipe.name,
            generation=entry.generation,
            model=entry.digest,
        )
        candidate = Candidate(
            digest=offer.digest,
            task=recipe.name,
            asked=tuple(asked),
            sites=None if sites is None else tuple(sites),
            quorum=quorum,
            deadline=time.time() + deadline_s,
            tolerance=tolerance,
        )
        for site in asked:
            self._requests.make(
                site,
                candidate.purpose,
                kind="validate",
                recipe=recipe.digest,
                generation=entry.generation,
                object=offer.digest,
                deadline=candidate.deadline,
            )
        self._records.write(offer.digest, candidate)
        return candidate

    def _stands(self, candidate: Candidate) -> bool:
        offer = self._offers.read(candidate.digest)
        published = offer is not None and (offer.kind, offer.state) == ("model", "on offer")
        return candidate.state == "asked" or published

    def all(self) -> list[Candidate]:
        """Every candidate, by digest."""
        return self._records.all()

    def step(self, candidate: Candidate, now: float | None = None) -> Candidate:
        """Decide, once the sites' answers or the deadline allow."""
        if candidate.state != "asked":
            return candidate
        now = time.time() if now is None else now
        found = [self._requests.expect(site, candidate.purpose) for site in candidate.asked]
        requests = [one for one in found if one is not None]
        left_out = self._store.held_back.of(candidate.task)
        heard = [one for one in requests if one.site not in left_out]
        scores = {
            one.site: (one.report.figures["score"], one.report.figures.get("current"))
            for one in heard
            if one.report is not None and one.done and _plausible(one.report.figures)
        }
        waiting = sum(one.state == "open" for one in heard)
        if waiting and now < candidate.deadline:
            return candidate
        decided = self._decide(candidate.model_copy(update={"scores": scores}))
        for one in requests:
            self._requests.forget(one)
        return decided

    def _decide(self, candidate: Candidate) -> Candidate:
        steps = [score - before for score, before in candidate.scores.values() if before is not None]
        change = sum(steps) / len(steps) if steps else 0.0
        if len(candidate.scores) < candidate.quorum:
            good = False
            why = f"{counted(len(candidate.scores), 'site')} validated it, expected {candidate.quorum}"
        else:
            good = change >= -candidate.tolerance
            where = counted(len(steps), "site")
            why = f"mean change {change:+.3f} at {where}, limit {-candidate.tolerance:+.3f}"
        if good:
            self._offers.promote(candidate.digest, "model", candidate.sites)
        else:
            self._offers.forget(candidate.digest)
        told = {"task": candidate.task, "why": why, "sites": sorted(candidate.scores)}
        self._store.ledger_append("offered" if good else "rejected", subject=candidate.digest, details=told)
        decided = candidate.model_copy(update={"state": "published" if good else "rejected", "why": why})
        self._records.write(candidate.digest, decided)
        log.info("candidate %s: %s: %s", candidate.digest[:12], decided.state, why)
        return decided


def _plausible(figures: Mapping[str, float]) -> bool:
    """No site decides for all by a score that none can have."""
    return "score" in figures and all(0 <= figures.get(name, 0) <= 1 for name in ("score", "current"))
