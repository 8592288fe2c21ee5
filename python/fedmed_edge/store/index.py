"""The index of a store: one SQLite file, its version and its transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, create_engine, event, inspect, select, update
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from fedmed_edge.errors import StoreError
from fedmed_edge.store import ledger
from fedmed_edge.store.tables import SCHEMA_VERSION, contributions, loose, metadata, settings
from fedmed_edge.store.tables import ledger as rows

WAIT_S: Final = 60.0
"""How long a process waits for another that is writing."""

_WRITE: Final = "fedmed_write"
_VERSION_ROW: Final = settings.c.key == "schema_version"


class StoreBusy(StoreError):
    """Another process is writing to the store, and did so for longer than we wait."""


class Index:
    """Transactions over the index file; a write excludes every other write, in any process.

    SQLite's rollback journal (not the write-ahead log) is kept, so that one file is the whole index and rows
    that a withdrawal deletes are overwritten in it (`secure_delete`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = create_engine(
            f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": WAIT_S}
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)

    def create(self) -> None:
        """Make the tables, all or none.

        Raises:
            StoreError: There is an index already.
        """
        with self.write() as connection:
            if inspect(connection).has_table("settings"):
                raise StoreError(f"{self.path.parent}: is a store already")
            metadata.create_all(connection)
            connection.execute(settings.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
            ledger.start(connection)

    def finished(self) -> bool:
        """Whether there is an index that was made to the end."""
        if not self.path.is_file():
            return False
        with self.read() as connection:
            return inspect(connection).has_table("settings")

    def open(self) -> None:
        """Check the version of the index, and bring an older one up to date.

        Raises:
            StoreError: There is none, it was not finished, or it is of a newer version.
        """
        self._require_file()
        with self.read() as connection:
            version = self._version(connection)
        if version < SCHEMA_VERSION:
            with self.write() as connection:
                _migrate(connection, self._version(connection))

    def _require_file(self) -> None:
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(
                f"{self.path.parent}: no store here", hint="`fedmed-server init` makes one"
            ) from None
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}", hint=_PERMISSIONS) from None

    def _version(self, connection: Connection) -> int:
        folder = self.path.parent
        made = inspect(connection).has_table("settings")
        version = connection.scalar(select(settings.c.value).where(_VERSION_ROW)) if made else None
        if version is None:
            raise StoreError(f"{folder}: store was not finished", hint="run `fedmed-server init` again")
        if not version.isdecimal() or int(version) > SCHEMA_VERSION:
            raise StoreError(
                f"{folder}: store has schema version {version[:20]}, expected at most {SCHEMA_VERSION}",
                hint="a newer fedmed-server made it: upgrade this one; nothing was changed",
            )
        return int(version)

    def integrity(self, connection: Connection) -> list[str]:
        """What SQLite finds wrong with the file and its references; empty if sound."""
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        dangling = [f"a row of {row[0]} names what is not there" for row in broken]
        return [str(line) for line in lines if line != "ok"] + dangling

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
            with self._engine.connect() as connection:
                connection = connection.execution_options(**{_WRITE: write})
                if wait_s != WAIT_S:
                    raw: Any = connection.connection.dbapi_connection
                    raw.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise self._explained(error) from None

    def _explained(self, error: SQLAlchemyError) -> StoreError:
        cause = str(error.orig) if isinstance(error, DatabaseError) else str(error)
        if "locked" in cause:
            return StoreBusy(
                f"{self.path}: another process is writing to the store", hint="wait for it and run it again"
            )
        if "full" in cause or "disk I/O" in cause:
            return StoreError(
                f"{self.path}: cannot be written: {cause}",
                hint="make room on the store's disk and run it again; nothing was changed",
            )
        if "readonly" in cause:
            return StoreError(f"{self.path}: cannot be written: store is read-only", hint=_PERMISSIONS)
        if "unable to open" in cause:
            return StoreError(f"{self.path}: cannot be opened", hint=_PERMISSIONS)
        return StoreError(f"{self.path}: cannot be used: {cause}", hint="restore it from a backup")


_PERMISSIONS = (
    "check owner, permissions and mount of the store's folder: the user who runs fedmed-server reads and "
    "writes there; nothing was changed"
)


def _migrate(connection: Connection, version: int) -> None:
    """Bring the tables from an older version to the newest; another process may have done so meanwhile."""
    if version == SCHEMA_VERSION:
        return
    if version < 3:  # what 2 and 3 added
        for table in (loose, rows):
            table.create(connection, checkfirst=True)
        for index in contributions.indexes:
            index.create(connection, checkfirst=True)
        ledger.start(connection)
    connection.execute(update(settings).where(_VERSION_ROW).values(value=str(SCHEMA_VERSION)))


def _configure(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # BEGIN is ours: see `_begin`
    for pragma in ("foreign_keys = ON", "secure_delete = ON", "synchronous = EXTRA"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
