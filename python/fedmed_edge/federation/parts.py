"""A file that comes in parts, at either end: in any order, some of them twice, cut off and gone on with.

    FOLDER/DIGEST.part   its bytes, every part at its place; where there is a store key, encrypted
    FOLDER/DIGEST.have   one byte a part: 1 once the part is on the disk

Any number of processes may put parts of one file at once.
"""

import hashlib
import os
from pathlib import Path
from typing import Final, NoReturn

from fedmed_edge.atomic import map_regular, write_atomic
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.federation.records import on_disk
from fedmed_edge.federation.wire import PART_BYTES
from fedmed_edge.store.encryption import (
    HEADER_BYTES,
    FileCipher,
    encrypted_size,
    erase_file,
    key_of,
    plain_size_of,
)
from fedmed_edge.tensorfile import Content

__all__ = ["Assembly", "Incomplete", "count_parts", "discard_all", "file_digest", "part_of"]


WHOLE_CAP: Final = 1 << 30
"""Bytes of the largest file that comes to a server."""


class Incomplete(InputError):
    """A file is not here whole, or came damaged: offering it anew tells what is missing."""


def count_parts(size: int) -> int:
    """Parts of a file of so many bytes; an empty one has none.

    Example:
        >>> count_parts(PART_BYTES), count_parts(PART_BYTES + 1)
        (1, 2)
    """
    return -(-size // PART_BYTES)


def part_of(path: Path, part: int) -> bytes:
    """One part of a file.

    Raises:
        InputError: The file is not there, or has no such part.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), PART_BYTES, part * PART_BYTES)
    except OSError as error:
        raise InputError(f"object: cannot be read: {error.strerror}") from None
    if not data:
        raise InputError(f"object: `part` has {part}, which is beyond its end")
    return data


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; reads it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Assembly:
    """One file that comes in parts.

    Args:
        digest: SHA-256 that the whole file must have.
        cipher: What it is encrypted with meanwhile, or not.

    Example:
        >>> import tempfile
        >>> digest = hashlib.sha256(b"whole").hexdigest()
        >>> file = Assembly(Path(tempfile.mkdtemp()), digest)
        >>> file.begin(5)
        >>> file.missing(), file.put(0, b"whole"), file.missing()
        ((0,), None, ())
        >>> file.finish().read_bytes()
        b'whole'
    """

    def __init__(self, folder: Path, digest: str, cipher: FileCipher | None = None) -> None:
        self.digest, self._cipher = digest, cipher or FileCipher()
        self.path = folder / f"{digest}.part"
        self._have = folder / f"{digest}.have"

    @property
    def begun(self) -> bool:
        """Whether `begin` was called, by whichever process."""
        return self._have.is_file() and self.path.is_file()

    def begin(self, size: int) -> None:
        """Make room for a file of so many bytes; one that was begun goes on.

        Raises:
            StoreError: The disk is full, or the folder cannot be written.
        """
        encrypted = self._cipher.key is not None
        with on_disk("disk"):
            if self.begun and self._size() == size and self._cipher.wrote(self._start()):
                return
            self.discard()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(self._cipher.begin(size, self.digest) if encrypted else b"")
                os.truncate(file.fileno(), encrypted_size(size) if encrypted else size)
            write_atomic(self._have, bytes(count_parts(size)))

    def _start(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(HEADER_BYTES)

    def _size(self) -> int:
        """Plain bytes of the whole file."""
        start = self._start()
        return plain_size_of(start) if key_of(start) else self.path.stat().st_size

    def missing(self) -> tuple[int, ...]:
        """Parts that are still to come, in order."""
        return tuple(part for part, there in enumerate(self._have.read_bytes()) if not there)

    def put(self, part: int, data: bytes) -> None:
        """Keep one part; the same part again changes nothing.

        One that was being written when a process was killed comes and is encrypted once more, under the same
        data key: the same bytes are the same ciphertext. A site that sends other bytes the second time gives
        away how its own two differ, to a thief of the disk who has seen both, and has its file refused.

        Raises:
            Incomplete: The file was not begun.
            InputError: The part is not one of it.
            StoreError: The disk is full.
        """
        try:
            size, have = self._size(), self._have.read_bytes()
        except FileNotFoundError:
            raise Incomplete("put: of a file that was not offered") from None
        if part >= len(have):
            raise InputError(f"put: `part` has {part}, expected less than {len(have)}")
        wanted = min(PART_BYTES, size - part * PART_BYTES)
        if len(data) != wanted:
            raise InputError(f"put: part {part} has {len(data)} bytes, expected {wanted}")
        if have[part]:
            return  # under one data key no part that came whole is encrypted twice
        place, start = part * PART_BYTES, self._start()
        if key_of(start):
            place, data = self._cipher.piece(start, self.digest, place, data)
        with on_disk("disk"):
            _write_at(self.path, data, place)
            _write_at(self._have, b"\1", part)  # only now: what this file names is on the disk

    def finish(self) -> Path:
        """The whole file, once every part is there; `discard` it when it has been taken over.

        Raises:
            Incomplete: Parts are missing, or the file is not what its digest says; it begins anew then.
        """
        self._check_whole()
        if file_digest(self.path) != self.digest:
            self._refuse()
        return self.path

    def content(self) -> Content:
        """The bytes of the whole file, mapped where they are not encrypted, else in memory.

        Raises:
            Incomplete: As `finish`.
        """
        if self._cipher.key is None:
            return map_regular(self.finish(), WHOLE_CAP)
        self._check_whole()
        with self.path.open("rb") as file:
            try:
                content = self._cipher.decrypted(file, self.path.stat().st_size, self.digest)
            except StoreError:
                self._refuse()
        if hashlib.sha256(content).hexdigest() != self.digest:
            self._refuse()
        return content

    def _check_whole(self) -> None:
        if not self.begun:
            raise Incomplete("commit: of a file that was not offered")
        if missing := self.missing():
            raise Incomplete(f"commit: {len(missing)} parts are missing, expected none")

    def _refuse(self) -> NoReturn:
        self.discard()
        raise Incomplete("commit: the file's content is not what its digest says")

    def discard(self) -> None:
        """Delete what came so far."""
        self._have.unlink(missing_ok=True)  # first: parts without this list count as not there
        erase_file(self.path, self._cipher)


def discard_all(folder: Path, cipher: FileCipher) -> int:
    """Delete what came so far of every file in a folder; how many there were."""
    begun = [path.stem for path in folder.glob("*.part")]
    for digest in begun:
        Assembly(folder, digest, cipher).discard()
    return len(begun)


def _write_at(path: Path, data: bytes, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
