"""DICOM segmentations (SEG) → class numbers on the grid of an image.

Segments become classes by name where every SegmentLabel is a class name, else by number. Frames are laid on
the image's grid by their own place in the patient, whichever way they run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import read_elements, reading
from fedmed_edge.images.dicom_headers import (
    LABEL_MAP,
    SEGMENTATION,
    frames_of,
    functional_group,
    read_header,
)
from fedmed_edge.images.dicom_pixels import decode
from fedmed_edge.images.geometry import SAME_GRID
from fedmed_edge.images.image import Float64, Image, UInt8
from fedmed_edge.images.series import Frame

_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Target:
    """The grid that a mask is brought to.

    Attributes:
        shape: (columns, rows, slices) of a volume, (rows, columns) of a 2-D image.
        affine_ras: (4, 4) of a volume; None for a 2-D image.
        instance_uid: SOPInstanceUID of a 2-D image; empty where it is not known.
        name: For messages.
    """

    shape: tuple[int, ...]
    affine_ras: Float64 | None
    instance_uid: str
    name: str


def target_of(image: Image) -> Target:
    """The grid of an image."""
    uid = ""
    if image.dimensions == 2 and image.format == "dicom" and image.source.is_file():
        with reading(image.source):
            uid = str(read_header(image.source).get("SOPInstanceUID", ""))
    return Target(image.shape, image.affine_ras, uid, image.source.name)


def segment_labels(path: Path) -> dict[int, str]:
    """SegmentLabel of every segment number of a file; the background of a label map left out.

    Raises:
        InputError: The file is no segmentation, or broken.
    """
    with reading(path):
        header = _header(path)
        labels = {int(one.SegmentNumber): str(one.SegmentLabel) for one in header.SegmentSequence}
        return {number: label for number, label in labels.items() if number > 0}


def classes_by_segment(path: Path, names: Sequence[str], classes: int) -> dict[int, int]:
    """Class number of every segment number of a file.

    Args:
        names: Class names in order; empty: numbers alone count.

    Raises:
        InputError: Some labels are class names and others are not, or a number is no class.
    """
    labels, known = segment_labels(path), {name.casefold(): number for number, name in enumerate(names)}
    named = {number: known[label.casefold()] for number, label in labels.items() if label.casefold() in known}
    if labels and len(named) == len(labels):
        return named
    if named:
        other = next(label for number, label in labels.items() if number not in named)
        raise InputError(
            f"{path}: segment `{other}` is no class, but others are; expected {', '.join(names)}",
            hint="name the segments as the classes, or number them as the classes and give them other names",
        )
    for number, label in labels.items():
        if number >= classes:
            raise InputError(f"{path}: segment {number} `{label}` is no class, expected 1 to {classes - 1}")
    return {number: number for number in labels}


def read_segments(path: Path, target: Target, class_of: Mapping[int, int]) -> UInt8:
    """Read a segmentation as class numbers on a grid; 0 where no segment is.

    Args:
        class_of: Segment number → class number; other segments are passed over.

    Returns:
        uint8 of `target.shape`.

    Raises:
        InputError: The file is broken, lies on another grid, or two segments of different classes overlap.

    Source: DICOM PS3.3 C.8.20 (segmentation), C.7.6.16 (functional groups).
    """
    with reading(path):
        header = _header(path)
        frames = frames_of(path, header)
        out = np.zeros(target.shape, np.uint8)
        for frame, number, inside in _segment_frames(path, header, frames):
            if number in class_of and inside.any() and _concerns(header, frame, target):
                _lay(path, out, target, frame, inside, class_of[number])
        return out


def classes_inside(path: Path, class_of: Mapping[int, int]) -> set[int]:
    """Class numbers that a segmentation holds, the background among them.

    Raises:
        InputError: The file is broken.
    """
    with reading(path):
        header = _header(path)
        frames = frames_of(path, header)
        numbers = {n for _, n, inside in _segment_frames(path, header, frames) if inside.any()}
        return {0, *(class_of[number] for number in numbers if number in class_of)}


def _header(path: Path) -> Dataset:
    header = read_elements(path)
    if str(header.get("SOPClassUID", "")) not in (SEGMENTATION, LABEL_MAP):
        raise InputError(f"{path}: file holds no segmentation, expected a DICOM SEG as a mask")
    return header


def _segment_frames(
    path: Path, header: Dataset, frames: list[Frame]
) -> Iterator[tuple[Frame, int, npt.NDArray[np.bool_]]]:
    """Each frame with each segment number in it and where that is."""
    stored, _ = decode(path)
    if len(stored) != len(frames):
        raise InputError(f"{path}: pixel data have {len(stored)} frames, expected {len(frames)}")
    if str(header.SOPClassUID) == LABEL_MAP:
        for frame, values in zip(frames, stored, strict=True):
            for number in np.unique(values):
                yield frame, int(number), values == number
        return
    # A fraction of the highest value in a FRACTIONAL one: at least half counts.
    half = float(header.get("MaximumFractionalValue", 1)) / 2
    for frame, values in zip(frames, stored, strict=True):
        item = functional_group(
            header, frame.index, "SegmentIdentificationSequence", "ReferencedSegmentNumber"
        )
        if item is None:
            raise InputError(f"{path}: frame {frame.index + 1} names no segment (`ReferencedSegmentNumber`)")
        yield frame, int(item.ReferencedSegmentNumber), values >= half


def _concerns(header: Dataset, frame: Frame, target: Target) -> bool:
    """Whether a frame is about a 2-D image: it says so, or says nothing."""
    if target.affine_ras is not None or not target.instance_uid:
        return True
    item = functional_group(header, frame.index, "DerivationImageSequence", "SourceImageSequence")
    sources = item.SourceImageSequence if item is not None else []
    named = {str(source.ReferencedSOPInstanceUID) for source in sources}
    return not named or target.instance_uid in named


def _lay(
    path: Path,
    out: UInt8,
    target: Target,
    frame: Frame,
    inside: npt.NDArray[np.bool_],
    number: int,
) -> None:
    place = out if target.affine_ras is None else _slice_of(path, out, target, frame, inside.shape)
    if place.shape != inside.shape:
        raise InputError(
            f"{path}: segmentation has size {inside.shape[0]}x{inside.shape[1]}, expected "
            f"{place.shape[0]}x{place.shape[1]} as {target.name}"
        )
    there = place[inside]
    if ((there != 0) & (there != number)).any():
        raise InputError(
            f"{path}: segments of two classes overlap on {target.name}, expected one class a pixel"
        )
    place[inside] = number


def _slice_of(path: Path, out: UInt8, target: Target, frame: Frame, shape: tuple[int, ...]) -> UInt8:
    """The plane of the volume that a frame lies on, as a view of the frame's rows and columns.

    Raises:
        InputError: It lies on none.
    """
    if frame.position is None or frame.orientation is None or frame.spacing_mm is None:
        raise InputError(f"{path}: frame {frame.index + 1} has no place in the patient")
    assert target.affine_ras is not None
    inverse = np.linalg.inv(target.affine_ras)
    first = (inverse @ [*(_TO_RAS @ frame.position), 1])[:3]
    per_column = inverse[:3, :3] @ _TO_RAS @ frame.orientation[:3] * frame.spacing_mm[1]
    per_row = inverse[:3, :3] @ _TO_RAS @ frame.orientation[3:] * frame.spacing_mm[0]
    ends = [(r, c) for r in (0, shape[0] - 1) for c in (0, shape[1] - 1)]
    corners = np.array([first + r * per_row + c * per_column for r, c in ends])
    row_axis, column_axis = int(np.abs(per_row).argmax()), int(np.abs(per_column).argmax())
    steps = np.zeros((2, 3))
    steps[0, row_axis], steps[1, column_axis] = np.sign(per_row[row_axis]), np.sign(per_column[column_axis])
    start = np.rint(first)
    wanted = np.array([start + r * steps[0] + c * steps[1] for r, c in ends])
    within = (wanted >= 0).all() and (wanted < out.shape).all()
    if row_axis == column_axis or np.abs(corners - wanted).max() > SAME_GRID or not within:
        raise InputError(
            f"{path}: frame {frame.index + 1} lies on no slice of {target.name}, expected the same grid",
            hint="is it the segmentation of another series?",
        )
    (plane_axis,) = {0, 1, 2} - {row_axis, column_axis}
    view = np.moveaxis(out, (row_axis, column_axis, plane_axis), (0, 1, 2))[..., int(start[plane_axis])]
    rows = _along(int(start[row_axis]), int(steps[0, row_axis]), shape[0])
    columns = _along(int(start[column_axis]), int(steps[1, column_axis]), shape[1])
    found: UInt8 = view[rows, columns]
    return found


def _along(start: int, step: int, count: int) -> slice:
    if step > 0:
        return slice(start, start + count)
    end = start - count
    return slice(start, end if end >= 0 else None, -1)
