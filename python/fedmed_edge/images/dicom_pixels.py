"""DICOM pixel data: decoded, brought to RGB or to rescaled grey values.

Rules, the same for training and beside the scanner:

- Rescale slope and intercept (or the modality LUT) are applied frame by frame in float32; the display window
  never is.
- MONOCHROME1 is inverted over the full stored range (0 … 2^BitsStored - 1, or its signed counterpart) before
  rescaling (after a LUT: over its output range), so that more signal is always brighter; for CT and PT it
  is not, there the value is a quantity.
- Pixels of PixelPaddingValue (to PixelPaddingRangeLimit) get the smallest value of the image's other pixels.
- YBR and palette colours become RGB; colours of more than 8 bits are brought to 8.
"""

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom.encaps
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLETransferSyntaxes,
)

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import read_elements, reading
from fedmed_edge.images.image import Float32, sides

# Integers of any width, or floats.
Stored = npt.NDArray[Any]

# pydicom's log lines and warnings quote the values they stumble over.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

# Decoders of lossy data differ by a few grey levels, so the order is fixed; what every install has comes
# first.
_COMPRESSED = (
    *JPEGTransferSyntaxes,
    *JPEGLSTransferSyntaxes,
    *(uid for uid in JPEG2000TransferSyntaxes if "Multi-component" not in uid.name),
    *RLETransferSyntaxes,
)
_DECODERS = ("pillow", "pylibjpeg", "pyjpegls", "gdcm", "pydicom")
# Modalities whose values are physical quantities: MONOCHROME1 there says how to show them, not what they are.
_QUANTITIES = ("CT", "PT")
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}

_PALETTE = [
    f"{form}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for form, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
_TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    *_PALETTE,
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]


def decode(path: Path) -> tuple[Stored, Dataset]:
    """Decode the stored values of a file's frames.

    Returns:
        (frames, rows, columns) or (frames, rows, columns, 3), YBR already RGB; the elements that describe
        them.

    Raises:
        InputError: There is no decoder for its transfer syntax here, or the pixel data are missing, cut
            off, broken or of another size than the header says.
    """
    with reading(path):
        described = read_elements(path, pixels=True, tags=_TAGS)
        uid = described.file_meta.TransferSyntaxUID
        usable = _usable_decoders(path, uid)
        if uid.is_encapsulated:
            _check_codestreams(path, described)
        for name in usable:
            try:
                stored = pixel_array(described, decoding_plugin=name)
            except Exception:
                # The next decoder may know this flavour; when none does, the message below says so.
                continue
            single = stored.ndim - (int(described.SamplesPerPixel) > 1) == 2
            return stored[None] if single else stored, described
        twelve_bits = uid == JPEGExtended12Bit and int(described.BitsStored) > 8
        raise InputError(
            f"{path}: pixel data are missing, cut off or broken ({uid.name})",
            hint="JPEG of 12 bits needs the package pylibjpeg-libjpeg (GPL)" if twelve_bits else None,
        )


def missing_codecs() -> list[str]:
    """Names of the compressed transfer syntaxes that nothing which is installed decodes.

    Example:
        >>> "RLE Lossless" in missing_codecs()  # pydicom itself does
        False
    """
    return [uid.name for uid in _COMPRESSED if not set(_DECODERS) & set(get_decoder(uid).available_plugins)]


def _usable_decoders(path: Path, uid: UID) -> list[str]:
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        raise InputError(f"{path}: transfer syntax {uid.name} cannot be decoded") from None
    if not uid.is_encapsulated:
        return [""]
    usable = [name for name in _DECODERS if name in decoder.available_plugins]
    if not usable:
        raise InputError(
            f"{path}: no decoder for {uid.name} is installed", hint='pip install "fedmed-edge[codecs]"'
        )
    return usable


def _check_codestreams(path: Path, described: Dataset) -> None:
    """Refuse a compressed frame that declares another size than the header, which alone was capped."""
    wanted = (int(described.Rows), int(described.Columns))
    frames = int(described.get("NumberOfFrames") or 1)
    for frame in pydicom.encaps.generate_frames(described.PixelData, number_of_frames=frames):
        size = codestream_size(frame)
        if size is not None and size != wanted:
            raise InputError(f"{path}: pixel data have size {sides(size)}, expected {sides(wanted)}")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None where it is none of them.

    Source: ISO/IEC 10918-1 B.2.2 (SOF), 14495-1 C.2.2 (SOF55), 15444-1 A.5.1 (SIZ).

    Example:
        >>> codestream_size(bytes.fromhex("ffd8 ffc0 0011 08 0010 0020"))
        (16, 32)
    """
    start = frame.find(b"\xff\x4f\xff\x51", 0, 512)
    if start >= 0 and len(frame) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    place = 2
    while frame[:2] == b"\xff\xd8" and len(frame) >= place + 9 and frame[place] == 0xFF:
        if frame[place + 1] in _START_OF_FRAME:
            rows, columns = struct.unpack_from(">2H", frame, place + 5)
            return rows, columns
        place += 1 if frame[place + 1] == 0xFF else 2 + int.from_bytes(frame[place + 2 : place + 4])
    return None


def grey_values(stored: Stored, described: Dataset, modality: str, slope: float, intercept: float) -> Float32:
    """Rescaled values of one grey frame; padding is -inf until `fill_padding`.

    Args:
        stored: (rows, columns) as decoded.
        described: What `decode` told of its file.
        slope, intercept: Of this frame.
    """
    inverted = described.PhotometricInterpretation == "MONOCHROME1" and modality not in _QUANTITIES
    if "ModalityLUTSequence" in described:
        values: Float32 = apply_modality_lut(stored, described).astype(np.float32)
        if inverted:
            bits = int(described.ModalityLUTSequence[0].LUTDescriptor[2])
            values = np.float32((1 << bits) - 1) - values
    else:
        values = stored.astype(np.float32)
        if inverted:
            values = np.float32(_range_ends(described)) - values
        values = values * np.float32(slope) + np.float32(intercept)
    # Not to be taken for padding below.
    values[np.isneginf(values)] = np.nan
    padding = _padding(stored, described)
    if padding is not None:
        values[padding] = -np.inf
    return values


def fill_padding(pixels: Float32) -> None:
    """Give padding (-inf) the smallest value of the other pixels, in place; all padding becomes 0."""
    padding = np.isneginf(pixels)
    if padding.any():
        pixels[padding] = 0 if padding.all() else pixels[~padding].min()


def colour_values(stored: Stored, described: Dataset) -> Float32:
    """Red, green and blue of one colour frame, 0 to 255.

    Args:
        stored: (rows, columns, 3) as decoded, or (rows, columns) of palette indices.

    Returns:
        (3, rows, columns) float32.
    """
    if described.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, described)[..., :3]
        bits = 8 * stored.dtype.itemsize
    else:
        bits = int(described.BitsStored)
    if bits > 8:
        stored = np.right_shift(stored, bits - 8)
    return stored.transpose(2, 0, 1).astype(np.float32, order="C")


def is_colour(described: Dataset) -> bool:
    """True where a frame becomes RGB."""
    photometric = str(described.get("PhotometricInterpretation", ""))
    return photometric == "PALETTE COLOR" or int(described.get("SamplesPerPixel", 1)) == 3


def _range_ends(described: Dataset) -> int:
    """Smallest plus largest value that can be stored: what an inverted value and its original add up to."""
    return -1 if int(described.PixelRepresentation) == 1 else (1 << int(described.BitsStored)) - 1


def _padding(stored: Stored, described: Dataset) -> npt.NDArray[np.bool_] | None:
    value = described.get("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return None
    limit = described.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    padding: npt.NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padding if padding.any() else None
