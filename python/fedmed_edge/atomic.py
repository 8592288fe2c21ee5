"""Files that are there whole or not at all, and the lock under which only one process changes them."""

import contextlib
import fcntl
import mmap
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from fedmed_edge.errors import InputError, Unwritable
from fedmed_edge.kinds import TEXT_CAP, content_kind, with_article

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
        Unwritable: The folder is missing or not writable, or the disk is full.
        InputError: `path` is a private key.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomic(folder / "note", b"whole")
        >>> (folder / "note").read_bytes()
        b'whole'
    """
    write_together({path: content}, mode=mode)


def write_together(files: Mapping[Path, bytes | Iterable[bytes | memoryview]], *, mode: int = 0o644) -> None:
    """As `write_atomic`, for files that belong together: none is renamed before all are on the disk.

    Raises:
        InputError: As `write_atomic`; then all older files stay as they were.
    """
    with _atomic_files(list(files), mode) as opened:
        for path, content in files.items():
            with _naming(path):
                for piece in [content] if isinstance(content, bytes) else content:
                    opened[path].write(piece)
                opened[path].flush()


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """The same for who writes piece by piece: `path` is there once the block has ended without an error.

    Raises:
        InputError: As `write_atomic`; an OSError within the block counts as one of the file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_file(folder / "note") as file:
        ...     _ = file.write(b"whole")
        >>> (folder / "note").read_bytes()
        b'whole'
    """
    with _naming(path), _atomic_files([path], mode) as opened:
        yield opened[path]


@contextlib.contextmanager
def _atomic_files(paths: list[Path], mode: int) -> Iterator[dict[Path, BinaryIO]]:
    """Temporary files, each renamed to its path once the block has ended and all of them are on the disk."""
    temporaries = {path: path.parent / f"{TEMPORARY}{secrets.token_hex(8)}" for path in paths}
    try:
        with contextlib.ExitStack() as stack:
            opened: dict[Path, BinaryIO] = {}
            for path, temporary in temporaries.items():
                _spare_private_key(path)
                with _naming(path):
                    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                opened[path] = os.fdopen(descriptor, "wb")
                stack.callback(_close, opened[path])
            yield opened
            for path, file in opened.items():
                with _naming(path):
                    file.flush()
                    os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            with _naming(path):
                temporary.replace(path)
        for folder in {path.parent for path in paths}:
            with _naming(folder):
                sync_folder(folder)
    except BaseException:  # Ctrl-C too must not leave the temporary files
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise


@contextlib.contextmanager
def locked(path: Path, *, busy: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; the system lets go when its holder dies, however.

    Args:
        busy: Message to refuse with where another process or thread holds it, with its `hint`; None waits.

    Raises:
        InputError: It is held, or cannot be made.

    Example:
        >>> import tempfile
        >>> lock = Path(tempfile.mkdtemp()) / "lock"
        >>> with locked(lock), locked(lock, busy="one is at work"):
        ...     pass
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.InputError: one is at work
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise InputError(busy or f"{path}: is held", hint=hint) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Write in a folder as the only one; what a killed process left half-written there is deleted.

    For a folder whose every writer does so: a temporary file in it is nobody's then. On a disk without locks
    nobody waits, and nothing is deleted.

    Raises:
        InputError: The folder is missing or cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / f"{TEMPORARY}0").write_text("half")
        >>> with alone_in(folder):
        ...     list(folder.iterdir())
        []
    """
    with _naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in folder.glob(f"{TEMPORARY}*"):
                left.unlink()
        yield
    finally:
        os.close(descriptor)


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # what was to be kept is on the disk by now
        file.close()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(
            f"{path}: cannot be written: {error.strerror}",
            hint="check that the folder exists, is writable and has room, then run it again",
        ) from None


def _spare_private_key(path: Path) -> None:
    """A mistyped `--out` must not cost a site its identity."""
    with contextlib.suppress(OSError):
        if not path.is_file():
            return
        with path.open("rb") as file:
            start = file.read(64)
        if b"PRIVATE KEY" in start:
            raise InputError(f"{path}: is a private key and is not written over", hint="choose another file")


def read_regular(path: Path, cap: int) -> bytes:
    """Bytes of a regular file of at most `cap` bytes; a pipe or a device is refused without waiting for it.

    Raises:
        InputError: The file is missing, no regular file, too large or unreadable.
    """
    with open_regular(path, cap) as (file, size):
        return file.read(size)


def map_regular(path: Path, cap: int) -> bytes | mmap.mmap:
    """As `read_regular`, mapped into memory: of a large file only what is looked at is read, and given back.

    Nobody else may shorten the file meanwhile: a mapped page that is gone ends the process.

    Raises:
        InputError: As `read_regular`.
    """
    with open_regular(path, cap) as (file, size):
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""


@contextlib.contextmanager
def open_regular(path: Path, cap: int) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file of at most `cap` bytes and its size, for who reads it piece by piece.

    Raises:
        InputError: As `read_regular`; an OSError within the block counts as one of the file.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a file")
            if status.st_size > cap:
                kind = content_kind(file.read(TEXT_CAP))
                hint = f"it is {with_article(kind)}" if kind else None
                raise InputError(f"{path}: has {status.st_size} bytes, expected at most {cap}", hint=hint)
            yield file, status.st_size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def erase(path: Path, first: int | None = None) -> None:
    """Write zeros over a file, or over its first bytes, flush them to disk and delete it.

    A file that has a second name is deleted only: its bytes are somebody else's too. What cannot be written
    over, as on a full disk that copies before it writes, is deleted all the same. Snapshots, backups and the
    spare blocks of a flash disk keep what they have.

    Raises:
        OSError: It cannot be deleted.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "secret"
        >>> _ = path.write_bytes(b"secret")
        >>> with path.open("rb") as held:
        ...     erase(path)
        ...     set(held.read())
        {0}
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                _write_zeros(descriptor, status.st_size if first is None else min(first, status.st_size))
        finally:
            os.close(descriptor)
    path.unlink(missing_ok=True)


def _write_zeros(descriptor: int, size: int) -> None:
    zeros = bytes(min(size, 1 << 20))
    place = 0
    while place < size:
        place += os.pwrite(descriptor, zeros[: size - place], place)
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename or a deletion in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
