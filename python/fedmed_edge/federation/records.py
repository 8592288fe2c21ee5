"""Small facts on the disk: one JSON file each, there whole or not at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from fedmed_edge.atomic import TEMPORARY, sync_folder, write_atomic
from fedmed_edge.errors import InputError, StoreError

__all__ = ["Records", "on_disk", "read_record", "write_record"]

Record = TypeVar("Record", bound=BaseModel)

_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_ENDING = ".json"


@contextmanager
def on_disk(what: str) -> Iterator[None]:
    """What cannot be written is the server's or the site's own trouble, and may succeed later.

    Args:
        what: Named where the error names no file.

    Raises:
        StoreError: In place of what the block raised.
    """
    try:
        yield
    except OSError as error:
        why, hint = f"{what}: cannot be written: {error.strerror}", "make room on the disk; what came is kept"
        raise StoreError(why, hint=hint) from None
    except InputError as error:
        raise StoreError(str(error), hint=error.hint) from None


def read_record(path: Path, model: type[Record]) -> Record | None:
    """The record in a file, or None where there is no file.

    Raises:
        StoreError: The file is damaged.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError):
        raise StoreError(
            f"{path}: is damaged", hint="restore it from a backup, or delete it to begin anew"
        ) from None


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record, in place of the one that is there.

    Raises:
        StoreError: It cannot be written, as on a full disk; the older one stays then.
    """
    with on_disk("record"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, record.model_dump_json().encode() + b"\n")


class Records(Generic[Record]):
    """Records of one kind in a folder, by key (a digest, an id or a site's name).

    Example:
        >>> import tempfile
        >>> from fedmed_edge.federation.messages import Commit
        >>> records = Records(Path(tempfile.mkdtemp()), Commit)
        >>> records.write("one", Commit(digest="0" * 64))
        >>> list(records), records.read("two")
        (['one'], None)
    """

    def __init__(self, folder: Path, model: type[Record]) -> None:
        self.folder, self._model = folder, model

    def path(self, key: str) -> Path:
        """File of a key.

        Raises:
            InputError: The key cannot be a file's name.
        """
        if not _KEY.match(key):
            raise InputError(f"record: `{ascii(key)[1:41]}` is no key")
        return self.folder / f"{key}{_ENDING}"

    def read(self, key: str) -> Record | None:
        """The record of a key, or None.

        Raises:
            InputError: As `path`.
            StoreError: As `read_record`.
        """
        return read_record(self.path(key), self._model)

    def write(self, key: str, record: Record) -> None:
        """Write the record of a key.

        Raises:
            InputError: As `path`.
            StoreError: As `write_record`.
        """
        write_record(self.path(key), record)

    def delete(self, key: str) -> None:
        """Delete the record of a key, where there is one."""
        self.path(key).unlink(missing_ok=True)
        if self.folder.is_dir():
            sync_folder(self.folder)

    def __iter__(self) -> Iterator[str]:
        """Keys, sorted."""
        if not self.folder.is_dir():
            return iter(())
        names = (path.name for path in self.folder.iterdir() if path.name.endswith(_ENDING))
        return iter(sorted(name.removesuffix(_ENDING) for name in names if not name.startswith(TEMPORARY)))

    def all(self) -> list[Record]:
        """Every record, in order of key.

        Raises:
            StoreError: One of them is damaged.
        """
        found = (self.read(key) for key in self)
        return [record for record in found if record is not None]
