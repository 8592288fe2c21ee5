"""A binary segmentation's file, frame by frame: of many classes, it takes more memory than the volume."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from highdicom.seg import Segmentation
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import UInt8
from fedmed_edge.inference.dicom_source import encoded

_UNDEFINED = 0xFFFFFFFF
_SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_LONGEST = (1 << 32) - 2


def frame_by_frame(
    pattern: Segmentation, masks: Sequence[UInt8], segments: int, *, keep_empty: bool = False
) -> Iterator[bytes]:
    """The file of a segmentation, piece by piece.

    Frames go by segment, then as those of the pattern; one that holds nothing of its segment is left out,
    unless all do.

    Args:
        pattern: Holds a frame of segment 1 for each plane; its frames and their items are taken out.
        masks: (rows, columns) class numbers of each frame of the pattern, in its order.
        segments: How many there are; segment s is class s.
        keep_empty: Leave none out between the first and the last of a segment that hold something.

    Raises:
        InputError: The frames would pass what a file of this syntax takes.

    Source: DICOM PS3.3 A.51 (segmentation), PS3.5 7.5 (sequences), 8.1.1 (single-bit pixels).
    """
    items = list(pattern.PerFrameFunctionalGroupsSequence)
    holds = np.stack([np.bincount(mask.ravel(), minlength=segments + 1) for mask in masks])[:, 1:] > 0
    if keep_empty:
        holds = np.maximum.accumulate(holds) & np.maximum.accumulate(holds[::-1])[::-1]
    if not holds.any():
        holds[:] = True
    frames = [(int(segment), int(plane)) for segment, plane in np.argwhere(holds.T)]
    size = (len(frames) * masks[0].size + 15) // 16 * 2
    if size > _LONGEST:
        raise InputError(f"its {len(frames)} frames take {size} bytes, expected less than 4 GiB")
    pattern.NumberOfFrames = len(frames)
    del pattern.PerFrameFunctionalGroupsSequence, pattern.PixelData
    return _pieces(encoded(pattern), pattern, items, masks, frames, size)


def _pieces(
    head: bytes,
    pattern: Segmentation,
    items: Sequence[Dataset],
    masks: Sequence[UInt8],
    frames: Sequence[tuple[int, int]],
    size: int,
) -> Iterator[bytes]:
    yield head
    yield struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, _UNDEFINED)
    encodings = convert_encodings(pattern.get("SpecificCharacterSet"))
    for segment, plane in frames:
        yield _item(items[plane], segment + 1, encodings)
    yield _SEQUENCE_END
    yield struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size)
    written = 0
    for piece in _bits(masks, frames):
        written += len(piece)
        yield piece
    yield bytes(size - written)


def _item(item: Dataset, number: int, encodings: list[str]) -> bytes:
    """What describes a frame, as that of another segment."""
    # of one segment alone it is shared
    for one in item.get("SegmentIdentificationSequence", ()):
        one.ReferencedSegmentNumber = number
    content = item.FrameContentSequence[0]
    values = content.DimensionIndexValues
    # without a place in the patient the segment is all that tells frames apart
    content.DimensionIndexValues = number if isinstance(values, int) else [number, *values[1:]]
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_sequence_item(out, item, encodings)
    return out.getvalue()


def _bits(masks: Sequence[UInt8], frames: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Pixels of one bit, the frames one after another without a gap between them."""
    rest = np.zeros(0, np.bool_)
    for segment, plane in frames:
        pixels = np.concatenate([rest, masks[plane].ravel() == segment + 1])
        whole = len(pixels) // 8 * 8
        yield np.packbits(pixels[:whole], bitorder="little").tobytes()
        rest = pixels[whole:]
    yield np.packbits(rest, bitorder="little").tobytes()
