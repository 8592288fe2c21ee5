"""What the server has for its sites: signed files that they fetch in parts.

OFFERS/DIGEST        the file
OFFERS/DIGEST.json   what it is, for whom, and the server's signature over it
"""

import hashlib
import io
import time
from collections.abc import Collection, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Literal

from pydantic import Field

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.federation.messages import Digest, Kind, Offered
from fedmed_edge.federation.parts import part_of
from fedmed_edge.federation.records import Records
from fedmed_edge.signing import PrivateKey, detached_signature

__all__ = ["Offers", "OnOffer"]

_PIECE = 1 << 20


class OnOffer(Offered):
    """An object with what only the server knows of it.

    Attributes:
        sites: Who may have it; None is every site.
        recipe: Digest; every site that hears of the generation is asked to contribute to it for this recipe.
        asks: The same of every recipe that the generation was offered for, with the sites that are asked;
            None is every site.
        contributions: Ids of those whose styles are in it.
        state: `on offer`, `taken back` (nobody gets it any more) or `withdrawn` (nor may use it).
    """

    sites: tuple[str, ...] | None = None
    recipe: Digest | None = None
    asks: dict[Digest, tuple[str, ...] | None] = Field(default_factory=dict)
    contributions: tuple[Digest, ...] = ()
    state: Literal["on offer", "taken back", "withdrawn"] = "on offer"

    def is_for(self, site: str) -> bool:
        """Whether a site may have it."""
        return self.state == "on offer" and (self.sites is None or site in self.sites)

    @property
    def asked(self) -> dict[Digest, tuple[str, ...] | None]:
        """As `asks`; before several tasks could share a generation there was `recipe` alone."""
        return self.asks or ({self.recipe: self.sites} if self.recipe else {})

    def recipes_for(self, site: str) -> list[str]:
        """Digests of the recipes that a site is asked to contribute to the generation for."""
        if not self.is_for(site):
            return []
        return [recipe for recipe, sites in self.asked.items() if sites is None or site in sites]

    def purpose(self, recipe: str) -> str:
        """What sites are asked for with a recipe."""
        return f"statistics {self.digest} {recipe}"


class Offers:
    """Objects on offer.

    Args:
        folder: `federation/offers/` of the server's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Records(folder, OnOffer)

    def publish(
        self,
        content: bytes | Path,
        key: PrivateKey,
        *,
        kind: Kind,
        sites: Collection[str] | None = None,
        task: str | None = None,
        generation: str | None = None,
        recipe: str | None = None,
        asks: Mapping[str, Collection[str] | None] | None = None,
        model: str | None = None,
        others: Mapping[str, str] | None = None,
        contributions: Collection[str] = (),
    ) -> OnOffer:
        """Offer a file from now on; one that is on offer already changes its kind and its sites.

        Args:
            content: Of the file, or where it lies.
            key: The server's, which every object is signed with.
            sites: Who may have it; None is every site.
            recipe: Of a generation that these sites shall contribute to.
            asks: As of `OnOffer`.
            model, others: In an exported model, as of `Offered`.
            contributions: Ids of those whose styles are in it.

        Raises:
            InputError: The file cannot be read, or the disk is full.
        """
        digest, size = self._keep(content)
        offer = OnOffer(
            kind=kind,
            digest=digest,
            bytes=size,
            signature=detached_signature(bytes.fromhex(digest), key).decode(),
            task=task,
            generation=generation,
            sites=None if sites is None else tuple(sorted(sites)),
            recipe=recipe,
            asks={one: None if to is None else tuple(sorted(to)) for one, to in (asks or {}).items()},
            model=model,
            others=dict(others or {}),
            contributions=tuple(contributions),
            made=time.time(),
        )
        self._records.write(digest, offer)
        return offer

    def _keep(self, content: bytes | Path) -> tuple[str, int]:
        """Copy a file among the objects, in pieces; its digest and size."""
        with io.BytesIO(content) if isinstance(content, bytes) else _readable(content) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            target = self.folder / digest
            if not target.is_file():
                self.folder.mkdir(parents=True, exist_ok=True)
                file.seek(0)
                write_atomic(target, iter(lambda: file.read(_PIECE), b""))
        return digest, target.stat().st_size

    def read(self, digest: str) -> OnOffer | None:
        """What is known of an object, or None."""
        return self._records.read(digest)

    def all(self) -> list[OnOffer]:
        """Every object that was ever offered, oldest first."""
        return sorted(self._records.all(), key=lambda offer: (offer.made, offer.digest))

    def part(self, digest: str, part: int) -> bytes:
        """One part of an object.

        Raises:
            InputError: It is beyond its end.
        """
        return part_of(self.folder / digest, part)

    def promote(self, digest: str, kind: Kind, sites: Collection[str] | None) -> OnOffer:
        """What was offered as one kind is another from now on, for these sites (None: every site).

        Raises:
            StoreError: There is no such object.
        """
        offer = self.read(digest)
        if offer is None:
            raise StoreError(f"offers: no object {digest[:12]}")
        to = None if sites is None else tuple(sorted(sites))
        now = {"kind": kind, "sites": to, "state": "on offer", "made": time.time()}
        changed = offer.model_copy(update=now)
        self._records.write(digest, changed)
        return changed

    def take_back(self, digest: str, state: Literal["taken back", "withdrawn"]) -> OnOffer:
        """Offer an object no more; the file goes.

        Raises:
            StoreError: There is no such object.
        """
        offer = self.read(digest)
        if offer is None:
            raise StoreError(f"offers: no object {digest[:12]}")
        changed = offer.model_copy(update={"state": state})
        self._records.write(digest, changed)
        (self.folder / digest).unlink(missing_ok=True)
        return changed

    def forget(self, digest: str) -> None:
        """As if it had never been offered; sites that have it are told so."""
        self._records.delete(digest)
        (self.folder / digest).unlink(missing_ok=True)

    def withdraw(self, models: Collection[str], held: Collection[str]) -> None:
        """What holds a site that withdrew: nobody gets it any more, nor may use it.

        Args:
            models: Digests of the models that were withdrawn.
            held: Ids of the contributions that the store holds.
        """
        for offer in self.all():
            withdrawn = not {offer.model, *offer.others.values()}.isdisjoint(models)
            gone = withdrawn or not set(offer.contributions) <= set(held)
            if gone and offer.state != "withdrawn":
                self.take_back(offer.digest, "withdrawn")


def _readable(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
