"""A site's withdrawal from end to end: its contributions deleted, its tasks rebuilt, the store checked."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.store.entries import ModelEntry, Withdrawal
from fedmed_edge.store.store import Store

__all__ = ["Rebuilt", "Withdrawn", "withdraw_and_rebuild"]


@dataclass(frozen=True)
class Rebuilt:
    """A task before and after a withdrawal.

    Attributes:
        before: Digest of the newest global model until then; None where there was none.
        model: The global model of those who are left; None where there is none.
        back: Sites in it that were in the store, and not in the newest model, until then.
        why: Why there is none.
    """

    before: str | None
    model: GlobalModel | None = field(default=None, repr=False)
    back: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Withdrawn:
    """What a withdrawal changed, and what it cannot change.

    Attributes:
        tasks: By name, in order.
        backbones: Digests of generations whose backbone learned from the site's images.
        measurements: Digests of generations whose standardisation and reference were measured on them.
        faults: Of the store, checked from the ground afterwards.
    """

    deleted: Withdrawal
    tasks: Mapping[str, Rebuilt]
    backbones: tuple[str, ...]
    measurements: tuple[str, ...]
    faults: tuple[str, ...]


def withdraw_and_rebuild(store: Store, site: str) -> Withdrawn:
    """Delete everything that a site contributed and rebuild every task it took part in.

    Running it again finishes a withdrawal that was cut off.

    Raises:
        StoreError: No such site, another process kept the lock, or a file cannot be deleted or read.
    """
    deleted = store.withdraw(site)
    newest = {entry.task: entry for entry in reversed(store.models()) if entry.refined_for is None}
    unfinished = {task for task, entry in newest.items() if entry.withdrawn}
    tasks = {task: _rebuilt(store, task, newest.get(task)) for task in sorted({*deleted.tasks, *unfinished})}
    return Withdrawn(
        deleted,
        tasks,
        backbones=_named_in(store, site, "trained_by"),
        measurements=_named_in(store, site, "measured_at"),
        faults=tuple(store.verify()),
    )


def _rebuilt(store: Store, task: str, newest: ModelEntry | None) -> Rebuilt:
    before = newest.digest if newest else None
    try:
        model = rebuild(store.contributions(task), store.recipe(task))
    except InputError as error:
        return Rebuilt(before, why=str(error))
    store.save_model(model)
    back = tuple(site for site in model.sites if newest and site not in newest.sites)
    return Rebuilt(before, model, back)


def _named_in(store: Store, site: str, field: Literal["trained_by", "measured_at"]) -> tuple[str, ...]:
    """Digests of the generations whose header names the site there."""
    found = []
    for digest in store.generations():
        with suppress(FedmedError):  # a damaged one is among the faults
            if site in getattr(store.generation(digest).header, field):
                found.append(digest)
    return tuple(found)
