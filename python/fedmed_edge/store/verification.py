"""A store checked from the ground: every row, file, digest and signature against each other."""

from typing import Any

from sqlalchemy import select

from fedmed_edge.errors import FedmedError, StoreError
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import parse_public_key
from fedmed_edge.statistics.contribution import parse_contribution
from fedmed_edge.store.index import (
    Index,
    contributions,
    generations,
    model_parts,
    models,
    recipes,
    tombstones,
)
from fedmed_edge.store.objects import Objects


def faults(index: Index, objects: Objects) -> list[str]:
    """Everything that is wrong, in words; empty for a sound store. Nothing is changed."""
    with index.read() as connection:
        found = [f"index: {line}" for line in index.integrity(connection)]
        held = connection.execute(select(contributions).order_by(contributions.c.site)).all()
        buried = set(connection.scalars(select(tombstones.c.id)))
        made = connection.execute(select(models)).all()
        parts = connection.execute(select(model_parts)).all()
        published = list(connection.scalars(select(generations.c.digest)))
        known = connection.execute(select(recipes)).all()
    for digest in [*published, *(row.object for row in made)]:
        try:
            objects.read(digest)
        except FedmedError as error:
            found.append(str(error))
    for row in held:
        try:
            _check_contribution(row, objects)
        except FedmedError as error:
            found.append(str(error))
        if row.id in buried:
            found.append(f"contribution {row.id[:12]}: is there although it was withdrawn")
    for row in known:
        if Recipe.model_validate_json(row.content).digest != row.digest:
            found.append(f"recipe {row.digest[:12]}: its content is not what its digest says")
    withdrawn = {row.digest for row in made if row.withdrawn}
    for part in parts:
        if part.contribution in buried and part.model not in withdrawn:
            found.append(f"model {part.model[:12]}: holds withdrawn site `{part.site}` and is not marked")
    return found


def _check_contribution(row: Any, objects: Objects) -> None:
    """Raises a `FedmedError` where a row and its file do not say the same."""
    where = f"contribution {row.id[:12]}"
    key = parse_public_key(row.public_key, f"{where}: key of site `{row.site}`")
    contribution = parse_contribution(objects.read(row.object), where, verify_key=key)
    header = contribution.header
    for name in ("site", "sequence", "task", "recipe", "generation"):
        if getattr(header, name) != getattr(row, name):
            raise StoreError(f"{where}: `{name}` has {getattr(header, name)}, its row {getattr(row, name)}")
    if contribution.id != row.id:
        raise StoreError(f"{where}: its content has the id {contribution.id[:12]}")
