"""Files of a store, each named by the SHA-256 of its content."""

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from fedmed_edge.atomic import sync_folder, write_atomic
from fedmed_edge.errors import InputError, StoreError

_DIGEST = re.compile(r"^[0-9a-f]{64}$")


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
        """Keep content; its digest.

        Raises:
            StoreError: It cannot be written, as on a full disk; nothing is left of it then.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if path.exists():
            return digest
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_folder(self.folder)
            write_atomic(path, content)
        except (InputError, OSError) as error:
            raise StoreError(
                f"store: object not kept: {error}",
                hint="make room on the store's disk and run it again; nothing was changed",
            ) from None
        return digest

    def read(self, digest: str) -> bytes:
        """Content of a digest, checked against it.

        Raises:
            StoreError: It is missing or damaged.
        """
        path = self.path(digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}", hint=_RESTORE) from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(f"{path}: damaged, its content is not what its name says", hint=_RESTORE)
        return content

    def sweep(self, known: Collection[str]) -> list[Path]:
        """Delete for good every file that is no known object, as a withdrawal or a killed process left it."""
        swept = [path for path in self._files() if path.name not in known]
        for path in swept:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in swept}:
            sync_folder(folder)
        return swept

    def _files(self) -> Iterator[Path]:
        if self.folder.is_dir():
            for folder in sorted(self.folder.iterdir()):
                yield from sorted(folder.iterdir())


_RESTORE = "restore it from a backup of the store, or withdraw the site and let it contribute again"
