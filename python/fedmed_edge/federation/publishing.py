"""What the server's admin puts on offer: generations of the store, models that were exported from it."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed_edge.config import ServerFederation
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.federation.candidates import Candidates
from fedmed_edge.federation.offers import Offers, OnOffer
from fedmed_edge.federation.requests import Requests
from fedmed_edge.federation.rounds import Rounds, Training
from fedmed_edge.federation.styles import collect_styles
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey
from fedmed_edge.statistics.contribution import Contribution, parse_contribution
from fedmed_edge.store.entries import ModelEntry, named_by
from fedmed_edge.store.store import Store

__all__ = ["Publisher"]


@dataclass(frozen=True)
class Publisher:
    """Puts what the store holds on offer, and writes it into the ledger.

    Attributes:
        folder: `federation/` of the server's folder.
        key: The server's, which every object is signed with.
    """

    store: Store
    folder: Path
    key: PrivateKey

    @property
    def offers(self) -> Offers:
        """What is on offer."""
        return Offers(self.folder / "offers")

    def generation(
        self, digest: str, recipe: Recipe, *, sites: Collection[str] | None = None, ask: bool = True
    ) -> OnOffer:
        """Offer a generation of the store, and with it the styles of the sites that consent.

        One that is on offer for other tasks' recipes stays so: its sites are those of all of them.

        Args:
            digest: Of the generation.
            sites: Who may have it; None is every site.
            ask: Ask every site that hears of it to contribute to it for this recipe; one that refused or
                failed before is asked once more, one that did so is not.

        Raises:
            StoreError: There is no such generation.
            InputError: The disk is full.
        """
        content, held = self.store.generation(digest).content, self.offers.read(digest)
        asks: dict[str, Collection[str] | None] = {}
        if held is not None and held.state == "on offer":
            asks = {one: to for one, to in held.asked.items() if one != recipe.digest}
        everybody = sites is None or None in asks.values()
        every = set(sites or ()).union(*(to for to in asks.values() if to))
        offer = self.offers.publish(
            content,
            self.key,
            kind="generation",
            sites=None if everybody else every,
            task=recipe.name,
            recipe=recipe.digest if ask else None,
            asks=asks | ({recipe.digest: sites} if ask else {}),
        )
        self._styles(recipe, digest, sites)
        if ask:
            Requests(self.folder / "requests").forget_undone(offer.purpose(recipe.digest))
        self._tell(offer, asked=ask)
        return offer

    def _styles(self, recipe: Recipe, generation: str, sites: Collection[str] | None) -> None:
        """What each site that consents handed over last, under whichever generation."""
        content, ids = collect_styles(self._newest(recipe))
        for offer in self.offers.all():
            if (offer.kind, offer.task, offer.state) == ("styles", recipe.name, "on offer"):
                self.offers.take_back(offer.digest, "taken back")
        if content:
            self.offers.publish(
                content,
                self.key,
                kind="styles",
                sites=sites,
                task=recipe.name,
                generation=generation,
                contributions=ids,
            )

    def _newest(self, recipe: Recipe) -> Iterator[Contribution]:
        """Each site's newest sums for a recipe, one after the other: of many sites they fill the memory.

        Who is held back is left out.
        """
        entries = self.store.contribution_entries(recipe.name)  # by site and sequence
        sums = {one.site: one for one in entries if one.holds == "sums" and one.recipe == recipe.digest}
        for site in self.store.held_back.of(recipe.name):
            sums.pop(site, None)
        for entry in sums.values():
            content = self.store.contribution_content(entry.id)
            yield parse_contribution(content, f"contribution {entry.id[:12]}", thorough=False)

    def model(self, content: bytes, name: str, *, sites: Collection[str] | None = None) -> OnOffer:
        """Offer an exported model, of one task or several; one refined for a site goes to that site alone.

        Args:
            content: As `fedmed-server export` wrote it.
            name: Of the file, in messages.
            sites: Who may have it; None is every site.

        Raises:
            InputError: It was not exported from this store.
            StoreError: A site in it has withdrawn.
        """
        entry, *more = self._exported(content, name)
        to = [entry.refined_for] if entry.refined_for else sites
        told: dict[str, Any] = {"task": entry.task, "generation": entry.generation, "model": entry.digest}
        others = {one.task: one.digest for one in more}
        offer = self.offers.publish(content, self.key, kind="model", sites=to, others=others, **told)
        self._tell(offer, model=entry.digest, **({"others": others} if others else {}))
        return offer

    def candidate(
        self,
        content: bytes,
        name: str,
        rules: ServerFederation,
        *,
        sites: Collection[str] | None = None,
        tolerance: float,
    ) -> OnOffer:
        """Ask sites about an exported model; `sites` get it once enough of them found it good.

        Args:
            content, name: As of `model`.
            rules: Quorum and deadline.
            sites: Who is asked and gets it; None is every enrolled site.
            tolerance: By how much its mean score may be below that of the model before it.

        Raises:
            InputError: As `model`; it answers several tasks, or was refined for one site; or fewer sites than
                the quorum.
            StoreError: As `model`.
        """
        entry, *more = self._exported(content, name)
        if more:
            raise InputError(
                f"{name}: answers several tasks, expected one to be validated",
                hint="validate each task's own file, then publish this one without --validate",
            )
        if entry.refined_for:
            raise InputError(
                f"{name}: was refined for `{entry.refined_for}`, which alone may have it",
                hint="publish it without --validate; the hospital scores it before it is used",
            )
        candidate = Candidates(self.store, self.folder, self.key).begin(
            content,
            self.store.recipe(entry.task),
            entry,
            sorted(sites or self._enrolled()),
            sites=sites,
            quorum=rules.quorum,
            deadline_s=rules.deadline_s,
            tolerance=tolerance,
        )
        offer = self.offers.read(candidate.digest)
        assert offer is not None  # `begin` put it there
        return offer

    def training(
        self,
        recipe: Recipe,
        rules: ServerFederation,
        generation: str,
        sites: Collection[str],
        asked: Mapping[str, Any],
    ) -> Training:
        """Ask sites for a training from a generation of the store, which is offered to them if it was not.

        Args:
            rules: Quorum and deadline.
            generation: Digest or its beginning; empty for the newest.
            sites: Who trains; empty for every enrolled site.
            asked: Fields of `Training` such as `rounds`.

        Raises:
            InputError: Fewer sites than the quorum.
            StoreError: No such generation or site, or several generations begin so.
        """
        digest = named_by(generation, self.store.generations(), "generations")
        if digest is None:
            raise StoreError(
                f"store: no generation {generation[:12] or 'is published'}",
                hint="`fedmed-server generation publish` makes a draft to start from",
            )
        for site in sites:
            self.store.site(site)
        names = tuple(sorted(sites or self._enrolled()))
        limits = {"quorum": rules.quorum, "deadline_s": rules.deadline_s}
        rounds = Rounds(self.store, self.folder, self.key)
        training = rounds.begin(recipe, digest, sites=names, **limits, **asked)
        offer = self.offers.read(digest)
        if offer is None or offer.state != "on offer":
            self.generation(digest, recipe, sites=names if sites else None, ask=False)
            return training
        if offer.sites is not None and not set(names) <= set(offer.sites):
            offer = self.offers.promote(digest, "generation", {*offer.sites, *names})
            self._tell(offer)
        self._styles(recipe, digest, offer.sites)
        return training

    def _exported(self, content: bytes, name: str) -> list[ModelEntry]:
        """The store's models that a file was exported from, as the ledger tells: one a task, by its name."""
        digest = hashlib.sha256(content).hexdigest()
        exported = {
            row.subject
            for row in self.store.ledger()
            if row.kind == "exported" and row.details.get("file") == digest
        }
        entries = [entry for entry in self.store.models() if entry.digest in exported]
        if not entries:
            raise InputError(
                f"{name}: was not exported from this store",
                hint="`fedmed-server export` writes what is published",
            )
        for entry in entries:
            if entry.withdrawn:
                raise StoreError(
                    f"{name}: a site in model {entry.digest[:12]} has withdrawn", hint="rebuild first"
                )
        return sorted(entries, key=lambda entry: entry.task)

    def _enrolled(self) -> list[str]:
        return [one.name for one in self.store.sites() if not one.revoked]

    def _tell(self, offer: OnOffer, **more: Any) -> None:
        told = {"kind": offer.kind, "task": offer.task, "sites": list(offer.sites or ())}
        self.store.ledger_append("offered", subject=offer.digest, details=told | more)
