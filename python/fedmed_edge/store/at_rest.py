"""Whether a store is encrypted, with which key, and how it becomes so or plain again.

The index remembers the key's id from the first encrypted file on. From then on nobody opens the store without
that key, so that none writes a plain file beside the others. Files are rewritten one by one, each whole or
not at all: whoever is stopped runs the command again.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from fedmed_edge.errors import StoreError
from fedmed_edge.store import holdings
from fedmed_edge.store.encryption import KEY_HINT, OTHER_KEY_HINT, FileCipher
from fedmed_edge.store.index import Index
from fedmed_edge.store.objects import Objects
from fedmed_edge.store.tables import settings

__all__ = ["check_key", "hold_key", "key_ids", "rewrite_all"]

_ROW: Final = settings.c.key == "store_key"


def check_key(connection: Connection, cipher: FileCipher) -> None:
    """Check that the cipher has the key that the store is encrypted with.

    Raises:
        StoreError: It has none, or another one; names the setting.
    """
    wanted, key = _remembered(connection), cipher.key
    if wanted is None or wanted in cipher.ids:
        return
    if key is None:
        raise StoreError(f"store: is encrypted with key {wanted}, and `store_key` is not set", hint=KEY_HINT)
    raise StoreError(
        f"store: `store_key` has key {key.id} of {key.where}, expected {wanted}, which the store is "
        "encrypted with",
        hint=OTHER_KEY_HINT,
    )


def hold_key(connection: Connection, cipher: FileCipher) -> None:
    """As `check_key`, for who is going to write: the index remembers the key from now on."""
    check_key(connection, cipher)
    if cipher.key and _remembered(connection) != cipher.key.id:
        _remember(connection, cipher.key.id)


def _remembered(connection: Connection) -> str | None:
    return connection.scalar(select(settings.c.value).where(_ROW))


def _remember(connection: Connection, id: str | None) -> None:
    connection.execute(delete(settings).where(_ROW))
    if id is not None:
        connection.execute(insert(settings).values(key="store_key", value=id))


def key_ids(index: Index, objects: Objects) -> dict[str, str | None]:
    """Id of the key of every object that a row names, None for a plain one, "unknown" for one that cannot be
    read; missing ones are left out.
    """
    with index.read() as connection:
        return _key_ids(connection, objects)


def _key_ids(connection: Connection, objects: Objects) -> dict[str, str | None]:
    named = sorted(holdings.known_objects(connection))
    return {digest: _key_id(objects, digest) for digest in named if objects.holds(digest)}


def _key_id(objects: Objects, digest: str) -> str | None:
    try:
        return objects.key_of(digest)
    except StoreError:  # `verify` tells why
        return "unknown"


def rewrite_all(index: Index, objects: Objects, advance: Callable[[str], None]) -> int:
    """Rewrite every object that is not as the store's cipher writes; how many there were.

    Raises:
        StoreError: One cannot be read or written, the others are done; or another process kept the lock.
    """
    cipher, written, failed = objects.cipher, 0, None
    wanted = cipher.key.id if cipher.key else None
    if wanted:
        with index.write() as connection:
            hold_key(connection, cipher)  # before the first file: nobody adds a plain one meanwhile
    for digest, id in key_ids(index, objects).items():
        advance(digest[:12])
        if id == wanted:
            continue
        with index.write() as connection:  # one by one: others want to write, too
            if not holdings.names(connection, digest):
                continue
            try:
                objects.write(objects.read(digest), digest)
                written += 1
            except StoreError as error:
                failed = error
    if failed is not None:
        raise failed
    if wanted is None:
        with index.write() as connection:
            if not any(_key_ids(connection, objects).values()):
                _remember(connection, None)
    return written
