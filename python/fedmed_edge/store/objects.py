"""Files of a store, each named by the SHA-256 of its content: in a folder, or where a URL says."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from fedmed_edge.atomic import TEMPORARY, read_regular, sync_folder, write_atomic
from fedmed_edge.errors import InputError, StoreError
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


def _pieces(content: Content, digest: str) -> Iterator[memoryview]:
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
    """Content-addressed files in one place; callers hold the store's write lock while they change it."""

    def create(self) -> None:
        """Make the place, or raise a `StoreError` where nothing can be written there."""

    def write(self, content: Content, digest: str) -> str:
        """Keep content, also over a damaged file of it; its digest, which it had when it was checked.

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

    def holds(self, digest: str) -> bool:
        """Whether an object is there, damaged or not."""

    def unfinished(self) -> bool:
        """Whether anything half-written is there."""

    def listed(self) -> Iterator[tuple[str, str | None]]:
        """Where every file lies, half-written ones apart; and its digest, None where it is no object.

        Raises:
            StoreError: The place is missing or cannot be read.
        """


def objects_of(folder: Path, url: str | None) -> Objects:
    """The files of a store: in its folder, or where an fsspec URL such as `s3://bucket/name` says.

    Raises:
        InputError: No such kind of URL.
    """
    if url is None:
        return FolderObjects(folder / "objects")
    from fedmed_edge.store.remote import RemoteObjects

    return RemoteObjects(url)


class FolderObjects:
    """Objects in a local folder, each there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
            if path.exists() and digest_of(read_regular(path, OBJECT_CAP)) == digest:
                return digest
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_folder(self.folder)
            write_atomic(path, _pieces(content, digest))
        except (InputError, OSError) as error:
            why = str(error) if isinstance(error, InputError) else f"{error.filename}: {error.strerror}"
            raise StoreError(
                f"store: object not kept: {why}",
                hint="check that the store's folder is writable and its disk has room, then run it again; "
                "nothing was changed",
            ) from None
        return digest

    def read(self, digest: str) -> bytes:
        """As `Objects.read`."""
        path = self.path(digest)
        try:
            content = read_regular(path, OBJECT_CAP)
        except InputError as error:
            raise StoreError(str(error), hint=RESTORE) from None
        if digest_of(content) != digest:
            raise StoreError(f"{path}: damaged, its content is not what its name says", hint=RESTORE)
        return content

    def delete(self, digests: Iterable[str]) -> list[str]:
        """As `Objects.delete`."""
        deleted = [path for path in map(self.path, sorted(digests)) if os.path.lexists(path)]
        deleted += self._temporaries()
        for path in deleted:
            try:
                path.unlink(missing_ok=True)
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
