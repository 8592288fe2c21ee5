"""Which files of a store may be deleted.

A file's digest is committed here before the file is written, and goes from here in the very change whose row
names it; it comes back in the change that deletes that row. What neither a row nor this journal names was put
there by somebody else, or is newer than an index that was restored: it is reported and never deleted.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select

from fedmed_edge.store.tables import loose


def loosen(connection: Connection, digests: Iterable[str]) -> None:
    """From now on these files may be deleted, unless a row names them."""
    fresh = set(digests) - loosened(connection)
    if fresh:
        connection.execute(insert(loose), [{"digest": digest} for digest in sorted(fresh)])


def loosened(connection: Connection) -> set[str]:
    """Digests of the files that may be deleted, unless a row names them."""
    return set(connection.scalars(select(loose.c.digest)))


def settle(connection: Connection, digest: str) -> None:
    """A row names the file now."""
    connection.execute(delete(loose).where(loose.c.digest == digest))


def clear(connection: Connection) -> None:
    """All that could be deleted has been."""
    connection.execute(delete(loose))
