"""Files of a store at rest: encrypted under a data key of their own, which the store key wraps.

    magic (16) · key id (8) · size (8) · nonce (12) · wrapped data key (48) · chunks of 1 MiB and a tag (16)

AES-256-GCM throughout. A data key is drawn for one writing of one file, so chunk i has the nonce i; how many
chunks there are follows from the size, which the wrapping authenticates together with the key's id and the
SHA-256 of the plain file. Without its first 92 bytes nobody can read a file, whatever keys they hold.
Source: NIST SP 800-38D (GCM), SP 800-57 (data keys under a key that wraps them).
"""

import base64
import binascii
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmed_edge.atomic import erase, open_regular, read_regular, write_atomic
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.statistics.reading import map_content
from fedmed_edge.tensorfile import Content

__all__ = [
    "HEADER_BYTES",
    "KEY_HINT",
    "OTHER_KEY_HINT",
    "FileCipher",
    "StoreKey",
    "encrypted_size",
    "erase_file",
    "key_of",
    "make_store_key",
    "plain_content",
    "plain_size_of",
    "read_store_key",
]

log = logging.getLogger(__name__)

HEADER_BYTES: Final = 92
"""What a file cannot be read without."""

_MAGIC: Final = b"fedmed at rest 1"
_CHUNK: Final = 1 << 20
_TAG: Final = 16
_KEY_FILE: Final = (  # as of a private key, which no verb of ours writes over or takes for another file
    "-----BEGIN FEDMED STORE PRIVATE KEY-----\n",
    "\n-----END FEDMED STORE PRIVATE KEY-----\n",
)


@dataclass(frozen=True)
class StoreKey:
    """The key that wraps the data keys of a store's files.

    Attributes:
        id: 16 hexadecimal digits that name the key and tell nothing of it.
        where: The file it came from, for messages.
    """

    id: str
    where: str
    aead: AESGCM = field(repr=False, compare=False)


def make_store_key(path: Path) -> StoreKey:
    """Write a fresh store key that only its owner can read (mode 0600).

    Raises:
        InputError: A file is there already (a key is never written over), or it cannot be written.

    Example:
        >>> import tempfile
        >>> made = make_store_key(Path(tempfile.mkdtemp()) / "store.key")
        >>> read_store_key(Path(made.where)).id == made.id
        True
    """
    if path.exists():
        raise InputError(f"{path}: is there already, a key is never written over")
    text = base64.b64encode(AESGCM.generate_key(256)).decode()
    write_atomic(path, text.join(_KEY_FILE).encode(), mode=0o600)
    return read_store_key(path)


def read_store_key(path: Path) -> StoreKey:
    """Read a store key.

    Raises:
        InputError: The file is missing, or no store key.
    """
    try:
        content = read_regular(path, 1 << 10)
    except InputError as error:
        raise InputError(
            f"`store_key`: {error}", hint="put the store's key back, or correct `store_key` in fedmed.toml"
        ) from None
    if path.stat().st_mode & 0o077:
        log.warning("%s can be read by others than its owner; chmod 600 it", path)
    begin, end = _KEY_FILE
    try:
        said = content.decode("ascii").strip() + "\n"
        key = base64.b64decode(said.removeprefix(begin).removesuffix(end), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != 32:
        raise InputError(
            f"`store_key`: {path}: not a store key", hint="`fedmed-server store key FILE` makes one"
        )
    id = hashlib.sha256(b"fedmed store key id\0" + key).hexdigest()[:16]
    return StoreKey(id, str(path), AESGCM(key))


class FileCipher:
    """Encrypts what is written with one key, and reads what it or an older key, or none, has written.

    Args:
        key: For what is written; None writes plain files.
        older: Keys that files may still be under.

    Example:
        >>> import tempfile
        >>> cipher = FileCipher(make_store_key(Path(tempfile.mkdtemp()) / "store.key"))
        >>> digest = hashlib.sha256(b"secret").hexdigest()
        >>> kept = b"".join(cipher.encrypted([b"sec", b"ret"], 6, digest))
        >>> len(kept), cipher.decrypted(BytesIO(kept), len(kept), digest)
        (114, b'secret')
    """

    def __init__(self, key: StoreKey | None = None, older: Iterable[StoreKey] = ()) -> None:
        self.key = key
        self._keys = {one.id: one for one in (*older, *([key] if key else []))}

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the keys that it reads with."""
        return frozenset(self._keys)

    def encrypted(
        self, plain: Iterable[bytes | memoryview], size: int, digest: str
    ) -> Iterator[bytes | memoryview]:
        """Pieces of the file that keeps a content of so many bytes; without a key its own pieces."""
        if self.key is None:
            yield from plain
            return
        start = self.begin(size, digest)
        yield start
        chunks = AESGCM(self._data_key(self.key.id, start, digest))
        for number, chunk in enumerate(_in_chunks(plain)):
            yield chunks.encrypt(_nonce(number), chunk, None)

    def begin(self, size: int, digest: str) -> bytes:
        """What a file of so many plain bytes begins with, with a data key of its own; there is a key."""
        assert self.key is not None
        start = _MAGIC + bytes.fromhex(self.key.id) + size.to_bytes(8, "little")
        data_key, nonce = AESGCM.generate_key(256), secrets.token_bytes(12)
        return start + nonce + self.key.aead.encrypt(nonce, data_key, start + bytes.fromhex(digest))

    def piece(self, start: bytes, digest: str, place: int, plain: bytes) -> tuple[int, bytes]:
        """Where a piece of the plain content goes in a file that begins so, and as what.

        Args:
            place: Of the piece in the plain content, a multiple of 1 MiB. Never twice with other bytes: how
                they differ would show.

        Raises:
            StoreError: The file is encrypted with another key, or its beginning was changed.
        """
        try:
            chunks, first = AESGCM(self._data_key(key_of(start) or "", start, digest)), place // _CHUNK
        except InvalidTag:
            raise StoreError("damaged, or changed after it was encrypted") from None
        made = [
            chunks.encrypt(_nonce(first + number), chunk, None)
            for number, chunk in enumerate(_in_chunks([plain]))
        ]
        return HEADER_BYTES + first * (_CHUNK + _TAG), b"".join(made)

    def decrypted(self, file: BinaryIO, size: int, digest: str) -> bytes:
        """Plain content of a file of so many bytes; of a plain file its own.

        Raises:
            StoreError: It is encrypted with a key that is not given, cut off, or was changed.
        """
        start = file.read(HEADER_BYTES)
        id = key_of(start)
        if id is None:
            file.seek(0)
            return file.read(size)
        plain_size = plain_size_of(start)
        if size != encrypted_size(plain_size):
            raise StoreError("damaged, its length is not what its beginning says")
        plain = BytesIO()
        try:
            chunks = AESGCM(self._data_key(id, start, digest))
            for number in range(-(-plain_size // _CHUNK)):
                plain.write(chunks.decrypt(_nonce(number), file.read(_CHUNK + _TAG), None))
        except (InvalidTag, ValueError):
            raise StoreError("damaged, or changed after it was encrypted") from None
        return plain.getvalue()

    def _data_key(self, id: str, start: bytes, digest: str) -> bytes:
        if id not in self._keys:
            has = f"names key {self.key.id}" if self.key else "is not set"
            hint = OTHER_KEY_HINT if self.key else KEY_HINT
            raise StoreError(f"is encrypted with key {id}, and `store_key` {has}", hint=hint)
        said, nonce, wrapped = start[:32], start[32:44], start[44:]
        return self._keys[id].aead.decrypt(nonce, wrapped, said + bytes.fromhex(digest))

    def wrote(self, start: bytes) -> bool:
        """Whether a file that begins so is as this cipher writes files today."""
        return key_of(start) == (self.key.id if self.key else None)


def key_of(start: bytes) -> str | None:
    """Id of the key that a file with this beginning is encrypted with; None where it is plain.

    A plain file of a store begins with the length of its header, which is never as large as the magic.
    """
    return start[16:24].hex() if start.startswith(_MAGIC) else None


def plain_content(path: Path, cipher: FileCipher) -> Content:
    """Bytes of a contribution's file, mapped; or of an encrypted object of a store, whose name is its digest.

    Raises:
        InputError: The file is missing, no file or too large.
        StoreError: It is encrypted with another key, was changed, or bears another name.
    """
    content = map_content(path)
    if key_of(content[:HEADER_BYTES]) is None:
        return content
    try:
        return cipher.decrypted(BytesIO(content), len(content), path.name)
    except StoreError as error:
        raise StoreError(f"{path}: {error}", hint=error.hint) from None


def plain_size_of(start: bytes) -> int:
    """Plain bytes of an encrypted file that begins so."""
    return int.from_bytes(start[24:32], "little")


def encrypted_size(plain_size: int) -> int:
    """Bytes of the file that keeps so many plain ones.

    Example:
        >>> encrypted_size(0), encrypted_size(1)
        (92, 109)
    """
    return HEADER_BYTES + plain_size + _TAG * -(-plain_size // _CHUNK)


def erase_file(path: Path, cipher: FileCipher) -> None:
    """Delete a file; where there is a key, so that not even the disk shows what it held.

    Without what it begins with nobody can read an encrypted file; a plain one is written over whole.

    Raises:
        OSError: It cannot be deleted.
    """
    start = b""
    with contextlib.suppress(OSError, InputError), open_regular(path, 1 << 62) as (file, _):
        start = file.read(HEADER_BYTES)
    if key_of(start):
        erase(path, HEADER_BYTES)
    elif cipher.key:
        erase(path)
    else:
        path.unlink(missing_ok=True)


KEY_HINT: Final = (
    "name the store's key file as `store_key` in fedmed.toml, or in the environment as FEDMED_STORE_KEY"
)
OTHER_KEY_HINT: Final = (
    "name that key's file, or change the key, or end a change that was cut off, by "
    "`fedmed-server store encrypt --old-key FILE`"
)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _in_chunks(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in chunks of 1 MiB; the last may be shorter."""
    rest = b""
    for piece in pieces:
        view = memoryview(rest + piece) if rest else memoryview(piece)
        whole = len(view) - len(view) % _CHUNK
        for place in range(0, whole, _CHUNK):
            yield view[place : place + _CHUNK]
        rest = bytes(view[whole:])
        view.release()
    if rest:
        yield rest
