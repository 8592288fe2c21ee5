"""Files of a store, each named by the SHA-256 of its plain content: in a folder, or where a URL says."""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from fedmed_edge.atomic import TEMPORARY, open_regular, sync_folder, write_atomic
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.store.encryption import HEADER_BYTES, FileCipher, erase_file, key_of
from fedmed_edge.tensorfile import Content, give_back, pieces

OBJECT_CAP: Final = 1 << 32
"""No object is larger, in bytes."""

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_SHELF = re.compile(r"^[0-9a-f]{2}$")


def digest_of(content: Content) -> str:
    """Name of an object: SHA-256 of its content in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with memoryview(content) as whole:
        for piece in pieces(whole, give_back(content)):
            digest.update(piece)
            piece.release()
    return digest.hexdigest()


def checked_pieces(content: Content, digest: str) -> Iterator[memoryview]:
    """Content in pieces, for who writes it.

    Raises:
        InputError: After the last piece, where they were not what the digest says.
    """
    said = hashlib.sha256()
    with memoryview(content) as whole:
        for piece in pieces(whole, give_back(content)):
            said.update(piece)
            yield piece
            piece.release()
    if said.hexdigest() != digest:
        raise InputError("file was changed while it was read")


def shelved(digest: str) -> str:
    """Where the object of a digest lies below the place of all of them.

    Raises:
        StoreError: It is no digest.
    """
    if not _DIGEST.match(digest):
        raise StoreError(f"store: `{digest[:64]}` is no digest")
    return f"{digest[:2]}/{digest}"


class Objects(Protocol):
    """Content-addressed files in one place; callers hold the store's write lock while they change it.

    Attributes:
        cipher: What files are encrypted with, or not.
    """

    cipher: FileCipher

    def create(self) -> None:
        """Make the place, or raise a `StoreError` where nothing can be written there."""

    def write(self, content: Content, digest: str) -> str:
        """Keep content as the cipher writes, also over a damaged file of it; its digest, which it had when it
        was checked.

        Raises:
            StoreError: It cannot be written, as on a full disk; nothing is left of it then.
        """

    def read(self, digest: str) -> bytes:
        """Content of a digest, checked against it.

        Raises:
            StoreError: It is missing, unreadable or damaged.
        """

    def delete(self, digests: Iterable[str]) -> list[str]:
        """Delete objects for good, and what killed processes left half-written; where they lay.

        Raises:
            StoreError: A file cannot be deleted; those before it are gone.
        """

    def key_of(self, digest: str) -> str | None:
        """Id of the store key that an object is encrypted with; None where it is plain.

        Raises:
            StoreError: It is missing or unreadable.
        """

    def holds(self, digest: str) -> bool:
        """Whether an object is there, damaged or not."""

    def unfinished(self) -> bool:
        """Whether anything half-written is there."""

    def listed(self) -> Iterator[tuple[str, str | None]]:
        """Where every file lies, half-written ones apart; and its digest, None where it is no object.

        Raises:
            StoreError: The place is missing or cannot be read.
        """


def objects_of(folder: Path, url: str | None, cipher: FileCipher) -> Objects:
    """The files of a store: in its folder, or where an fsspec URL such as `s3://bucket/name` says.

    Raises:
        InputError: No such kind of URL.
    """
    if url is None:
        return FolderObjects(folder / "objects", cipher)
    from fedmed_edge.store.remote import RemoteObjects

    return RemoteObjects(url, cipher)


class FolderObjects:
    """Objects in a local folder, each there whole or not at all."""

    def __init__(self, folder: Path, cipher: FileCipher | None = None) -> None:
        self.folder, self.cipher = folder, cipher or FileCipher()

    def path(self, digest: str) -> Path:
        """Where the object of a digest lies."""
        return self.folder / shelved(digest)

    def create(self) -> None:
        """Make the folder."""
        self.folder.mkdir(exist_ok=True)

    def write(self, content: Content, digest: str) -> str:
        """As `Objects.write`."""
        path = self.path(digest)
        try:
            if self._stands(digest):
                return digest
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_folder(self.folder)
            pieces = checked_pieces(content, digest)
            with self._erased_after(path):
                write_atomic(path, self.cipher.encrypted(pieces, len(content), digest))
        except (InputError, OSError) as error:
            why = str(error) if isinstance(error, InputError) else f"{error.filename}: {error.strerror}"
            raise StoreError(
                f"store: object not kept: {why}",
                hint="check that the store's folder is writable and its disk has room, then run it again; "
                "nothing was changed",
            ) from None
        return digest

    def _stands(self, digest: str) -> bool:
        """Whether the object is there, sound, and written as the cipher writes today."""
        if not self.path(digest).exists():
            return False
        try:
            self.read(digest)
            return self.cipher.wrote(self._start(digest))
        except StoreError:
            return False

    @contextlib.contextmanager
    def _erased_after(self, path: Path) -> Iterator[None]:
        """What a file replaces gets a second name until it is erased: a killed process may not forget it."""
        old = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):  # none is there, or no second names: then it is only replaced
            os.link(path, old)
        try:
            yield
        finally:
            if os.path.lexists(old):
                erase_file(old, self.cipher)

    def read(self, digest: str) -> bytes:
        """As `Objects.read`."""
        path = self.path(digest)
        try:
            with open_regular(path, OBJECT_CAP + OBJECT_CAP // 1024) as (file, size):
                content = self.cipher.decrypted(file, size, digest)
        except InputError as error:
            raise StoreError(str(error), hint=RESTORE) from None
        except StoreError as error:
            raise StoreError(f"{path}: {error}", hint=error.hint or RESTORE) from None
        if digest_of(content) != digest:
            raise StoreError(f"{path}: damaged, its content is not what its name says", hint=RESTORE)
        return content

    def key_of(self, digest: str) -> str | None:
        """As `Objects.key_of`."""
        return key_of(self._start(digest))

    def _start(self, digest: str) -> bytes:
        try:
            with open_regular(self.path(digest), 1 << 62) as (file, _):
                return file.read(HEADER_BYTES)
        except InputError as error:
            raise StoreError(str(error), hint=RESTORE) from None

    def delete(self, digests: Iterable[str]) -> list[str]:
        """As `Objects.delete`."""
        deleted = [path for path in map(self.path, sorted(digests)) if os.path.lexists(path)]
        deleted += self._temporaries()
        for path in deleted:
            try:
                erase_file(path, self.cipher)
            except OSError as error:
                raise StoreError(
                    f"{path}: cannot be deleted: {error.strerror}",
                    hint="make the store's folder writable and run it again: it goes on from there",
                ) from None
        for folder in {path.parent for path in deleted}:
            sync_folder(folder)
        return [str(path) for path in deleted]

    def holds(self, digest: str) -> bool:
        """As `Objects.holds`."""
        return os.path.lexists(self.path(digest))

    def unfinished(self) -> bool:
        """As `Objects.unfinished`."""
        return bool(self._temporaries())

    def listed(self) -> Iterator[tuple[str, str | None]]:
        """As `Objects.listed`."""
        for path in self._files():
            if not path.name.startswith(TEMPORARY):
                held = _DIGEST.match(path.name) and path == self.path(path.name)
                yield str(path), path.name if held else None

    def _temporaries(self) -> list[Path]:
        """Files that are being written, or were when a process was killed."""
        return [path for path in self._files() if path.name.startswith(TEMPORARY)]

    def _files(self) -> Iterator[Path]:
        """Everything in the folder: objects, temporary files, and whatever else somebody put there."""
        for path in _listed(self.folder):
            if _SHELF.match(path.name) and path.is_dir():
                yield from _listed(path)
            else:
                yield path


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be read: {error.strerror}",
            hint="check its owner and permissions, or restore the store from a backup",
        ) from None


RESTORE: Final = "restore it from a backup of the store; a contribution's own file may be imported again"
