"""Recipes, generations and contributions in the index: recorded, listed, and which files the store holds."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fedmed_edge.errors import StoreError
from fedmed_edge.generation import Generation
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.header import ContributionHeader, canonical_json
from fedmed_edge.store import journal, ledger
from fedmed_edge.store.entries import ContributionEntry, GenerationEntry, Holds
from fedmed_edge.store.tables import contributions, generations, models, now, recipes, tombstones


def newest_recipe(connection: Connection, task: str) -> Recipe:
    """Newest recipe of a task.

    Raises:
        StoreError: No such task; names those that are.
    """
    query = select(recipes.c.content).where(recipes.c.task == task).order_by(recipes.c.number.desc())
    content = connection.scalar(query.limit(1))
    if content is None:
        known = ", ".join(connection.scalars(select(recipes.c.task).distinct().order_by(recipes.c.task)))
        raise StoreError(f"store: no task `{task}`, known are: {known or 'none'}")
    return Recipe.model_validate_json(content)


def record_recipe(connection: Connection, recipe: Recipe) -> None:
    """Write the row of a recipe, which becomes the newest of its task."""
    keep_recipe(connection, recipe)
    # the foreign key from contributions forbids to delete and insert; a rising number is set instead
    newest = (connection.scalar(select(func.max(recipes.c.number))) or 0) + 1
    connection.execute(update(recipes).where(recipes.c.digest == recipe.digest).values(number=newest))


def keep_recipe(connection: Connection, recipe: Recipe) -> None:
    """Write the row of a recipe, unless it is there, below those of its task: none of them is replaced."""
    if connection.scalar(select(recipes.c.number).where(recipes.c.digest == recipe.digest)) is not None:
        return
    oldest = (connection.scalar(select(func.min(recipes.c.number))) or 1) - 1
    content = canonical_json(recipe.model_dump(mode="json"))
    values = {"number": oldest, "digest": recipe.digest, "task": recipe.name, "content": content}
    connection.execute(insert(recipes).values(**values))
    ledger.append(connection, "recipe added", subject=recipe.digest, details={"task": recipe.name})


def record_generation(connection: Connection, generation: Generation, stored: str) -> None:
    """Write the row of a generation whose file is kept under the digest `stored`, unless it is there."""
    if connection.scalar(select(generations.c.digest).where(generations.c.digest == stored)) is not None:
        return
    header = generation.header
    values: dict[str, Any] = {
        "kind": header.kind,
        "row_dim": generation.row_dim,
        "feature_dim": generation.feature_dim,
        "channels": sum(header.widths),
        "draft": generation.draft,
    }
    connection.execute(insert(generations).values(digest=stored, **values))
    learned = {"trained_by": header.trained_by, "measured_at": header.measured_at}
    ledger.append(connection, "published", subject=stored, details=values | learned)


def record(
    connection: Connection,
    contribution: Contribution,
    stored: str,
    size: int,
    public_key: bytes,
    details: Mapping[str, Any],
) -> None:
    """Write the row of a contribution whose file is kept under the digest `stored`, new or renewed.

    Args:
        details: What the ledger tells beside what the header says.
    """
    header = contribution.header
    copied = ("site", "sequence", "task", "recipe", "generation")
    values: dict[str, Any] = {name: getattr(header, name) for name in copied} | {
        "object": stored,
        "public_key": public_key,
        "holds": "sums" if contribution.statistics is not None else "weights",
        "bytes": size,
        "received": now(),
    }
    replaced = connection.scalars(select(contributions.c.object).where(contributions.c.id == contribution.id))
    journal.loosen(connection, set(replaced) - {stored})
    renewed = update(contributions).where(contributions.c.id == contribution.id).values(**values)
    if connection.execute(renewed).rowcount == 0:
        connection.execute(insert(contributions).values(id=contribution.id, **values))
    said = told(header) | {"signer": contribution.signer, "bytes": size, **details}
    ledger.append(connection, "contributed", site=header.site, subject=contribution.id, details=said)


def told(header: ContributionHeader) -> dict[str, Any]:
    """What a contribution's header says of itself, for the ledger: with the policy it left under."""
    kept = {"task", "sequence", "generation", "recipe", "parts", "folds", "min_cohort", "mode", "privacy"}
    return header.model_dump(mode="json", include=kept)


def entries(connection: Connection, task: str | None) -> list[ContributionEntry]:
    """Contributions of a task or all, by site and sequence."""
    query = select(contributions).order_by(contributions.c.site, contributions.c.sequence)
    if task is not None:
        query = query.where(contributions.c.task == task)
    rows = connection.execute(query).all()
    newest = {(row.site, row.recipe, row.generation, row.holds): row.id for row in rows}
    shown = [field.name for field in fields(ContributionEntry) if field.name != "current"]
    return [
        ContributionEntry(
            current=newest[row.site, row.recipe, row.generation, row.holds] == row.id,
            **{name: getattr(row, name) for name in shown},
        )
        for row in rows
    ]


def current(
    connection: Connection, task: str, generation: str | None, holds: Holds, recipe: Recipe | None
) -> tuple[list[ContributionEntry], dict[str, str]]:
    """Entries that a rebuild of the task takes, by site name; and contribution id → digest of its file.

    Raises:
        StoreError: No such task.
    """
    recipe = recipe or newest_recipe(connection, task)
    found = [
        entry
        for entry in entries(connection, task)
        if entry.current and entry.recipe == recipe.digest and entry.holds == holds
    ]
    if generation is None:
        # A draft only measures features: while sites do so, the generation in use stays the one before.
        complete = select(generations.c.digest).where(~generations.c.draft)
        newest = list(connection.scalars(complete.order_by(generations.c.number.desc())))
        held = {entry.generation for entry in found}
        generation = next((digest for digest in newest if digest in held), None)
    chosen = [entry for entry in found if entry.generation == generation]
    files = select(contributions.c.id, contributions.c.object)
    return chosen, {row.id: row.object for row in connection.execute(files)}


def bury(connection: Connection, site: str) -> list[Any]:
    """Replace a site's contributions by tombstones, so that they never come back; the rows that went."""
    rows = list(connection.execute(select(contributions).where(contributions.c.site == site)))
    if rows:
        moment = now()
        buried = [{"id": row.id, "site": site, "sequence": row.sequence, "withdrawn": moment} for row in rows]
        connection.execute(insert(tombstones), buried)
        connection.execute(delete(contributions).where(contributions.c.site == site))
        journal.loosen(connection, {row.object for row in rows})
    return rows


def generation_entries(connection: Connection) -> list[GenerationEntry]:
    """Every generation, newest first."""
    rows = connection.execute(select(generations).order_by(generations.c.number.desc()))
    return [GenerationEntry(row.digest, row.kind, row.row_dim, row.draft) for row in rows]


def known_objects(connection: Connection) -> set[str]:
    """Digests of all files that a row names."""
    return {digest for column in _NAMING for digest in connection.scalars(select(column))}


def names(connection: Connection, digest: str) -> bool:
    """Whether a row names the file of a digest."""
    found = (connection.scalar(select(column).where(column == digest).limit(1)) for column in _NAMING)
    return any(found)


_NAMING = (contributions.c.object, models.c.object, generations.c.digest)
