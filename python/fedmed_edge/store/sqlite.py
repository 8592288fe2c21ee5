"""An index in one SQLite file, in the store's folder.

SQLite's rollback journal (not the write-ahead log) is kept, so that one file is the whole index and rows that
a withdrawal deletes are overwritten in it (`secure_delete`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from fedmed_edge.errors import StoreError
from fedmed_edge.store.database import StoreBusy

_WRITE: Final = "fedmed_write"


class SqliteFile:
    """Transactions over the file; a writing one takes SQLite's own write lock at its beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path.parent)
        self.engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    def require(self) -> None:
        """Raise a `StoreError` where the file is missing or cannot be read."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(
                f"{self.place}: no store here",
                hint="`fedmed-server init` makes one; where there was one, "
                f"restore {self.path.name} from a backup",
            ) from None
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}", hint=_PERMISSIONS) from None

    @contextmanager
    def connection(self, *, write: bool, wait_s: float) -> Iterator[Connection]:
        """A transaction that waits for others at most so long."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITE: write})
            raw: Any = connection.connection.dbapi_connection
            raw.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
            with connection.begin():
                yield connection

    def integrity(self, connection: Connection) -> list[str]:
        """What SQLite finds wrong with the file and its references."""
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        dangling = [f"a row of {row[0]} names what is not there" for row in broken]
        return [str(line) for line in lines if line != "ok"] + dangling

    def explained(self, error: SQLAlchemyError) -> StoreError:
        """The refusal that an error of SQLite stands for."""
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


def _configure(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # BEGIN is ours: see `_begin`
    for pragma in ("foreign_keys = ON", "secure_delete = ON", "synchronous = EXTRA"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
