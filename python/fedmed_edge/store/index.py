"""The index of a store: one SQLite file, its tables and its transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from fedmed_edge.errors import StoreError

SCHEMA_VERSION: Final = 1
WAIT_S: Final = 60.0
"""How long a process waits for another that is writing."""

_WRITE: Final = "fedmed_write"

_metadata = MetaData()

settings = Table("settings", _metadata, Column("key", String, primary_key=True), Column("value", String))

sites = Table(
    "sites",
    _metadata,
    Column("name", String, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("fingerprint", String, nullable=False, unique=True),
    Column("enrolled", String, nullable=False),
    Column("revoked", Boolean, nullable=False, default=False),
)

recipes = Table(
    "recipes",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("task", String, nullable=False, index=True),
    Column("content", String, nullable=False),
)

generations = Table(
    "generations",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("row_dim", Integer, nullable=False),
    Column("feature_dim", Integer, nullable=False),
    Column("channels", Integer, nullable=False),
    Column("draft", Boolean, nullable=False),
)

contributions = Table(
    "contributions",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("object", String, nullable=False),
    Column("site", ForeignKey("sites.name"), nullable=False, index=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("task", String, nullable=False),
    Column("recipe", ForeignKey("recipes.digest"), nullable=False),
    Column("generation", ForeignKey("generations.digest"), nullable=False),
    Column("holds", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("received", String, nullable=False),
    UniqueConstraint("site", "sequence"),
)

tombstones = Table(
    "tombstones",
    _metadata,
    Column("id", String, primary_key=True),
    Column("site", String, nullable=False, index=True),
    Column("sequence", Integer, nullable=False),
    Column("withdrawn", String, nullable=False),
)

models = Table(
    "models",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("object", String, nullable=False),
    Column("task", String, nullable=False, index=True),
    Column("generation", ForeignKey("generations.digest"), nullable=False),
    Column("refined_for", String),
    Column("withdrawn", Boolean, nullable=False, default=False),
    Column("made", String, nullable=False),
)

model_parts = Table(
    "model_parts",
    _metadata,
    Column("model", ForeignKey("models.digest", ondelete="CASCADE"), primary_key=True),
    Column("site", String, primary_key=True),
    Column("contribution", String, nullable=False),
)


class StoreBusy(StoreError):
    """Another process is writing to the store, and did so for longer than we wait."""


def now() -> str:
    """This moment, UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
            _metadata.create_all(connection)
            connection.execute(settings.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))

    def check_version(self) -> None:
        """Refuse an index of another version.

        Raises:
            StoreError: There is none, it was not finished, or it is of another version.
        """
        if not self.path.is_file():
            raise StoreError(f"{self.path.parent}: no store here", hint="`fedmed-server init` makes one")
        with self.read() as connection:
            made = inspect(connection).has_table("settings")
            query = select(settings.c.value).where(settings.c.key == "schema_version")
            version = connection.scalar(query) if made else None
        if version is None:
            raise StoreError(
                f"{self.path.parent}: store was not finished", hint="run `fedmed-server init` again"
            )
        if version != str(SCHEMA_VERSION):
            raise StoreError(
                f"{self.path.parent}: store has schema version {version}, expected {SCHEMA_VERSION}",
                hint="use the fedmed-server that made it, or a newer one",
            )

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
            StoreError: Another process held the lock for longer than `wait_s`, or the disk is full.
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
        return StoreError(f"{self.path}: cannot be used: {cause}", hint="restore it from a backup")


def _configure(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # BEGIN is ours: see `_begin`
    for pragma in ("foreign_keys = ON", "secure_delete = ON", "synchronous = EXTRA"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
