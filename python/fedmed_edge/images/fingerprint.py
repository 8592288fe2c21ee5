"""Whether a file, or a folder of them, is what it was: by its bytes, or at a glance."""

import hashlib
import sys
from pathlib import Path

from fedmed_edge.atomic import open_regular
from fedmed_edge.errors import InputError

__all__ = ["content_digest", "stamp"]

Stamp = tuple[tuple[str, int, int], ...]


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder, in hexadecimal; neither names nor their order count.

    Raises:
        InputError: A file cannot be read, or is none: a pipe would be waited for, a device read for ever.
    """
    held = []
    for one in _files(path):
        digest = hashlib.sha256()
        with open_regular(one, sys.maxsize) as (file, _):
            while piece := file.read(1 << 20):
                digest.update(piece)
        held.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(held))).hexdigest()


def stamp(path: Path) -> Stamp:
    """Name, size and time of change (ns) of a file, or of every file of a folder.

    Raises:
        InputError: As `content_digest`.
    """
    try:
        return tuple(
            (one.name, told.st_size, told.st_mtime_ns) for one in _files(path) for told in [one.stat()]
        )
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
