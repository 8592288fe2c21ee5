"""DICOM pixels: a file, a series folder or a grouped series → Image; a mask → back on the source frames.

A single frame is a 2-D image; a series of slices, or an enhanced multi-frame file, is a volume whose slices
are ordered by position along their normal. What is no regular stack is refused, never guessed; `lenient`
resamples it to one and says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import reading
from fedmed_edge.images.dicom_headers import (
    derived_kind,
    read_header,
    rescale,
    stated_spacing,
)
from fedmed_edge.images.dicom_pixels import (
    Stored,
    colour_values,
    decode,
    fill_padding,
    grey_values,
    is_colour,
)
from fedmed_edge.images.geometry import spacing
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.image import Float32, Float64, Image, UInt8, check_finite, check_size, sides
from fedmed_edge.images.regrid import on_frames, straightened
from fedmed_edge.images.series import Frame, Series
from fedmed_edge.images.stacks import Stack
from fedmed_edge.words import counted

FILES_CAP = 20_000

# Files that lie about in exported folders and are no slices.
_BYSTANDERS = {
    *(".txt", ".csv", ".json", ".xml", ".md", ".html", ".htm", ".pdf", ".ini", ".db", ".log", ".inf"),
    *("DICOMDIR", "README", "VERSION", "LOCKFILE"),
}
# Of several series, so many are named.
_NAMED = 3
_NO_PLACE = (
    "image has {count} frames without a place in the patient each (a cine or a slide), "
    "expected a single frame or an enhanced volume"
)


def read_dicom(path: Path) -> Image:
    """Read a DICOM file: one frame as a 2-D image, an enhanced multi-frame file as a volume.

    Returns:
        Image of (1 or 3, rows, columns) float32, or of (1, columns, rows, slices).

    Raises:
        InputError: The file holds no image, a cine, colours in a volume or frames that are no regular
            stack, is too large, broken, cut off, or cannot be decoded here.

    Source: DICOM PS3.3 C.7.6.3 (image pixel), C.7.6.16 (functional groups), C.11.1 (modality LUT).
    """
    header = read_header(path)
    with reading(path):
        if int(header.get("NumberOfFrames") or 1) == 1:
            return _flat(path, header)
    return _image(_one_series(path, [path]), path)


def read_series(folder: Path) -> Image:
    """Read a folder that holds the files of one series; a series of one slice is a 2-D image.

    Files of other kinds and objects without pixels (reports, presentation states) are passed over.

    Returns:
        As `read_dicom`.

    Raises:
        InputError: The folder holds no DICOM image or several series (slices that differ in size, spacing
            or orientation are), patients or contents of one instance; slices are missing, lie twice at one
            position or out of place; or a file of it cannot be read.

    Source: DICOM PS3.3 C.7.6.2 (image plane).
    """
    with reading(folder):
        return _image(_one_series(folder, _series_files(folder)), folder)


def read_volume(series: Series, *, lenient: bool = False, compact: bool = False) -> Image:
    """Read a stack of slices.

    Args:
        lenient: Resample what is no regular stack to a straight one, and say so in `warnings`.
        compact: Keep `pixels` as int16 where every value is a whole number that fits, as those of CT and MR
            are: half the memory.

    Returns:
        Image of (1, columns, rows, slices); slice k is frame k of a regular stack.

    Raises:
        InputError: The frames are no stack, have colours, cannot be decoded, or are no regular stack.
    """
    where, stack = series.place, series.stack
    if stack is None:
        raise InputError(f"{where}: series has no stack of slices, expected one for a volume")
    if series.colour:
        raise InputError(f"{where}: volume has colours, expected grey slices")
    stack.require_regular(str(where), lenient=lenient)
    check_size(where, (series.columns, series.rows, len(series.frames)))
    with reading(where):
        pixels = _stack(where, series.frames, (series.rows, series.columns), series.modality, compact=compact)
        image = _placed(where, pixels, series.frames[0], stack, series.modality)
    return replace(image, warnings=(*series.warnings, *image.warnings))


def read_frames(series: Series) -> Iterator[Image]:
    """Read each frame as a 2-D image, one at a time, in the order of `series.frames`.

    Raises:
        InputError: A file cannot be decoded.
    """
    decoded: Path | None = None
    for frame in series.frames:
        with reading(frame.path):
            if frame.path != decoded:
                decoded = frame.path
                header = read_header(frame.path)
                stored, described = decode(frame.path)
            image = _flat_frame(frame, header, stored, described)
        yield replace(image, warnings=series.warnings)


def grid_of(series: Series) -> tuple[Float64, tuple[int, int, int]]:
    """Affine (4, 4) to RAS mm and shape (columns, rows, slices) of the volume that `read_volume` reads.

    Raises:
        InputError: The frames are no stack.
    """
    if series.stack is None:
        raise InputError(f"{series.files[0]}: series has no stack of slices, expected one for a volume")
    slices = round(float(series.stack.heights[-1]) / series.stack.distance_mm) + 1
    return _affine(series.frames[0], series.stack), (series.columns, series.rows, slices)


def frame_masks(mask: UInt8, series: Series) -> UInt8:
    """Bring the mask of a volume back onto the frames that it was read from.

    Args:
        mask: Of the shape of the image that `read_volume` gave.

    Returns:
        (frames, rows, columns) uint8 in the order of `series.frames`.
    """
    stack = series.stack
    if stack is None or not stack.faults:
        return np.ascontiguousarray(mask.T)
    first = series.frames[0]
    assert first.orientation is not None and first.spacing_mm is not None
    return on_frames(mask.T, stack, first.orientation, first.spacing_mm)


def _one_series(where: Path, files: Sequence[Path]) -> Series:
    """The one series that files hold; for training, all that is strange about them is a reason to refuse."""
    found = group_files(files)
    for _, error in found.refused:
        raise error
    for path, _ in found.others:
        kind = derived_kind(read_header(path, need_image=False))
        if kind:
            raise InputError(f"{path}: file holds {kind}, expected an image")
    if not found.series:
        raise InputError(f"{where}: folder holds no DICOM image")
    if len(found.series) > 1:
        told = [
            " ".join(
                f"{one.files[0].name}: {one.modality} {one.orientation} {one.rows}x{one.columns}".split()
            )
            for one in found.series[:_NAMED]
        ]
        more = ", …" if len(found.series) > _NAMED else ""
        raise InputError(
            f"{where}: holds {len(found.series)} series ({', '.join(told)}{more}), expected one",
            hint="give each series its own folder",
        )
    (series,) = found.series
    if any(note.startswith("copies:") for note in series.warnings):
        raise InputError(f"{where}: one instance (SOPInstanceUID) lies there twice with different content")
    return series


def _image(series: Series, source: Path) -> Image:
    """A volume, or the 2-D image of a single frame."""
    count, files = len(series.frames), len(series.files)
    if series.is_volume:
        return replace(read_volume(series), source=source)
    if count > 1 and files == 1:
        raise InputError(f"{series.files[0]}: {_NO_PLACE.format(count=count)}")
    if count > 1:
        raise InputError(
            f"{source}: {count} slices have no place in the patient (`ImagePositionPatient`, "
            "`ImageOrientationPatient`, `PixelSpacing`), expected one each for a volume"
        )
    (image,) = read_frames(series)
    return replace(image, source=source)


def _series_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.suffix.lower() in _BYSTANDERS or path.name in _BYSTANDERS:
            continue
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] != b"DICM":
            raise InputError(
                f"{path}: not a DICOM file, expected only those in the folder of a series",
                hint="images of other formats may lie deeper where a labels.csv names each",
            )
        found.append(path)
        if len(found) > FILES_CAP:
            raise InputError(f"{folder}: folder has more than {FILES_CAP} files, expected one series")
    return found


def _flat(path: Path, header: Dataset) -> Image:
    check_size(path, (int(header.Rows), int(header.Columns)))
    frame = Frame(path, 0, "", None, None, stated_spacing(header), *rescale(header, 0))
    return _flat_frame(frame, header, *decode(path))


def _flat_frame(frame: Frame, header: Dataset, stored: Stored, described: Dataset) -> Image:
    shape = (int(header.Rows), int(header.Columns))
    _check_decoded(frame, stored, shape)
    modality = str(header.get("Modality") or "")
    if is_colour(described):
        pixels = colour_values(stored[frame.index], described)
    else:
        pixels = grey_values(stored[frame.index], described, modality, frame.slope, frame.intercept)[None]
        fill_padding(pixels)
    check_finite(frame.path, pixels)
    return Image(pixels, None, frame.spacing_mm, modality, "dicom", frame.path)


def _check_decoded(frame: Frame, stored: Stored | None, shape: tuple[int, int]) -> None:
    if stored is None or stored.shape[1:3] != shape or frame.index >= len(stored):
        got = "none" if stored is None else sides(stored.shape)
        raise InputError(f"{frame.path}: pixel data have size {got}, expected {sides(shape)} a frame")


def _stack(
    where: Path, frames: Sequence[Frame], shape: tuple[int, int], modality: str, *, compact: bool = False
) -> npt.NDArray[Any]:
    """Rescaled values (slices, rows, columns) of frames that are ordered already, slice by slice.

    Beside the volume itself no more than a slice and a bit a voxel is held at any time.
    """
    pixels: npt.NDArray[Any] = np.empty((len(frames), *shape), np.int16 if compact else np.float32)
    padding: dict[int, npt.NDArray[np.uint8]] = {}
    low, bad, current, stored, described = np.inf, 0, None, None, Dataset()
    for place, frame in enumerate(frames):
        if frame.path != current:
            stored, described = decode(frame.path)
            current = frame.path
        _check_decoded(frame, stored, shape)
        assert stored is not None
        values = grey_values(stored[frame.index], described, modality, frame.slope, frame.intercept)
        padded = np.isneginf(values)
        if padded.any():
            padding[place] = np.packbits(padded)
            inner = values[~padded]
            values[padded] = inner.min() if inner.size else 0
            low = min(low, float(inner.min())) if inner.size else low
        else:
            low = min(low, float(values.min()))
        bad += int(values.size - np.count_nonzero(np.isfinite(values)))
        if pixels.dtype == np.int16 and not _are_int16(values):
            pixels = pixels.astype(np.float32)
        pixels[place] = values
    if bad:
        raise InputError(
            f"{where}: {counted(bad, 'pixel is', 'pixels are')} NaN or infinite, expected numbers"
        )
    for place, bits in padding.items():
        inside = np.unpackbits(bits, count=pixels[place].size).reshape(shape).astype(bool)
        pixels[place][inside] = low if np.isfinite(low) else 0
    return pixels


def _are_int16(values: Float32) -> bool:
    return bool(
        values.min() >= -(1 << 15) and values.max() < 1 << 15 and np.array_equal(values, np.rint(values))
    )


def _placed(source: Path, pixels: npt.NDArray[Any], first: Frame, stack: Stack, modality: str) -> Image:
    """Slices with their affine, resampled first where they are no regular stack."""
    assert first.orientation is not None and first.spacing_mm is not None
    notes = []
    if stack.faults:
        pixels = straightened(
            pixels.astype(np.float32, copy=False), stack, first.orientation, first.spacing_mm
        )
        notes += [f"resampled: {fault.text}; resampled to a straight stack" for fault in stack.faults]
    if stack.tilted:
        notes.append(f"tilt: slices are stacked {stack.tilt_degrees:.1f} degrees off their normal")
    affine = _affine(first, stack)
    return Image(pixels.T[None], affine, spacing(affine), modality, "dicom", source, tuple(notes))


def _affine(first: Frame, stack: Stack) -> Float64:
    """Voxel index (column, row, slice) → RAS mm; DICOM's own axes run to left, posterior, superior."""
    assert first.orientation is not None and first.spacing_mm is not None and first.position is not None
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing_mm[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing_mm[0]
    affine[:3, 2] = stack.step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
