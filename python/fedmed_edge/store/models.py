"""Models in the index: kept, listed, marked as withdrawn."""

from collections.abc import Iterable
from typing import Protocol

from sqlalchemy import Connection, delete, insert, select, update

from fedmed_edge.errors import StoreError
from fedmed_edge.recipe import Recipe
from fedmed_edge.store import journal, ledger
from fedmed_edge.store.entries import ModelEntry
from fedmed_edge.store.tables import contributions, model_parts, models, now


class StoredModel(Protocol):
    """What the store needs of a `GlobalModel`; `contributions` are ids in the order of `sites`."""

    @property
    def content(self) -> bytes: ...  # noqa: D102

    @property
    def digest(self) -> str: ...  # noqa: D102

    @property
    def recipe(self) -> Recipe: ...  # noqa: D102

    @property
    def generation(self) -> str: ...  # noqa: D102

    @property
    def sites(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def contributions(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def refined_for(self) -> str | None: ...  # noqa: D102


def record(connection: Connection, model: StoredModel, stored: str) -> None:
    """Write the rows of a model whose file is kept under the digest `stored`; it becomes the newest.

    Raises:
        StoreError: A contribution in it is no longer in the store.
    """
    for site, contribution in zip(model.sites, model.contributions, strict=True):
        query = select(contributions.c.id).where(
            contributions.c.id == contribution, contributions.c.site == site
        )
        if connection.scalar(query) is None:
            raise StoreError(
                f"model {model.digest[:12]}: holds contribution {contribution[:12]} of site `{site}`, "
                "which is not in the store",
                hint="the site withdrew meanwhile: rebuild again",
            )
    replaced = connection.scalars(select(models.c.object).where(models.c.digest == model.digest))
    journal.loosen(connection, set(replaced) - {stored})
    connection.execute(delete(models).where(models.c.digest == model.digest))
    connection.execute(
        insert(models).values(
            digest=model.digest,
            object=stored,
            task=model.recipe.name,
            generation=model.generation,
            refined_for=model.refined_for,
            made=now(),
        )
    )
    parts = [
        {"model": model.digest, "site": site, "contribution": contribution}
        for site, contribution in zip(model.sites, model.contributions, strict=True)
    ]
    if parts:
        connection.execute(insert(model_parts), parts)
    told = {
        "task": model.recipe.name,
        "generation": model.generation,
        "contributions": dict(zip(model.sites, model.contributions, strict=True)),
    }
    kind = "refined" if model.refined_for else "rebuilt"
    ledger.append(connection, kind, site=model.refined_for, subject=model.digest, details=told)


def entries(connection: Connection, task: str | None) -> list[ModelEntry]:
    """Models, newest first."""
    query = select(models).order_by(models.c.number.desc())
    if task is not None:
        query = query.where(models.c.task == task)
    found = []
    for row in connection.execute(query).all():
        parts = connection.execute(
            select(model_parts).where(model_parts.c.model == row.digest).order_by(model_parts.c.site)
        ).all()
        found.append(
            ModelEntry(
                digest=row.digest,
                task=row.task,
                generation=row.generation,
                sites=tuple(part.site for part in parts),
                contributions=tuple(part.contribution for part in parts),
                refined_for=row.refined_for,
                withdrawn=row.withdrawn,
                made=row.made,
            )
        )
    return found


def mark_withdrawn(connection: Connection, withdrawn: Iterable[str]) -> tuple[str, ...]:
    """Mark the models that hold one of these contributions; digests of all that do, marked before or now."""
    query = select(model_parts.c.model).where(model_parts.c.contribution.in_(list(withdrawn))).distinct()
    held = tuple(sorted(connection.scalars(query)))
    connection.execute(update(models).where(models.c.digest.in_(held)).values(withdrawn=True))
    return held
