"""What the index of a store asks of the database that keeps it."""

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from fedmed_edge.errors import StoreError


class StoreBusy(StoreError):
    """Another process is writing to the store, and did so for longer than we wait."""


class Database(Protocol):
    """What differs from one kind of database to another.

    Attributes:
        place: Where it is, for messages; never with a password.
    """

    place: str

    def require(self) -> None:
        """Raise a `StoreError` where there can be no index, or it cannot be read."""

    def connection(self, *, write: bool, wait_s: float) -> AbstractContextManager[Connection]:
        """A transaction; a writing one excludes every other, in any process, and waits so long for them."""

    def integrity(self, connection: Connection) -> list[str]:
        """What the database finds wrong with itself and its references; empty if sound."""

    def explained(self, error: SQLAlchemyError) -> StoreError:
        """The refusal that an error of the database stands for."""
