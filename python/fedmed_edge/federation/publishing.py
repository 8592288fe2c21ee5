"""What the server's admin puts on offer: generations of the store, models that were exported from it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedmed_edge.config import ServerFederation
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.federation.candidates import Candidates
from fedmed_edge.federation.offers import Offers, OnOffer
from fedmed_edge.federation.parts import file_digest
from fedmed_edge.federation.requests import Requests
from fedmed_edge.federation.rounds import Rounds, Training
from fedmed_edge.federation.styles import collect_styles
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import PrivateKey
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.store.entries import ModelEntry
from fedmed_edge.store.store import Store

__all__ = ["begin_training", "exported_model", "publish_generation", "publish_model", "validate_model"]


def publish_generation(
    store: Store,
    offers: Offers,
    key: PrivateKey,
    digest: str,
    recipe: Recipe,
    *,
    sites: Collection[str] | None = None,
    ask: bool = True,
) -> OnOffer:
    """Offer a generation of the store to sites.

    Args:
        digest: Of the generation.
        sites: Who may have it; None is every site.
        ask: Ask every site that hears of it to contribute to it for this recipe; one that refused or failed
            before is asked once more, one that did so is not.

    Raises:
        StoreError: There is no such generation.
        InputError: The disk is full.
    """
    with TemporaryDirectory(dir=store.folder.parent) as folder:
        path = Path(folder) / "generation"
        path.write_bytes(store.generation(digest).content)
        wanted = recipe.digest if ask else None
        offer = offers.publish(path, key, kind="generation", sites=sites, task=recipe.name, recipe=wanted)
        _publish_styles(store, offers, key, Path(folder) / "styles", recipe, digest, sites)
    if ask:
        Requests(offers.folder.parent / "requests").forget_undone(offer.purpose)
    told = {"kind": "generation", "task": recipe.name, "asked": ask, "sites": list(offer.sites or ())}
    store.ledger_append("offered", subject=digest, details=told)
    return offer


def _publish_styles(
    store: Store,
    offers: Offers,
    key: PrivateKey,
    path: Path,
    recipe: Recipe,
    generation: str,
    sites: Collection[str] | None,
) -> None:
    """Styles of sites that consent travel with a generation: what they handed over last under any other."""
    newest: dict[str, Contribution] = {}
    for digest in reversed(store.generations()):
        newest |= {one.header.site: one for one in store.contributions(recipe.name, generation=digest)}
    content, ids = collect_styles(list(newest.values()))
    for offer in offers.all():
        if (offer.kind, offer.task, offer.state) == ("styles", recipe.name, "on offer"):
            offers.take_back(offer.digest, "taken back")
    if content:
        path.write_bytes(content)
        offers.publish(
            path,
            key,
            kind="styles",
            sites=sites,
            task=recipe.name,
            generation=generation,
            contributions=ids,
        )


def publish_model(
    store: Store, offers: Offers, key: PrivateKey, path: Path, *, sites: Collection[str] | None = None
) -> OnOffer:
    """Offer an exported model to sites; one that was refined for a site goes to that site alone.

    Args:
        path: File that `fedmed-server export` wrote.
        sites: Who may have it; None is every site.

    Raises:
        InputError: The file was not exported from this store.
        StoreError: A site in it has withdrawn.
    """
    entry = exported_model(store, path)
    to = [entry.refined_for] if entry.refined_for else sites
    offer = offers.publish(
        path, key, kind="model", sites=to, task=entry.task, generation=entry.generation, model=entry.digest
    )
    told = {"kind": "model", "task": entry.task, "model": entry.digest, "sites": list(offer.sites or ())}
    store.ledger_append("offered", subject=offer.digest, details=told)
    return offer


def exported_model(store: Store, path: Path) -> ModelEntry:
    """The store's model that a file was exported from, as the ledger tells.

    Raises:
        InputError: The file cannot be read, or was not exported from this store.
        StoreError: A site in it has withdrawn.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    digest = file_digest(path)
    rows = [row for row in store.ledger() if row.kind == "exported" and row.details.get("file") == digest]
    entries = {entry.digest: entry for entry in store.models()}
    entry = entries.get(rows[-1].subject or "") if rows else None
    if entry is None:
        raise InputError(
            f"{path}: was not exported from this store",
            hint="`fedmed-server export` writes what is published",
        )
    if entry.withdrawn:
        raise StoreError(f"{path}: a site in model {entry.digest[:12]} has withdrawn", hint="rebuild first")
    return entry


def validate_model(
    store: Store,
    folder: Path,
    key: PrivateKey,
    path: Path,
    rules: ServerFederation,
    sites: Collection[str] | None,
    tolerance: float,
) -> OnOffer:
    """Ask sites about an exported model, which is offered to `sites` once enough of them found it good.

    Args:
        folder: `federation/` of the server's folder.
        rules: Quorum and deadline.
        sites: Who is asked and gets it; None is every enrolled site.
        tolerance: By how much its mean score may be below that of the model before it.

    Raises:
        InputError: As `publish_model`, or fewer sites than the quorum.
        StoreError: As `publish_model`.
    """
    entry = exported_model(store, path)
    asked = sorted(sites or [one.name for one in store.sites() if not one.revoked])
    candidate = Candidates(store, folder, key).begin(
        path,
        store.recipe(entry.task),
        entry,
        asked,
        sites=sites,
        quorum=rules.quorum,
        deadline_s=rules.deadline_s,
        tolerance=tolerance,
    )
    offer = Offers(folder / "offers").read(candidate.digest)
    assert offer is not None  # `begin` put it there
    return offer


def begin_training(
    store: Store,
    rounds: Rounds,
    recipe: Recipe,
    rules: ServerFederation,
    generation: str,
    sites: Collection[str],
    asked: Mapping[str, Any],
) -> Training:
    """Ask sites for a training from a generation of the store, which is offered to them.

    Args:
        rules: Quorum and deadline.
        generation: Digest or its beginning; empty for the newest.
        sites: Who trains; empty for every enrolled site.
        asked: Fields of `Training` such as `rounds`.

    Raises:
        InputError: Fewer sites than the quorum.
        StoreError: No such generation or site.
    """
    digest = next((one for one in store.generations() if one.startswith(generation)), None)
    if digest is None:
        raise StoreError(
            f"store: no generation {generation[:12] or 'is published'}",
            hint="`fedmed-server generation publish` makes a draft to start from",
        )
    for site in sites:
        store.site(site)
    names = tuple(sorted(sites or [one.name for one in store.sites() if not one.revoked]))
    training = rounds.begin(
        recipe, digest, sites=names, quorum=rules.quorum, deadline_s=rules.deadline_s, **asked
    )
    offer = rounds.offers.read(digest)
    if offer is None or offer.state != "on offer":
        publish_generation(store, rounds.offers, rounds.key, digest, recipe, ask=False)
    return training
