"""DICOM files and series folders.

A single frame is a 2-D image; a series of slices, or an enhanced multi-frame file, is a volume whose slices
are ordered by position along their normal. What is no regular stack is refused, never guessed.
"""

import hashlib
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_pixels import (
    colour_values,
    decode,
    fill_padding,
    grey_values,
    is_colour,
    reading,
)
from fedmed_edge.images.geometry import order_slices, spacing
from fedmed_edge.images.image import Float32, Float64, Image, check_finite, check_size, sides

_logger = logging.getLogger(__name__)

FILES_CAP = 20_000
_INFLATED_CAP = 1 << 30

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# Objects with pixel data that are no acquired image.
_NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}
# Samples a pixel of what is taken. Others (HSV, CMYK, YBR_PARTIAL) are retired or mean no single colour.
_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
# Files that lie about in exported folders and are no slices.
_BYSTANDERS = {
    *(".txt", ".csv", ".json", ".xml", ".md", ".html", ".htm", ".pdf", ".ini", ".db", ".log", ".inf"),
    *("DICOMDIR", "README", "VERSION", "LOCKFILE"),
}


@dataclass(frozen=True)
class _Frame:
    """Where one slice lies: in which file, at which place in the patient."""

    path: Path
    index: int
    position: Float64
    orientation: Float64
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float


def read_dicom(path: Path) -> Image:
    """Read a DICOM file: one frame as a 2-D image, an enhanced multi-frame file as a volume.

    Returns:
        Image of (1 or 3, rows, columns) float32, or of (1, columns, rows, slices).

    Raises:
        InputError: The file holds no image, a cine, colours in a volume or frames that are no regular
            stack, is too large, broken, cut off, or cannot be decoded here.

    Source: DICOM PS3.3 C.7.6.3 (image pixel), C.7.6.16 (functional groups), C.11.1 (modality LUT).
    """
    header = _read_header(path)
    with reading(path):
        if int(header.get("NumberOfFrames") or 1) > 1:
            return _volume(path, header, _enhanced_frames(path, header))
        return _flat(path, header)


def read_series(folder: Path) -> Image:
    """Read a folder that holds the files of one series; a series of one slice is a 2-D image.

    Files of other kinds and objects without pixels (reports, presentation states) are passed over.

    Returns:
        As `read_dicom`.

    Raises:
        InputError: The folder holds no DICOM image or several series or patients; slices differ in size,
            spacing or orientation, are missing, lie twice at one position or out of place; or a file of it
            cannot be read.

    Source: DICOM PS3.3 C.7.6.2 (image plane).
    """
    with reading(folder):
        return _series(folder)


def _series(folder: Path) -> Image:
    read = [(path, _read_header(path, need_image=False)) for path in _series_files(folder)]
    headers = _without_copies(folder, [(path, header) for path, header in read if "Rows" in header])
    _logger.debug("%d files, of them %d without pixels or copies", len(read), len(read) - len(headers))
    if not headers:
        raise InputError(f"{folder}: folder holds no DICOM image")
    _check_one_series(folder, [header for _, header in headers])
    if len(headers) == 1:
        return replace(read_dicom(headers[0][0]), source=folder)
    _check_alike(headers)
    frames = []
    for path, header in headers:
        with reading(path):
            frames.append(_plain_frame(path, header))
    return _volume(folder, headers[0][1], frames)


def _read_header(path: Path, *, need_image: bool = True) -> Dataset:
    with reading(path):
        _check_inflated(path)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        for _ in header:
            # pydicom converts a value when it is first looked at: now, where a broken one names its file.
            pass
        sop_class = str(header.get("SOPClassUID", ""))
        if sop_class in _NO_IMAGES:
            raise InputError(f"{path}: file holds {_NO_IMAGES[sop_class]}, expected an image")
        if "Rows" not in header and need_image:
            raise InputError(f"{path}: DICOM file holds no image")
        if "Rows" in header:
            _check_kind(path, header)
    return header


def _check_kind(path: Path, header: Dataset) -> None:
    # A missing one is a broken file: reading it raises.
    samples, photometric = int(header.SamplesPerPixel), str(header.PhotometricInterpretation)
    _ = int(header.Rows), int(header.Columns)
    if samples != _SAMPLES.get(photometric):
        raise InputError(f"{path}: image has {samples} samples of {photometric}, expected grey, RGB or YBR")


def _check_inflated(path: Path) -> None:
    """Refuse a deflated file whose content is over the cap, before pydicom inflates it in one go."""
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        # Preamble, prefix and the group length element itself stand before what the group length counts.
        file.seek(144 + int(meta.FileMetaInformationGroupLength))
        while chunk := inflater.unconsumed_tail or file.read(1 << 16):
            inflated += len(inflater.decompress(chunk, 1 << 20))
            if inflated > _INFLATED_CAP:
                raise InputError(f"{path}: deflated file has more than {_INFLATED_CAP} bytes inflated")


def _series_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.suffix.lower() in _BYSTANDERS or path.name in _BYSTANDERS:
            continue
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] != b"DICM":
            raise InputError(f"{path}: not a DICOM file, expected only those in the folder of a series")
        found.append(path)
        if len(found) > FILES_CAP:
            raise InputError(f"{folder}: folder has more than {FILES_CAP} files, expected one series")
    return found


def _without_copies(folder: Path, headers: list[tuple[Path, Dataset]]) -> list[tuple[Path, Dataset]]:
    seen: dict[str, Path] = {}
    kept = []
    for path, header in headers:
        uid = str(header.get("SOPInstanceUID", path))
        if uid not in seen:
            seen[uid] = path
            kept.append((path, header))
        elif _content(path) != _content(seen[uid]):
            raise InputError(
                f"{folder}: {seen[uid].name} and {path.name} are one instance (SOPInstanceUID) "
                "with different content"
            )
    return kept


def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _check_one_series(folder: Path, headers: Sequence[Dataset]) -> None:
    for keyword, things in (
        ("PatientID", "patients"),
        ("StudyInstanceUID", "studies"),
        ("SeriesInstanceUID", "series"),
    ):
        count = len({str(header.get(keyword, "")) for header in headers})
        if count > 1:
            raise InputError(
                f"{folder}: folder holds {count} {things}, expected one",
                hint="give each series its own folder",
            )


def _check_alike(headers: list[tuple[Path, Dataset]]) -> None:
    first = headers[0][1]
    for path, header in headers:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise InputError(f"{path}: file has several frames, expected it alone in its folder")
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "Modality"):
            got, wanted = header.get(keyword, ""), first.get(keyword, "")
            if got != wanted:
                raise InputError(f"{path}: `{keyword}` has {got}, expected {wanted} as in the first file")


def _plain_frame(path: Path, header: Dataset) -> _Frame:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if not header.get(keyword):
            raise InputError(f"{path}: slice has no `{keyword}`, expected one for a volume")
    slope, intercept = _rescale(header, 0)
    return _frame(path, 0, header, header, header, slope, intercept)


def _enhanced_frames(path: Path, header: Dataset) -> list[_Frame]:
    count = int(header.NumberOfFrames)
    # Before one object a frame is made.
    check_size(path, (int(header.Rows), int(header.Columns)), count)
    frames = []
    for index in range(count):
        place = _macro(header, index, "PlanePositionSequence", "ImagePositionPatient")
        plane = _macro(header, index, "PlaneOrientationSequence", "ImageOrientationPatient")
        measures = _macro(header, index, "PixelMeasuresSequence", "PixelSpacing")
        if place is None or plane is None or measures is None:
            raise InputError(
                f"{path}: image has {count} frames without a place in the patient each (a cine or a slide), "
                "expected a single frame or an enhanced volume"
            )
        frames.append(_frame(path, index, place, plane, measures, *_rescale(header, index)))
    return frames


def _macro(header: Dataset, index: int, sequence: str, keyword: str) -> Dataset | None:
    """The functional group item of a frame that holds `keyword`: its own, else the one all frames share."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in [*per_frame[index : index + 1], *shared[:1]]:
        items = group.get(sequence) or []
        if items and keyword in items[0]:
            item: Dataset = items[0]
            return item
    return None


def _rescale(header: Dataset, index: int) -> tuple[float, float]:
    item = _macro(header, index, "PixelValueTransformationSequence", "RescaleSlope") or header
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _frame(
    path: Path, index: int, place: Dataset, plane: Dataset, measures: Dataset, slope: float, intercept: float
) -> _Frame:
    position = np.array([float(mm) for mm in place.ImagePositionPatient])
    orientation = np.array([float(cosine) for cosine in plane.ImageOrientationPatient])
    row_mm, column_mm = (float(mm) for mm in measures.PixelSpacing)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise InputError(f"{path}: `ImagePositionPatient` has no three numbers")
    axes = orientation.reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 0.01:
        raise InputError(f"{path}: `ImageOrientationPatient` has no two unit vectors at a right angle")
    if not (0 < row_mm < 1e4 and 0 < column_mm < 1e4):
        raise InputError(f"{path}: `PixelSpacing` has {row_mm} and {column_mm} mm, expected more than 0")
    return _Frame(path, index, position, orientation, (row_mm, column_mm), slope, intercept)


def _flat(path: Path, header: Dataset) -> Image:
    check_size(path, (int(header.Rows), int(header.Columns)))
    stored, described = decode(path)
    modality = str(header.get("Modality") or "")
    if is_colour(described):
        pixels = colour_values(stored[0], described)
    else:
        pixels = grey_values(stored[0], described, modality, *_rescale(header, 0))[None]
        fill_padding(pixels)
    check_finite(path, pixels)
    return Image(pixels, None, _flat_spacing(header), modality, "dicom", path)


def _flat_spacing(header: Dataset) -> tuple[float, float] | None:
    measures = _macro(header, 0, "PixelMeasuresSequence", "PixelSpacing") or header
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        stated = measures.get(keyword)
        if stated and len(stated) == 2 and min(float(mm) for mm in stated) > 0:
            return float(stated[0]), float(stated[1])
    return None


def _volume(source: Path, header: Dataset, frames: list[_Frame]) -> Image:
    rows, columns = int(header.Rows), int(header.Columns)
    check_size(source, (columns, rows, len(frames)))
    if is_colour(header):
        raise InputError(f"{source}: volume has colours, expected grey slices")
    for frame in frames[1:]:
        if not np.allclose(frame.spacing_mm, frames[0].spacing_mm, rtol=1e-3):
            raise InputError(
                f"{frame.path}: `PixelSpacing` has {frame.spacing_mm}, expected {frames[0].spacing_mm} "
                "as in the first file"
            )
    orientations = np.stack([frame.orientation for frame in frames])
    order, step = order_slices(np.stack([frame.position for frame in frames]), orientations, str(source))
    ordered = [frames[index] for index in order]
    modality = str(header.get("Modality") or "")
    pixels = _stack(ordered, (rows, columns), modality)
    fill_padding(pixels)
    check_finite(source, pixels)
    affine = _affine(ordered[0], step)
    return Image(pixels.T[None], affine, spacing(affine), modality, "dicom", source)


def _stack(frames: list[_Frame], shape: tuple[int, int], modality: str) -> Float32:
    """Rescaled values (slices, rows, columns) of frames that are ordered already."""
    pixels = np.empty((len(frames), *shape), np.float32)
    current, stored, described = None, None, Dataset()
    for place, frame in enumerate(frames):
        if frame.path != current:
            stored, described = decode(frame.path)
            current = frame.path
        if stored is None or stored.shape[1:] != shape or frame.index >= len(stored):
            got = "none" if stored is None else sides(stored.shape)
            raise InputError(f"{frame.path}: pixel data have size {got}, expected {sides(shape)} a frame")
        pixels[place] = grey_values(stored[frame.index], described, modality, frame.slope, frame.intercept)
    return pixels


def _affine(first: _Frame, step: Float64) -> Float64:
    """Voxel index (column, row, slice) → RAS mm; DICOM's own axes run to left, posterior, superior."""
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing_mm[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
