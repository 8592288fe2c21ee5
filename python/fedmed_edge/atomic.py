"""Files that are there whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from fedmed_edge.errors import InputError

TEMPORARY = ".part-"
"""Beginning of a temporary file's name; one that is found was left by a process that was killed."""


def write_atomic(path: Path, content: bytes | Iterable[bytes | memoryview], *, mode: int = 0o644) -> None:
    """Write a file so that a reader, a crash or a full disk never shows half of it.

    A temporary file in the same folder is written, flushed to disk and renamed over `path`; then the folder
    is flushed. When anything fails the temporary file is removed and an older `path` stays as it was.

    Args:
        content: The bytes, whole or in pieces.
        mode: Permissions of the file.

    Raises:
        InputError: The folder is missing or not writable, or the disk is full.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomic(folder / "note", b"whole")
        >>> (folder / "note").read_bytes()
        b'whole'
    """
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        try:
            _write(temporary, [content] if isinstance(content, bytes) else content, mode)
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:  # Ctrl-C too must not leave the temporary file
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}",
            hint="check that the folder exists, is writable and has room, then run it again",
        ) from None


def _write(path: Path, pieces: Iterable[bytes | memoryview], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename or a deletion in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
