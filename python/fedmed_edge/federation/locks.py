"""One process at a time: a lock that the system lets go when its holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmed_edge.errors import StoreError

__all__ = ["locked"]


@contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    Args:
        busy: Message to refuse with where another process or thread holds it; None waits for that one.

    Raises:
        StoreError: It is held, or cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"lock: cannot be made: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise StoreError(busy or "lock: is held") from None
        yield
    finally:
        os.close(descriptor)
