"""What the command line names → the list of images to answer."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedmed_edge.errors import InputError, NothingMatched
from fedmed_edge.images.image import sniff

log = logging.getLogger(__name__)

_NOT_IMAGES = ("DICOMDIR",)


def expand_inputs(paths: Sequence[Path], dimensions: int, *, skip: Path | None = None) -> list[Path]:
    """List the inputs behind files and folders, each once.

    A file is one input, whatever it holds: what is wrong with it is said when it is answered. Of a folder,
    everything in it that is an image by content, in order of name, subfolders too; for a model of volumes, a
    folder that holds DICOM files is one series and so one input. Hidden files and folders are passed over.

    Args:
        dimensions: 2 or 3, of the model.
        skip: Folder that is passed over where it lies inside a given one: the results' own.

    Raises:
        NothingMatched: There is no input at all.

    Example:
        >>> import tempfile
        >>> expand_inputs([Path(tempfile.mkdtemp())], 2)
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.NothingMatched: no image found among the inputs, expected DICOM, NIfTI, PNG or JPEG
    """
    found: dict[Path, None] = {}
    for path in paths:
        before = len(found)
        found.update(dict.fromkeys(_inside(path, dimensions, skip) if path.is_dir() else [path]))
        if path.is_dir() and len(found) == before:
            log.warning("%s: folder holds no image", path)
    if not found:
        raise NothingMatched("no image found among the inputs, expected DICOM, NIfTI, PNG or JPEG")
    return list(found)


def _inside(folder: Path, dimensions: int, skip: Path | None) -> Iterator[Path]:
    left_out = skip.resolve() if skip else None
    for name, subfolders, files in os.walk(folder):
        here = Path(name)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        if left_out in (here.resolve(), *here.resolve().parents) and left_out != folder.resolve():
            subfolders.clear()
            continue
        kinds = {here / file: _kind(here / file) for file in sorted(files)}
        if dimensions == 3 and "dicom" in kinds.values():
            # The series reader takes what lies below, too.
            subfolders.clear()
            yield here
            kinds = {file: kind for file, kind in kinds.items() if kind != "dicom"}
        yield from (file for file, kind in kinds.items() if kind)


def _kind(path: Path) -> str:
    if path.name.startswith(".") or path.name in _NOT_IMAGES or not path.is_file():
        return ""
    try:
        return sniff(path)
    except InputError:
        return ""
