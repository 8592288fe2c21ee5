"""DICOM files as somebody else may have made them: read within what the file holds, whatever it claims."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import FileDataset
from pydicom.filebase import DicomFileLike
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.bounded import Bounded

ELEMENTS_CAP: Final = 1 << 20
"""Most elements and items of a file, a read for each of their parts: those of thousands of frames."""

_INFLATED_CAP = 1 << 30
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_LONG = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged DICOM file makes pydicom and its decoders raise into one InputError.

    Raises:
        InputError: Anything but an error of our own went wrong. The cause is named by its type alone: its
            text may quote a patient's data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (FedmedError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: DICOM file is broken or cut off ({type(error).__name__})") from None


def read_elements(path: Path, *, pixels: bool = False, tags: Sequence[str] | None = None) -> FileDataset:
    """Read a DICOM file, to be called within `reading`.

    Args:
        pixels: With its pixel data.
        tags: Keywords of the elements that are wanted; None takes all.

    Raises:
        InputError: A deflated file inflates to too much, or there are too many elements.
    """
    with io.FileIO(path) as raw:
        source = _inflated(path, raw) or raw
        file, wanted = _Counted(path, source), None if tags is None else list(tags)
        try:
            return pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=wanted)
        except Exception:
            if file.refusal is not None:  # which pydicom turned into an error of its own
                raise file.refusal from None
            raise


class _Counted(Bounded):
    """A file whose elements are counted: a million empty items, of 8 bytes each, become a million objects."""

    def __init__(self, path: Path, source: io.FileIO | io.BytesIO) -> None:
        self.refusal: InputError | None = None
        self._path, self._elements = path, 0
        super().__init__(source)

    @property
    def name(self) -> str:
        """The file's, which pydicom asks for; what was inflated has none of its own."""
        return str(self._path)

    def read(self, size: int | None = -1, /) -> bytes:
        """As much as is asked for, or as is left.

        Raises:
            InputError: It was asked more often than an image needs.
        """
        value = super().read(size)
        self._elements += _elements(value) if value[:4] in _ITEMS else 1
        if self._elements > ELEMENTS_CAP:
            self.refusal = InputError(f"{self._path}: DICOM file has more than {ELEMENTS_CAP} elements")
            raise self.refusal
        return value


def _elements(value: bytes) -> int:
    """Elements and items of a sequence that was read in one go, counted before an object is made of each.

    A value that begins with an item counts as a sequence, whatever its VR says.
    Source: DICOM PS3.5 7.1 (elements), 7.5 (sequences).
    """
    order, count, place = "<" if value[:1] == b"\xfe" else ">", 0, 0
    while place + 8 <= len(value) and count <= ELEMENTS_CAP:
        count += 1
        if value[place : place + 2] == value[:2]:  # an item, or the end of one
            place += 8
            continue
        vr = value[place + 4 : place + 6]
        if not vr.isupper():
            (length,), header = struct.unpack_from(f"{order}I", value, place + 4), 8
        elif vr not in _LONG:
            (length,), header = struct.unpack_from(f"{order}H", value, place + 6), 8
        elif place + 12 <= len(value):
            (length,), header = struct.unpack_from(f"{order}I", value, place + 8), 12
        else:
            break
        place += header
        if value[place : place + 4] != value[:4]:
            place += length
    return count


def _inflated(path: Path, raw: io.FileIO) -> io.BytesIO | None:
    """A deflated file as if it had never been deflated; None for any other.

    pydicom would inflate it in one go, whatever comes out, and read on in memory, however many elements.
    """
    file = _Counted(path, raw)
    preamble = read_preamble(file, force=False)
    meta = _read_file_meta_info(file)
    begun = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    file.detach()
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return None
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole = io.BytesIO()
    whole.write((preamble or bytes(128)) + b"DICM")
    write_file_meta_info(DicomFileLike(whole), meta)
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    # Preamble, prefix and the group length element itself stand before what the group length counts.
    raw.seek(begun)
    while chunk := inflater.unconsumed_tail or raw.read(1 << 16):
        piece = inflater.decompress(chunk, 1 << 20)
        inflated += whole.write(piece)
        if inflated > _INFLATED_CAP:
            raise InputError(f"{path}: deflated file has more than {_INFLATED_CAP} bytes inflated")
    return whole
