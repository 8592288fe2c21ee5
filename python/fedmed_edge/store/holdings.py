"""Contributions and recipes in the index: recorded, listed, and which files the store must hold."""

from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from fedmed_edge.errors import StoreError
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.store import journal
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


def record(
    connection: Connection, contribution: Contribution, stored: str, size: int, public_key: bytes
) -> None:
    """Write the row of a contribution whose file is kept under the digest `stored`, new or renewed."""
    header = contribution.header
    values: dict[str, Any] = {
        "object": stored,
        "site": header.site,
        "public_key": public_key,
        "sequence": header.sequence,
        "task": header.task,
        "recipe": header.recipe,
        "generation": header.generation,
        "holds": "sums" if contribution.statistics is not None else "weights",
        "bytes": size,
        "received": now(),
    }
    replaced = connection.scalars(select(contributions.c.object).where(contributions.c.id == contribution.id))
    journal.loosen(connection, set(replaced) - {stored})
    renewed = update(contributions).where(contributions.c.id == contribution.id).values(**values)
    if connection.execute(renewed).rowcount == 0:
        connection.execute(insert(contributions).values(id=contribution.id, **values))


def entries(connection: Connection, task: str | None) -> list[ContributionEntry]:
    """Contributions of a task or all, by site and sequence."""
    query = select(contributions).order_by(contributions.c.site, contributions.c.sequence)
    if task is not None:
        query = query.where(contributions.c.task == task)
    rows = connection.execute(query).all()
    newest = {(row.site, row.recipe, row.generation, row.holds): row.id for row in rows}
    return [
        ContributionEntry(
            id=row.id,
            site=row.site,
            sequence=row.sequence,
            task=row.task,
            recipe=row.recipe,
            generation=row.generation,
            holds=row.holds,
            current=newest[row.site, row.recipe, row.generation, row.holds] == row.id,
            bytes=row.bytes,
            received=row.received,
        )
        for row in rows
    ]


def current(
    connection: Connection, task: str, generation: str | None, holds: Holds
) -> tuple[list[ContributionEntry], dict[str, str]]:
    """Entries that a rebuild of the task takes, by site name; and contribution id → digest of its file.

    Raises:
        StoreError: No such task.
    """
    recipe = newest_recipe(connection, task).digest
    found = [
        entry
        for entry in entries(connection, task)
        if entry.current and entry.recipe == recipe and entry.holds == holds
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
    columns: list[tuple[Table, str]] = [
        (contributions, "object"),
        (models, "object"),
        (generations, "digest"),
    ]
    return {digest for table, name in columns for digest in connection.scalars(select(table.c[name]))}
