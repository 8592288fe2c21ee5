"""Radiotherapy structures (RTSTRUCT) → class numbers on the grid of a volume.

Each structure is a set of polygons on slices; a voxel belongs to it where its centre lies inside an odd
number of them, so that a polygon within another is a hole.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import read_elements, reading
from fedmed_edge.images.dicom_headers import STRUCTURE_SET
from fedmed_edge.images.image import Float64, UInt8
from fedmed_edge.images.segments import Target

# How far from its slice's plane a polygon's points may lie, in slices.
_OFF_PLANE = 0.25
_POLYGONS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


def structure_names(path: Path) -> dict[int, str]:
    """ROIName of every ROI number of a file.

    Raises:
        InputError: The file is no structure set, or broken.
    """
    with reading(path):
        return {int(one.ROINumber): str(one.ROIName) for one in _structures(path).StructureSetROISequence}


def read_structures(path: Path, target: Target, class_of: Mapping[int, int]) -> UInt8:
    """Rasterise structures on the grid of a volume; 0 where none is.

    Args:
        target: Of a volume.
        class_of: ROI number → class number; other structures are passed over.

    Returns:
        uint8 of `target.shape`.

    Raises:
        InputError: A polygon lies between slices or outside the volume, or structures of two classes overlap.

    Source: DICOM PS3.3 C.8.8.6 (ROI contour).
    """
    if target.affine_ras is None:
        raise InputError(f"{path}: structures lie in a volume, expected one, not {target.name}")
    with reading(path):
        header = _structures(path)
        out = np.zeros(target.shape, np.uint8)
        for roi in header.get("ROIContourSequence") or []:
            number = int(roi.ReferencedROINumber)
            if number not in class_of:
                continue
            inside = _inside(path, roi, target)
            there = out[inside]
            if ((there != 0) & (there != class_of[number])).any():
                raise InputError(f"{path}: structures of two classes overlap, expected one class a voxel")
            out[inside] = class_of[number]
        return out


def _structures(path: Path) -> Dataset:
    header = read_elements(path)
    if str(header.get("SOPClassUID", "")) != STRUCTURE_SET:
        raise InputError(f"{path}: file holds no structure set, expected an RTSTRUCT")
    return header


def _inside(path: Path, roi: Dataset, target: Target) -> npt.NDArray[np.bool_]:
    """Voxels of one structure: polygons on one slice are counted together."""
    assert target.affine_ras is not None
    inverse = np.linalg.inv(target.affine_ras) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    inside = np.zeros(target.shape, np.bool_)
    for contour in roi.get("ContourSequence") or []:
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in _POLYGONS:
            continue  # points and open lines enclose nothing
        points = np.array([float(mm) for mm in contour.ContourData]).reshape(-1, 3)
        index = (inverse @ np.vstack([points.T, np.ones(len(points))]))[:3].T
        axis, place = _plane(path, index, target)
        flat = np.delete(index, axis, axis=1)
        view = np.moveaxis(inside, axis, 2)[..., place]
        view ^= polygon_mask(flat, (view.shape[0], view.shape[1]))
    return inside


def _plane(path: Path, index: Float64, target: Target) -> tuple[int, int]:
    """The axis of the volume that a polygon is flat along, and the slice that it lies on."""
    axis = int(np.ptp(index, axis=0).argmin())
    place = round(float(index[:, axis].mean()))
    if np.abs(index[:, axis] - place).max() > _OFF_PLANE:
        off = float(np.abs(index[:, axis] - place).max())
        raise InputError(f"{path}: a polygon lies {off:.2f} slices off one of {target.name}, expected on it")
    if not 0 <= place < target.shape[axis]:
        raise InputError(
            f"{path}: a polygon lies outside {target.name}, expected inside",
            hint="are they the structures of another series?",
        )
    return axis, place


def polygon_mask(points: Float64, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Grid points inside a polygon, which may cross itself: an odd number of edges lies before each.

    Args:
        points: (n, 2) corners in index coordinates; the last is joined to the first.
        shape: Of the grid; grid points lie at whole numbers.

    Returns:
        bool of `shape`.

    Example:
        >>> polygon_mask(np.array([[0.5, 0.5], [0.5, 2.5], [2.5, 2.5], [2.5, 0.5]]), (4, 4)).sum()
        np.int64(4)
    """
    starts, ends = points, np.roll(points, -1, axis=0)
    rows = np.arange(shape[0])[:, None]
    # Half-open, so that a corner on a row counts once.
    crosses = (starts[:, 0] <= rows) != (ends[:, 0] <= rows)
    row, edge = np.nonzero(crosses)
    rise = ends[edge, 0] - starts[edge, 0]
    at = starts[edge, 1] + (row - starts[edge, 0]) / rise * (ends[edge, 1] - starts[edge, 1])
    # The first grid point behind the crossing; from it on the count is one more.
    first = np.clip(np.ceil(at), 0, shape[1]).astype(np.intp)
    flips = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(flips, (row, first), 1)
    inside: npt.NDArray[np.bool_] = np.cumsum(flips, axis=1)[:, :-1] % 2 == 1
    return inside
