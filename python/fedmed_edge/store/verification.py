"""A store checked from the ground: every row, file, digest and signature against each other."""

import contextlib
from typing import Any

from sqlalchemy import Connection, select

from fedmed_edge.errors import FedmedError, StoreError
from fedmed_edge.kinds import content_kind
from fedmed_edge.recipe import Recipe
from fedmed_edge.signing import parse_public_key
from fedmed_edge.statistics.contribution import parse_contribution
from fedmed_edge.statistics.reading import parse_envelope
from fedmed_edge.store import enrolment, holdings, journal, ledger
from fedmed_edge.store.index import Index
from fedmed_edge.store.objects import Objects
from fedmed_edge.store.tables import contributions, generations, model_parts, models, recipes, tombstones


def faults(index: Index, objects: Objects) -> list[str]:
    """Everything that is wrong, in words; empty for a sound store. Nothing is changed."""
    found = _strangers(index, objects)
    with index.read() as connection:
        found += [f"index: {line}" for line in index.integrity(connection)]
        found += _disagreements(connection)
        try:
            ledger.verify(connection)
            found += enrolment.disagreements(connection)
        except StoreError as error:
            found.append(_told(error))
        held = connection.execute(select(contributions).order_by(contributions.c.site)).all()
        others = [
            digest
            for column in (generations.c.digest, models.c.object)
            for digest in connection.scalars(select(column))
        ]
    # outside a transaction: it takes a while, and a reader would hold up every writer's commit
    broken: dict[str, str] = {}
    for digest in others:
        try:
            objects.read(digest)
        except FedmedError as error:
            broken[digest] = _told(error)
    for row in held:
        try:
            _check_contribution(row, objects)
        except FedmedError as error:
            broken[row.object] = _told(error)
    with index.read() as connection:
        still_named = holdings.known_objects(connection)
    return found + [why for digest, why in broken.items() if digest in still_named]


def _told(error: FedmedError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)


def _strangers(index: Index, objects: Objects) -> list[str]:
    """Files that neither a row nor the journal names."""
    try:
        listed = list(objects.listed())  # before the index: what is written later was journalled before
    except StoreError as error:
        return [_told(error)]
    with index.read() as connection:
        named = holdings.known_objects(connection) | journal.loosened(connection)
    found = []
    for place, digest in listed:
        if digest is None:
            found.append(f"{place}: is no file of the store; move it elsewhere")
        elif digest not in named and objects.holds(digest):
            what, todo = _unnamed(objects, digest)
            found.append(
                f"{place}: {what} that the index does not name, as after an older index was restored; "
                f"{todo}, or delete it"
            )
    return found


def _unnamed(objects: Objects, digest: str) -> tuple[str, str]:
    """What an object without a row is, and how it comes back."""
    kind: str | None = None
    with contextlib.suppress(FedmedError):
        content = objects.read(digest)
        kind = content_kind(content)
        if kind == "contribution":
            header = parse_envelope(content, "object").header
            what = f"contribution of site `{header.site}`, sequence {header.sequence},"
            return what, "`fedmed-server import` takes this very file"
    todo = {"model": "`fedmed-server rebuild` makes it anew", "generation": "publish it as it was made then"}
    return kind or "file of no known kind", todo.get(kind or "", "move it elsewhere")


def _disagreements(connection: Connection) -> list[str]:
    """Rows that contradict each other."""
    held = set(connection.scalars(select(contributions.c.id)))
    buried = set(connection.scalars(select(tombstones.c.id)))
    marked = set(connection.scalars(select(models.c.digest).where(models.c.withdrawn)))
    found = [
        f"contribution {one[:12]}: is there although it was withdrawn; withdraw its site again"
        for one in sorted(held & buried)
    ]
    for row in connection.execute(select(recipes)).all():
        if Recipe.model_validate_json(row.content).digest != row.digest:
            found.append(f"recipe {row.digest[:12]}: its content is not what its digest says")
    for part in connection.execute(select(model_parts)).all():
        if part.contribution in buried and part.model not in marked:
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
