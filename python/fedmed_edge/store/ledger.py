"""The ledger: rows that are only ever added, each bound to the one before by its hash.

A row is written in the same change as what it tells of. Who alters, deletes, inserts or moves a row breaks
the chain there. Number and hash of the last row, the head, are kept beside the rows, so that a missing end is
found too; a chain that was written anew is told by a head that somebody wrote down elsewhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, insert, select, update

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.statistics.header import canonical_json
from fedmed_edge.store.tables import contributions, generations, models, now, settings, sites, tombstones
from fedmed_edge.store.tables import ledger as rows

FIRST: Final = "0" * 64
"""What stands for the hash before the first row."""

_DOMAIN: Final = b"fedmed ledger v1\0"
_HEAD: Final = "ledger_head"


@dataclass(frozen=True)
class LedgerEntry:
    """One row of the ledger.

    Attributes:
        time: When, UTC, as ISO 8601.
        kind: What happened, such as `contributed` or `withdrew`; docs/formats.md lists them.
        site: Whom it is about, if one.
        subject: Digest or id of what it is about, if one.
        details: More of it, by name.
        previous: Hash of the row before; `FIRST` for the first row.
        hash: SHA-256 in hexadecimal of all the others.
    """

    number: int
    time: str
    kind: str
    site: str | None
    subject: str | None
    details: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True)
class LedgerHead:
    """Where a ledger ends: number and hash of its last row. To be written down elsewhere."""

    number: int
    hash: str


def start(connection: Connection) -> None:
    """Write the first row: what the store held when its ledger began."""
    held: dict[str, Any] = {
        "sites": list(connection.scalars(select(sites.c.name).order_by(sites.c.name))),
        "generations": list(connection.scalars(select(generations.c.digest).order_by(generations.c.number))),
        "contributions": _sites_of(connection, contributions),
        "withdrawn": _sites_of(connection, tombstones),
        "models": list(connection.scalars(select(models.c.digest).order_by(models.c.number))),
    }
    connection.execute(insert(settings).values(key=_HEAD, value=f"0 {FIRST}"))
    append(connection, "started", details={name: value for name, value in held.items() if value})


def _sites_of(connection: Connection, table: Table) -> dict[str, str]:
    """Contribution id → site."""
    return {row.id: row.site for row in connection.execute(select(table.c.id, table.c.site))}


def append(
    connection: Connection,
    kind: str,
    *,
    site: str | None = None,
    subject: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> LedgerEntry:
    """Add a row; the caller is within a write.

    Raises:
        StoreError: The ledger has no head.
    """
    last = head(connection)
    values: dict[str, Any] = {
        "number": last.number + 1,
        "time": now(),
        "kind": kind,
        "site": site,
        "subject": subject,
        "details": canonical_json(dict(details or {})),
        "previous": last.hash,
    }
    values["hash"] = _hash(values)
    connection.execute(insert(rows).values(**values))
    moved = f"{values['number']} {values['hash']}"
    connection.execute(update(settings).where(settings.c.key == _HEAD).values(value=moved))
    return LedgerEntry(**values | {"details": dict(details or {})})


def head(connection: Connection) -> LedgerHead:
    """Where the ledger ends, as it is kept beside the rows.

    Raises:
        StoreError: It is missing or unreadable.
    """
    kept = connection.scalar(select(settings.c.value).where(settings.c.key == _HEAD)) or ""
    number, _, last = kept.partition(" ")
    if not number.isdecimal() or not last:
        raise StoreError("ledger: its head is missing", hint=_RESTORE)
    return LedgerHead(int(number), last)


def entries(connection: Connection) -> Iterator[LedgerEntry]:
    """Every row, oldest first, as it stands: `verify` says whether it may be believed."""
    for row in _rows(connection):
        yield LedgerEntry(**row._asdict() | {"details": _details(row)})


def _rows(connection: Connection) -> Iterator[Row[Any]]:
    """Rows in order, a few at a time: one may name thousands of sites."""
    query = select(rows).order_by(rows.c.number).execution_options(yield_per=100)
    with connection.execute(query) as found:
        yield from found


def verify(connection: Connection, known: str | None = None) -> LedgerHead:
    """Check every row against its hash and the row before, and the last against the head.

    Args:
        known: Hash (or its beginning) of a head that was written down before, which a row must have.

    Raises:
        InputError: `known` is no hash.
        StoreError: The chain is broken, at the row that is named, or no row has the hash `known`.
    """
    if known is not None and (len(known) < 12 or set(known) - set("0123456789abcdef")):
        raise InputError(f"ledger: head has {known[:64]}, expected at least 12 digits of a hash")
    found, last = known is None, LedgerHead(0, FIRST)
    for row in _rows(connection):
        _check(row, last)
        last = LedgerHead(row.number, row.hash)
        found = found or (known is not None and row.hash.startswith(known))
    kept = head(connection)
    if last.number < kept.number:
        gone = f"{last.number + 1}" + (f" to {kept.number}" if kept.number > last.number + 1 else "")
        raise StoreError(f"ledger: row {gone} is missing at its end", hint=_RESTORE)
    if last != kept:
        raise StoreError(
            f"ledger: row {last.number} has hash {last.hash[:12]}, the head kept beside has "
            f"{kept.number} {kept.hash[:12]}",
            hint=_RESTORE,
        )
    if not found:
        raise StoreError(
            f"ledger: no row has the hash {known}, which was written down",
            hint="rows were written anew since, or this is another store; compare it with a backup",
        )
    return last


def _check(row: Row[Any], last: LedgerHead) -> None:
    where = f"ledger: row {row.number}"
    if row.number != last.number + 1:
        raise StoreError(f"ledger: row {last.number + 1} is missing, {row.number} follows", hint=_RESTORE)
    if row.previous != last.hash:
        raise StoreError(
            f"{where} follows {str(row.previous)[:12]}, the row before has {last.hash[:12]}", hint=_RESTORE
        )
    if row.hash != (wanted := _hash(row._asdict())):
        raise StoreError(
            f"{where} was changed: hash has {str(row.hash)[:12]}, its content gives {wanted[:12]}",
            hint=_RESTORE,
        )


def _hash(values: Mapping[str, Any]) -> str:
    # a column may hold anything once somebody wrote to it
    named = {
        name: one if isinstance(one := values[name], str | int | None) else repr(one) for name in _HASHED
    }
    return hashlib.sha256(_DOMAIN + canonical_json(named).encode()).hexdigest()


def _details(row: Row[Any]) -> Mapping[str, Any]:
    """What was written; text that is no JSON any more is shown as it is."""
    try:
        found = json.loads(row.details)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unreadable": row.details}


_HASHED: Final = ("number", "time", "kind", "site", "subject", "details", "previous")
_RESTORE: Final = "somebody wrote to the index past fedmed-server; compare it with a backup of the store"
