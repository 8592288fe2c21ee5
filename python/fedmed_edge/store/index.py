"""The index of a store: its tables, their version and its transactions, in whatever database keeps them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.store import ledger
from fedmed_edge.store.database import Database
from fedmed_edge.store.postgresql import PostgresqlDatabase
from fedmed_edge.store.sqlite import SqliteFile
from fedmed_edge.store.tables import SCHEMA_VERSION, contributions, held_back, loose, metadata, settings
from fedmed_edge.store.tables import ledger as ledger_rows

INDEX_NAME: Final = "index.sqlite"
WAIT_S: Final = 60.0
"""How long a process waits for another that is writing."""

_VERSION_ROW: Final = settings.c.key == "schema_version"
_WITH_LEDGER: Final = 3


def database_of(folder: Path, url: str | None) -> Database:
    """The database of a store: a file in its folder, or the PostgreSQL that a URL names.

    Raises:
        InputError: Another URL.
    """
    if url is None:
        return SqliteFile(folder / INDEX_NAME)
    if url.split("://")[0] in ("postgresql", "postgresql+psycopg"):
        return PostgresqlDatabase(url)
    raise InputError(f"`index` has {url.split(':')[0]}, expected postgresql+psycopg://USER@HOST/DATABASE")


class Index:
    """Transactions over the tables; a write excludes every other write, in any process."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self) -> None:
        """Make the tables, all or none.

        Raises:
            StoreError: There is an index already.
        """
        with self.write() as connection:
            if inspect(connection).has_table("settings"):
                raise StoreError(f"{self.database.place}: is a store already")
            metadata.create_all(connection)
            connection.execute(settings.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
            ledger.start(connection)

    def finished(self) -> bool:
        """Whether there is an index that was made to the end."""
        try:
            self.database.require()
        except StoreError:
            return False
        with self.read() as connection:
            return inspect(connection).has_table("settings")

    def open(self) -> None:
        """Check the version of the index, and bring an older one up to date.

        Raises:
            StoreError: There is none, it was not finished, or it is of a newer version.
        """
        self.database.require()
        with self.read() as connection:
            version = self._version(connection)
        if version < SCHEMA_VERSION:
            with self.write() as connection:
                _migrate(connection, self._version(connection))

    def _version(self, connection: Connection) -> int:
        place = self.database.place
        made = inspect(connection).has_table("settings")
        version = connection.scalar(select(settings.c.value).where(_VERSION_ROW)) if made else None
        if version is None:
            raise StoreError(
                f"{place}: store was not finished",
                hint="where an `init` was cut off run `fedmed-server init` again; else restore the index "
                "from a backup",
            )
        if not version.isdecimal() or int(version) > SCHEMA_VERSION:
            raise StoreError(
                f"{place}: store has schema version {version[:20]}, expected at most {SCHEMA_VERSION}",
                hint="a newer fedmed-server made it: upgrade this one; nothing was changed",
            )
        return int(version)

    def integrity(self, connection: Connection) -> list[str]:
        """What the database finds wrong with itself and its references; empty if sound."""
        return self.database.integrity(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the index.

        Raises:
            StoreError: The index cannot be read.
        """
        with self._connection(write=False, wait_s=WAIT_S) as connection:
            yield connection

    @contextmanager
    def write(self, *, wait_s: float = WAIT_S) -> Iterator[Connection]:
        """A change that is made whole or not at all; waits for other writers.

        Raises:
            StoreError: Another process held the lock for longer than `wait_s`, the disk is full, or the store
                is read-only.
        """
        with self._connection(write=True, wait_s=wait_s) as connection:
            yield connection

    @contextmanager
    def _connection(self, *, write: bool, wait_s: float) -> Iterator[Connection]:
        try:
            with self.database.connection(write=write, wait_s=wait_s) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self.database.explained(error) from None


def _migrate(connection: Connection, version: int) -> None:
    """Bring the tables from an older version to the newest; another process may have done so meanwhile."""
    if version == SCHEMA_VERSION:
        return
    for table in (loose, ledger_rows, held_back):
        table.create(connection, checkfirst=True)
    for index in contributions.indexes:
        index.create(connection, checkfirst=True)
    if version < _WITH_LEDGER:
        ledger.start(connection)
    connection.execute(update(settings).where(_VERSION_ROW).values(value=str(SCHEMA_VERSION)))
