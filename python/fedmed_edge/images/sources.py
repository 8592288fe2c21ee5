"""Sources: what a command line names (files, folders, DICOMDIR, zip) → files, told apart by content."""

import logging
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import TracebackType

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.image import Format, sniff

log = logging.getLogger(__name__)

# A zip can promise anything in a few bytes: more is refused, as it is unpacked.
ZIP_FILES_CAP = 100_000
ZIP_BYTES_CAP = 32 << 30
# What a zip may unpack to for each byte of it, once that is more than an image or two.
ZIP_RATIO_CAP = 200
_FREE_RATIO = 1 << 30
_CHUNK = 1 << 20

# What is named like this and cannot be read was meant to be an image: its loss would go unnoticed.
_IMAGE_NAMES = (".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
# No file system takes a longer name.
_NAME_CAP = 255
_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: Where it lies now.
        name: What the user calls it: its path, of a zip's member the zip's with the member's behind.
        kind: Its format; None where it is none.
        reason: Why it is none.
        given: Whether it was named itself, not found in a folder.
        root: The path that was named and that it lies behind.
        lost: Whether an image may be lost with it: a locked file or folder, a broken zip, a file that is
            named like an image and is none.
    """

    path: Path
    name: str
    kind: Format | None
    reason: str = ""
    given: bool = False
    root: Path | None = None
    lost: bool = False


@dataclass
class Sources:
    """Files behind what was named; what had to be unpacked lies in a folder that `close` deletes."""

    files: list[Source] = field(default_factory=list)
    unpacked: Path | None = None

    def __enter__(self) -> "Sources":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete what was unpacked."""
        if self.unpacked is not None:
            shutil.rmtree(self.unpacked, ignore_errors=True)


def find_sources(paths: Sequence[Path], *, skip: Path | None = None) -> Sources:
    """List the files behind files, folders, DICOMDIRs and zips, each once, in order of name.

    Hidden files and folders are passed over, and in folders every DICOMDIR: its files lie beside it.
    A zip that is broken, encrypted or unpacks to too much, and a broken DICOMDIR, is one lost source, so
    that it stops none of the others.

    Args:
        skip: Folder that is passed over where it lies inside a given one.
    """
    sources = Sources()
    seen: set[Path] = set()
    try:
        for path in paths:
            for source in _whole(path, skip, sources):
                where = Path(os.path.realpath(source.path)) if source.path.exists() else source.path
                if where not in seen:
                    seen.add(where)
                    sources.files.append(replace(source, root=path))
    except BaseException:
        sources.close()
        raise
    return sources


def _whole(path: Path, skip: Path | None, sources: Sources) -> list[Source]:
    try:
        return list(_behind(path, skip, sources))
    except InputError as error:
        return [Source(path, str(path), None, _told(error), given=True, lost=True)]


def _behind(path: Path, skip: Path | None, sources: Sources) -> Iterator[Source]:
    if path.is_dir():
        locked: list[OSError] = []
        yield from (_sniffed(file, str(file)) for file in _inside(path, skip, locked))
        for error in locked:
            name = str(error.filename)
            yield Source(Path(name), name, None, f"{name}: cannot be read: {error.strerror}", lost=True)
        return
    start = _start(path)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _unzipped(path, sources)
    elif _is_directory(path, start):
        yield from _listed(path)
    else:
        yield _sniffed(path, str(path), given=True)


def _inside(folder: Path, skip: Path | None, locked: list[OSError]) -> Iterator[Path]:
    left_out = Path(os.path.realpath(skip)) if skip else None
    top = Path(os.path.realpath(folder))
    seen = {top}
    for name, subfolders, files in os.walk(folder, onerror=locked.append, followlinks=True):
        here = Path(os.path.realpath(name))
        if left_out in (here, *here.parents) and left_out != top:
            subfolders.clear()
            continue
        kept = []
        for subfolder in sorted(s for s in subfolders if not s.startswith(".")):
            # A link that leads back up would be walked for ever.
            where = Path(os.path.realpath(Path(name, subfolder)))
            if where not in seen:
                seen.add(where)
                kept.append(subfolder)
        subfolders[:] = kept
        for file in sorted(files):
            path = Path(name, file)
            if not file.startswith(".") and path.is_file() and not _is_directory(path, _start(path)):
                yield path


def _start(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""


def _sniffed(path: Path, name: str, *, given: bool = False) -> Source:
    try:
        return Source(path, name, sniff(path), given=given)
    except InputError as error:
        lost = name.lower().endswith(_IMAGE_NAMES) or not os.access(path, os.R_OK)
        return Source(path, name, None, _told(error).replace(str(path), name, 1), given, lost=lost)


def _told(error: InputError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


# --- DICOMDIR ----------------------------------------------------------------------------------------------


def _is_directory(path: Path, start: bytes) -> bool:
    return start[128:132] == b"DICM" and _DIRECTORY.encode() in start[132:]


def _listed(path: Path) -> Iterator[Source]:
    """Files that a DICOMDIR names, by its own rules: upper case, which a disk may show in lower case."""
    from fedmed_edge.images.dicom_files import read_elements, reading

    with reading(path):
        # pydicom's FileSet refuses a directory with one faulty record; the file names are all that counts.
        directory = read_elements(path)
        records = directory.get("DirectoryRecordSequence") or []
        named_files = [parts for record in records if (parts := record.get("ReferencedFileID"))]
    if not named_files:
        raise InputError(f"{path}: DICOMDIR names no file, or is cut off", hint="name its folder instead")
    for parts in named_files:
        named = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        found = _member(path.parent, named)
        name = str(path.parent.joinpath(*named))
        if found is None:
            yield Source(
                path.parent, name, None, f"{path}: names `{'/'.join(named)[:200]}`, which is not there", True
            )
        else:
            yield _sniffed(found, name, given=True)


def _member(folder: Path, parts: list[str]) -> Path | None:
    for part in parts:
        if part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part:
            return None
        exact = folder / part
        if len(part) > _NAME_CAP:
            return None
        if not exact.exists():
            there = sorted(folder.iterdir()) if folder.is_dir() else []
            alike = [path for path in there if path.name.lower() == part.lower()]
            if not alike:
                return None
            exact = alike[0]
        folder = exact
    return folder if folder.is_file() else None


# --- zip ---------------------------------------------------------------------------------------------------


def _unzipped(path: Path, sources: Sources) -> Iterator[Source]:
    """Unpack what is an image by content, under names of our own: those in a zip are not to be trusted."""
    if sources.unpacked is None:
        sources.unpacked = Path(tempfile.mkdtemp(prefix="fedmed-"))
    folder = Path(tempfile.mkdtemp(dir=sources.unpacked))
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if _is_wanted(member)]
            if len(members) > ZIP_FILES_CAP:
                raise InputError(f"{path}: zip has {len(members)} files, expected at most {ZIP_FILES_CAP}")
            left = min(ZIP_BYTES_CAP, shutil.disk_usage(folder).free)
            cap = min(left, max(_FREE_RATIO, ZIP_RATIO_CAP * path.stat().st_size))
            for number, member in enumerate(sorted(members, key=lambda member: member.filename)):
                if member.flag_bits & 1:
                    raise InputError(f"{path}: zip is encrypted", hint="unpack it first")
                # With the member's own name behind, as far as it is harmless, for messages.
                plain = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(member.filename).name)[-60:]
                inner = folder / f"{number:06}-{plain}"
                cap -= _copy_member(path, archive, member, inner, cap)
                if _is_directory(inner, _start(inner)):
                    continue
                yield _sniffed(inner, f"{path}/{_printable(member.filename)}")
    except FedmedError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and bz2 raise nearly every built-in one
        raise InputError(f"{path}: zip is broken or cut off ({type(error).__name__})") from None


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    parts = [part for part in PurePosixPath(member.filename).parts if part != ".."]
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    linked = stat.S_ISLNK(member.external_attr >> 16)
    return not (member.is_dir() or hidden or linked)


def _copy_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path, cap: int) -> int:
    written = 0
    with archive.open(member) as packed, to.open("wb") as file:
        while chunk := packed.read(_CHUNK):
            written += len(chunk)
            if written > cap:
                raise InputError(
                    f"{path}: zip unpacks to more than is taken: at most {ZIP_RATIO_CAP} times its size, "
                    f"{ZIP_BYTES_CAP >> 30} GiB or the free disk space",
                    hint="unpack it yourself, and name the folder",
                )
            file.write(chunk)
    return written


def _printable(name: str) -> str:
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    return "".join(letter if letter.isprintable() else "_" for letter in "/".join(parts))[:200]
