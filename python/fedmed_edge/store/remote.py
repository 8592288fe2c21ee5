"""Objects of a store where an fsspec URL says, such as a bucket of an S3-compatible server."""

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec  # type: ignore[import-untyped]

from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.store.encryption import HEADER_BYTES, FileCipher, key_of
from fedmed_edge.store.objects import OBJECT_CAP, RESTORE, checked_pieces, digest_of, shelved
from fedmed_edge.tensorfile import Content

_REACH = "check `objects` in fedmed.toml, the credentials, and that the server runs; nothing was changed"


class RemoteObjects:
    """Objects below a URL.

    A bucket shows an object whole or not at all. Where a file system does not, what a killed process left
    half-written bears the name of an object that the journal holds, and is swept like a whole one.

    Raises:
        InputError: No such kind of URL.
    """

    def __init__(self, url: str, cipher: FileCipher | None = None) -> None:
        self.url, self.cipher = url.rstrip("/"), cipher or FileCipher()
        try:
            # two processes may write: nothing that was listed once is believed later
            found = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"`objects` has {self.url}: {error}", hint='for s3://: pip install "fedmed-edge[s3]"'
            ) from None
        self._files: Any = found[0]
        self._root: str = found[1].rstrip("/")

    def create(self) -> None:
        """As `Objects.create`; a bucket has to be there."""
        probe = f"{self._root}/probe"
        with self._explained("cannot be written"):
            self._files.pipe_file(probe, b"fedmed")
            self._files.rm_file(probe)

    def write(self, content: Content, digest: str) -> str:
        """As `Objects.write`; the object is in memory once meanwhile."""
        if len(content) > OBJECT_CAP:
            raise StoreError(f"store: object has {len(content)} bytes, expected at most {OBJECT_CAP}")
        with self._explained("object not kept"):
            if self._stands(digest):
                return digest
            path = self._path(digest)
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            pieces = checked_pieces(content, digest)
            self._files.pipe_file(path, _joined(self.cipher.encrypted(pieces, len(content), digest)))
        return digest

    def _stands(self, digest: str) -> bool:
        """Whether the object is there, sound, and written as the cipher writes today."""
        if self._size(digest) is None or not self.cipher.wrote(self._start(digest)):
            return False
        try:
            self.read(digest)
        except StoreError:
            return False
        return True

    def read(self, digest: str) -> bytes:
        """As `Objects.read`; an encrypted object is in memory twice meanwhile."""
        place = self._place(digest)
        with self._explained("cannot be read"):
            size = self._size(digest)
            if size is None:
                raise StoreError(f"{place}: no such object", hint=RESTORE)
            if size > OBJECT_CAP + OBJECT_CAP // 1024:
                raise StoreError(f"{place}: has {size} bytes, expected at most {OBJECT_CAP}", hint=RESTORE)
            kept: bytes = self._files.cat_file(self._path(digest))
        try:
            content = self.cipher.decrypted(io.BytesIO(kept), len(kept), digest)
        except StoreError as error:
            raise StoreError(f"{place}: {error}", hint=error.hint or RESTORE) from None
        if digest_of(content) != digest:
            raise StoreError(f"{place}: damaged, its content is not what its name says", hint=RESTORE)
        return content

    def key_of(self, digest: str) -> str | None:
        """As `Objects.key_of`."""
        with self._explained("cannot be read"):
            return key_of(self._start(digest))

    def _start(self, digest: str) -> bytes:
        start: bytes = self._files.cat_file(self._path(digest), start=0, end=HEADER_BYTES)
        return start

    def delete(self, digests: Iterable[str]) -> list[str]:
        """As `Objects.delete`."""
        deleted = []
        with self._explained("cannot be deleted"):
            for digest in sorted(digests):
                if self._size(digest) is not None:
                    with contextlib.suppress(FileNotFoundError):
                        self._files.rm_file(self._path(digest))
                    deleted.append(self._place(digest))
        return deleted

    def holds(self, digest: str) -> bool:
        """As `Objects.holds`."""
        with self._explained("cannot be read"):
            return self._size(digest) is not None

    def unfinished(self) -> bool:
        """As `Objects.unfinished`."""
        return False

    def listed(self) -> Iterator[tuple[str, str | None]]:
        """As `Objects.listed`."""
        found: list[str] = []
        with self._explained("cannot be read"), contextlib.suppress(FileNotFoundError):
            found = sorted(self._files.find(self._root))
        for path in found:
            name = path.rpartition("/")[2]
            held = len(name) == 64 and path == f"{self._root}/{name[:2]}/{name}"
            yield f"{self.url}{path.removeprefix(self._root)}", name if held else None

    def _path(self, digest: str) -> str:
        return f"{self._root}/{shelved(digest)}"

    def _place(self, digest: str) -> str:
        return f"{self.url}/{shelved(digest)}"

    def _size(self, digest: str) -> int | None:
        """Bytes of an object; None where there is none."""
        try:
            return int(self._files.info(self._path(digest))["size"])
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Drivers raise whatever their own libraries raise."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            cause = str(error).partition("\n")[0] or type(error).__name__
            raise StoreError(f"{self.url}: {what}: {cause}", hint=_REACH) from None


def _joined(pieces: Iterable[bytes | memoryview]) -> bytes:
    whole = io.BytesIO()
    for piece in pieces:
        whole.write(piece)
    return whole.getvalue()
