"""The files of a store, in step with the rows that name them.

A file is written before the row that names it and deleted after it, and the journal names it meanwhile, so a
process may be killed at any point: what the journal names and no row does is swept when the store is opened
next. Nothing else is ever deleted.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from fedmed_edge.errors import StoreError
from fedmed_edge.store import at_rest, holdings, journal
from fedmed_edge.store.index import WAIT_S, Index
from fedmed_edge.store.objects import Objects
from fedmed_edge.tensorfile import Content

log = logging.getLogger(__name__)


class Files:
    """Objects that rows of the index name."""

    def __init__(self, index: Index, objects: Objects) -> None:
        self._index, self._objects = index, objects

    @contextmanager
    def adding(self, digest: str) -> Iterator[Connection]:
        """A change that may write the object of a digest, which is journalled before it begins.

        Raises:
            StoreError: As `Index.write`.
        """
        while True:
            with self._index.write() as connection:
                at_rest.hold_key(connection, self._objects.cipher)
                if digest in journal.loosened(connection):
                    yield connection
                    if holdings.names(connection, digest):
                        journal.settle(connection, digest)
                    return
                # committed by itself; where another process sweeps before we are back, it is done again
                journal.loosen(connection, [digest])

    def mend(self, content: Content, digest: str) -> None:
        """Write an object anew where a row names it and it is damaged or missing.

        Raises:
            StoreError: As `Index.write`.
        """
        with self._index.write() as connection:
            at_rest.hold_key(connection, self._objects.cipher)
            if holdings.names(connection, digest):
                self._objects.write(content, digest)

    def read(self, digest: str) -> bytes:
        """Content of an object whose row may go away meanwhile.

        Raises:
            StoreError: It is missing or damaged, or was withdrawn.
        """
        try:
            return self._objects.read(digest)
        except StoreError:
            with self._index.read() as connection:
                if holdings.names(connection, digest):
                    raise
        raise StoreError("store: a contribution was withdrawn while it was read", hint="run it again")

    def sweep_leftovers(self, *, wait_s: float = WAIT_S) -> None:
        """Sweep where a killed process left something; a store that is only read is not written to.

        Raises:
            StoreError: As `sweep`.
        """
        with self._index.read() as connection:
            left = journal.loosened(connection) - holdings.known_objects(connection)
        if self._objects.unfinished() or any(map(self._objects.holds, left)):
            self.sweep(wait_s=wait_s)

    def sweep(self, *, wait_s: float = WAIT_S) -> None:
        """Delete the objects that the journal names and no row does.

        Raises:
            StoreError: Another process kept the lock, or one cannot be deleted.
        """
        with self._index.write(wait_s=wait_s) as connection:
            left = journal.loosened(connection) - holdings.known_objects(connection)
            for place in self._objects.delete(left):
                log.debug("swept %s", place.rpartition("/")[2])
            journal.clear(connection)
