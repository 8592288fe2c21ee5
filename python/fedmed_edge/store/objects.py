"""Files of a store, each named by the SHA-256 of its content."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedmed_edge.atomic import TEMPORARY, read_regular, sync_folder, write_atomic
from fedmed_edge.errors import InputError, StoreError

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_SHELF = re.compile(r"^[0-9a-f]{2}$")
_CAP = 1 << 32


def digest_of(content: bytes) -> str:
    """Name of an object: SHA-256 of its content in lower-case hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class Objects:
    """Content-addressed files under one folder; callers hold the store's write lock while they change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where the object of a digest lies."""
        if not _DIGEST.match(digest):
            raise StoreError(f"store: `{digest[:64]}` is no digest")
        return self.folder / digest[:2] / digest

    def write(self, content: bytes) -> str:
        """Keep content, also over a damaged file of it; its digest.

        Raises:
            StoreError: It cannot be written, as on a full disk; nothing is left of it then.
        """
        digest = digest_of(content)
        path = self.path(digest)
        try:
            if path.exists() and digest_of(read_regular(path, _CAP)) == digest:
                return digest
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_folder(self.folder)
            write_atomic(path, content)
        except (InputError, OSError) as error:
            why = str(error) if isinstance(error, InputError) else f"{error.filename}: {error.strerror}"
            raise StoreError(
                f"store: object not kept: {why}",
                hint="check that the store's folder is writable and its disk has room, then run it again; "
                "nothing was changed",
            ) from None
        return digest

    def read(self, digest: str) -> bytes:
        """Content of a digest, checked against it.

        Raises:
            StoreError: It is missing, unreadable or damaged.
        """
        path = self.path(digest)
        try:
            content = read_regular(path, _CAP)
        except InputError as error:
            raise StoreError(str(error), hint=_RESTORE) from None
        if digest_of(content) != digest:
            raise StoreError(f"{path}: damaged, its content is not what its name says", hint=_RESTORE)
        return content

    def delete(self, digests: Iterable[str]) -> list[Path]:
        """Delete objects for good, and every temporary file that a killed process left.

        Raises:
            StoreError: A file cannot be deleted; those before it are gone.
        """
        deleted = [path for path in map(self.path, sorted(digests)) if os.path.lexists(path)]
        deleted += self.temporaries()
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
        return deleted

    def temporaries(self) -> list[Path]:
        """Files that are being written, or were when a process was killed."""
        return [path for path in self.files() if path.name.startswith(TEMPORARY)]

    def files(self) -> Iterator[Path]:
        """Everything in the folder: objects, temporary files, and whatever else somebody put there.

        Raises:
            StoreError: A folder is missing or cannot be read.
        """
        for path in _listed(self.folder):
            if _SHELF.match(path.name) and path.is_dir():
                yield from _listed(path)
            else:
                yield path

    def is_object(self, path: Path) -> bool:
        """Whether a file's name and place are those of an object."""
        return bool(_DIGEST.match(path.name)) and path == self.path(path.name)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be read: {error.strerror}",
            hint="check its owner and permissions, or restore the store from a backup",
        ) from None


_RESTORE = "restore it from a backup of the store; a contribution's own file may be imported again"
