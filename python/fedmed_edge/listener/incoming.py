"""Received instances on the disk: bytes as they came, there whole or not at all, each once."""

import contextlib
import filecmp
import hashlib
import logging
import os
import secrets
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from enum import Enum
from io import BytesIO, FileIO
from pathlib import Path
from typing import Self

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedmed_edge.atomic import sync_folder
from fedmed_edge.images.series import is_own_output, safe_name
from fedmed_edge.listener.journal import Instance, Journal

log = logging.getLogger(__name__)

_TAGS = [
    Tag(name)
    for name in (
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("AccessionNumber", "PatientID", "Manufacturer"),
    )
]
_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_LAST = 0x0020000E  # SeriesInstanceUID; all of the above stand before it
_INFLATED_CAP = 16 << 20


class Outcome(Enum):
    """What became of a file that arrived."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    OURS = "ours"
    UNREADABLE = "unreadable"
    FULL = "full"


class Part:
    """A file that is being received; it goes when nothing refers to it any more.

    A disk that is full does not end the conversation: what was written is given back, the rest is passed
    over, and `Incoming.take` finds nothing and says so.
    """

    def __init__(self, folder: Path, *, refused: bool = False) -> None:
        self.name = str(folder / f"{secrets.token_hex(8)}.part")
        self._open: FileIO | None = None
        if not refused:
            with contextlib.suppress(OSError):
                self._open = FileIO(self.name, "xb")

    @property
    def file(self) -> Self:
        """What is flushed: itself."""
        return self

    def write(self, content: bytes) -> int:
        """Write, or pass over what there is no room for."""
        left = memoryview(content)
        try:
            while self._open is not None and left:
                left = left[self._open.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                assert self._open is not None
                self._open.truncate(0)
            self.close()
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """No more comes."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()

    def __del__(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            Path(self.name).unlink()


class Incoming:
    """The folder `incoming`: `STUDY/SERIES/INSTANCE.dcm`, and `receiving` for what is on its way.

    Args:
        folder: Made where it is missing.
        watermark: Free bytes of its disk below which nothing is taken.
    """

    def __init__(self, folder: Path, journal: Journal, watermark: int) -> None:
        self.folder, self._journal, self.watermark = folder, journal, watermark
        self.receiving = folder / ".receiving"
        self.receiving.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def free_bytes(self) -> int:
        """Free space of the disk."""
        return shutil.disk_usage(self.folder).free

    @property
    def full(self) -> bool:
        """Whether less than the watermark is free."""
        return self.free_bytes < self.watermark

    def part(self) -> Part:
        """A file to receive into."""
        return Part(self.receiving, refused=self.full)

    def take(self, path: Path, sender: str, *, sop_uid: str | None = None) -> tuple[Outcome, str]:
        """Keep a file that lies complete in `receiving`, where it stays for its owner to delete.

        Once this returns STORED or DUPLICATE the file survives a power cut, and the journal names it.

        Args:
            sender: AE title, or address of the archive.
            sop_uid: SOPInstanceUID that was announced; another one in the file is UNREADABLE.

        Returns:
            What became of it, and the SeriesInstanceUID, empty where it has none.
        """
        if self.full or not path.exists() or not path.stat().st_size:
            return Outcome.FULL, ""
        try:
            header = read_header(path)
            uids = [str(header.get(name) or "") for name in _UIDS]
        except Exception:  # pydicom raises many kinds over a broken file
            log.debug("unreadable instance", exc_info=True)
            return Outcome.UNREADABLE, ""
        if not all(uids) or (sop_uid is not None and uids[0] != sop_uid):
            return Outcome.UNREADABLE, ""
        if is_own_output(header) or self._journal.is_ours(uids[0]):
            return Outcome.OURS, uids[2]
        try:
            return self._keep(path, header, uids, sender), uids[2]
        except (OSError, sqlite3.OperationalError) as error:
            log.error("listen: an instance could not be kept: %s", getattr(error, "strerror", error))
            return Outcome.FULL, uids[2]

    def _keep(self, path: Path, header: Dataset, uids: list[str], sender: str) -> Outcome:
        sop_uid, study_uid, series_uid = uids
        target = self.folder / safe_name(study_uid) / safe_name(series_uid) / f"{safe_name(sop_uid)}.dcm"
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        outcome = self._place(path, target)
        if outcome is Outcome.CONFLICT:
            if not self._journal.last_failed(series_uid):
                return outcome
            # The one here may be what it failed by, and else nobody could mend it.
            outcome = self._replace(path, target)
        instance = Instance(
            *(sop_uid, series_uid, study_uid),
            *(str(header.get("AccessionNumber") or ""), str(header.get("PatientID") or ""), sender),
            *(target, digest, path.stat().st_size),
        )
        self._journal.receive(instance)
        # An older copy may have gone with its series before this one was noted; now it no longer can.
        return outcome if target.exists() else self._place(path, target)

    def _place(self, path: Path, target: Path) -> Outcome:
        self._make_folders(target.parent)
        outcome = Outcome.STORED
        try:
            os.link(path, target)
        except FileExistsError:
            same = filecmp.cmp(path, target, shallow=False)
            outcome = Outcome.DUPLICATE if same else Outcome.CONFLICT
        sync_folder(target.parent)
        return outcome

    def _replace(self, path: Path, target: Path) -> Outcome:
        spare = path.with_name(f"{path.name}.spare")
        os.link(path, spare)
        spare.replace(target)
        sync_folder(target.parent)
        return Outcome.STORED

    def _make_folders(self, folder: Path) -> None:
        for missing in (folder.parent, folder):
            with contextlib.suppress(FileExistsError):
                missing.mkdir(mode=0o700)
                sync_folder(missing.parent)

    def recover(self) -> None:
        """Bring journal and disk together, however the node ended; before anything is received."""
        for left in self.receiving.iterdir():
            left.unlink()
        noted = self._journal.paths()
        found = set(self.folder.glob("[!.]*/*/*.dcm"))
        for path in sorted(found - noted):
            with contextlib.suppress(Exception):  # one that was received is readable
                header = read_header(path)
                self._keep(path, header, [str(header[name].value) for name in _UIDS], "")
        for path in noted - found:
            self._journal.lose(path)


@contextlib.contextmanager
def linked(files: tuple[Path, ...], folder: Path) -> Iterator[Path]:
    """A folder with hard links to files, numbered: what arrives meanwhile is not in it. Gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for number, file in enumerate(files):
            os.link(file, folder / f"{number:06}.dcm")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_header(path: Path) -> Dataset:
    """The first elements of a file, through SeriesInstanceUID; a deflated one is inflated no further."""
    with path.open("rb") as file:
        meta = read_file_meta_info(path)
        if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
            return read_partial(file, _behind, specific_tags=list(_TAGS))
        # preamble, prefix and the group length itself stand before what the group length counts
        file.seek(144 + int(meta.FileMetaInformationGroupLength))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        start = inflater.decompress(file.read(_INFLATED_CAP), _INFLATED_CAP)
    return read_dataset(BytesIO(start), False, True, stop_when=_behind, specific_tags=list(_TAGS))


def _behind(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) > _LAST
