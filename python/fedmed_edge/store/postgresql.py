"""An index in a PostgreSQL database, for a server that has outgrown one machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.store.database import StoreBusy

CONNECTIONS: Final = 16
"""How many a process opens at once; a server allows 100 from all of them by default."""

# Any number would do: what writes to a store of this database takes the lock of this number first.
_WRITE_LOCK: Final = 0x6665646D6564
# A client whose machine died is noticed in two minutes, and the lock that it held is free again.
_SETTINGS: Final = (
    "SET LOCAL synchronous_commit = on",
    "SET LOCAL tcp_keepalives_idle = 60",
    "SET LOCAL tcp_keepalives_interval = 20",
    "SET LOCAL tcp_keepalives_count = 3",
)


class PostgresqlDatabase:
    """Transactions over a database; a writing one takes an advisory lock, which ends with it or its process.

    Raises:
        InputError: The URL is none.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url).set(drivername="postgresql+psycopg")
        except (SQLAlchemyError, ValueError):
            raise InputError("`index` is no URL, expected postgresql+psycopg://USER@HOST/DATABASE") from None
        self.place = parsed.set(query={}).render_as_string(hide_password=True)
        self.engine = create_engine(parsed, poolclass=NullPool, connect_args={"connect_timeout": 10})
        self._places = threading.BoundedSemaphore(CONNECTIONS)

    def require(self) -> None:
        """Nothing to look at: what cannot be reached says so at its first use."""

    @contextmanager
    def connection(self, *, write: bool, wait_s: float) -> Iterator[Connection]:
        """A transaction; what it reads is of one moment, and nobody else writes while it does."""
        with self._places, self.engine.connect() as connection, connection.begin():
            if write:
                # 0 would wait for ever
                wait = f"SET LOCAL lock_timeout = {max(1, int(wait_s * 1000))}"
                for statement in (wait, *_SETTINGS, f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})"):
                    connection.exec_driver_sql(statement)
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    def integrity(self, connection: Connection) -> list[str]:
        """Nothing: PostgreSQL checks references itself, and its pages as it reads them."""
        return []

    def explained(self, error: SQLAlchemyError) -> StoreError:
        """The refusal that an error of PostgreSQL stands for."""
        origin = error.orig if isinstance(error, DatabaseError) else error
        code = getattr(origin, "sqlstate", None) or ""
        cause = str(origin).strip().partition("\n")[0] or type(origin).__name__
        if code == "55P03":  # lock_not_available
            return StoreBusy(
                f"{self.place}: another process is writing to the store", hint="wait for it and run it again"
            )
        if code == "53100":  # disk_full
            hint = "make room on the database's disk and run it again; nothing was changed"
            return StoreError(f"{self.place}: cannot be written: {cause}", hint=hint)
        if code in ("25006", "42501"):  # read_only_sql_transaction, insufficient_privilege
            hint = "check the rights of the user in `index`; nothing was changed"
            return StoreError(f"{self.place}: cannot be written: {cause}", hint=hint)
        # without a code nothing was answered; 08: connection; 57P: shut down; 53300: too many connections
        if not code or code.startswith(("08", "57P", "28", "3D", "53300")):
            hint = "check `index` in fedmed.toml, and that the database runs; then run it again"
            return StoreError(f"{self.place}: cannot be reached: {cause}", hint=hint)
        return StoreError(f"{self.place}: cannot be used: {cause}", hint="restore it from a backup")
