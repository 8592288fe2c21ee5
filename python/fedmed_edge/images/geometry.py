"""Affines and slice positions: how array axes lie in the patient."""

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError

# Largest distance, in voxels, between where two affines put one corner, for them to be the same grid.
SAME_GRID = 0.1
# A slice may lie this far from its regular place, as a share of the slice distance (and at least 0.01 mm).
IRREGULAR = 0.05

Float64 = npt.NDArray[np.float64]


def spacing(affine: Float64) -> tuple[float, ...]:
    """Distance in mm of neighbouring voxels along each array axis.

    Example:
        >>> spacing(np.diag([1.0, -2.0, 3.0, 1.0]))
        (1.0, 2.0, 3.0)
    """
    return tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))


def world_axes(affine: Float64) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The patient axis that each array axis runs along, and in which direction.

    The linear part is brought to its nearest rotation (polar decomposition); then the array axis that lies
    closest to a patient axis takes it, and so on.

    Returns:
        Patient axis (0 right, 1 anterior, 2 superior) of each array axis; 1 or -1 for each array axis.

    Example:
        >>> world_axes(np.array([[0.0, -2, 0, 0], [1, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]))
        ((1, 0, 2), (1, -1, 1))
    """
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(unit)
    rotation = left @ right
    axes, directions = [0, 0, 0], [1, 1, 1]
    for array_axis in np.argsort(-np.max(rotation**2, axis=0), kind="stable"):
        patient_axis = int(np.argmax(np.abs(rotation[:, array_axis])))
        axes[array_axis] = patient_axis
        directions[array_axis] = -1 if rotation[patient_axis, array_axis] < 0 else 1
        rotation[patient_axis, :] = 0
    return tuple(axes), tuple(directions)


def carry_axes(
    values: npt.NDArray[np.generic], affine: Float64, target: Float64
) -> npt.NDArray[np.generic] | None:
    """Permute and flip the axes of `values` so that its affine becomes `target`.

    Args:
        values: (i, j, k) on the grid of `affine`.
        affine, target: (4, 4) to the same patient coordinates.

    Returns:
        `values` with its axes changed, or None where no change of axes makes the grids one.
    """
    step = np.linalg.solve(target, affine)
    axes = np.argmax(np.abs(step[:3, :3]), axis=0)
    if len(set(axes.tolist())) != 3:
        return None
    source_of = np.argsort(axes)
    carried = values.transpose(source_of)
    directions = np.sign(step[axes, [0, 1, 2]])[source_of]
    carried = carried[tuple(slice(None, None, int(direction)) for direction in directions)]
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.array(carried.shape) - 1
    # Where the carried index lies in the index of `values`, then in that of `target`: the same place again.
    back = np.where(directions < 0, np.array(carried.shape) - 1 - corners[:, :3], corners[:, :3])
    original = np.ones_like(corners)
    original[:, source_of] = back
    moved = original @ step.T
    return carried if np.abs(moved - corners).max() <= SAME_GRID else None


def order_slices(positions: Float64, orientations: Float64, where: str) -> tuple[list[int], Float64]:
    """Order the slices of a volume along their normal and check that they are a regular stack.

    A stack that is regular but not perpendicular to its slices (gantry tilt) is taken: the affine holds the
    shear.

    Args:
        positions: (n, 3) mm, ImagePositionPatient of every slice, n ≥ 2.
        orientations: (n, 6), ImageOrientationPatient of every slice.
        where: What the slices come from, for messages; slices are counted from 1.

    Returns:
        Indices of the slices along the normal; (3,) step in mm from one slice to the next.

    Raises:
        InputError: Orientations differ, two slices lie at one position, one is missing or out of place.

    Source: DICOM PS3.3 C.7.6.2.1.1 (position and orientation of the image plane).
    """
    turned = np.abs(orientations - orientations[0]).max(axis=1)
    if turned.max() > 1e-3:
        slice_number = int(np.argmax(turned > 1e-3)) + 1
        own, first = orientations[slice_number - 1], orientations[0]
        angle = max(_angle(own[:3], first[:3]), _angle(own[3:], first[3:]))
        raise InputError(
            f"{where}: slice {slice_number} of {len(positions)} (by file name) is turned by {angle:.1f} "
            "degrees against the first, expected one orientation",
            hint="keep localizers and other series in folders of their own",
        )
    normal = _normal(orientations[0])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    _check_gaps(np.diff(along[order]), where)
    _check_places(positions[order], normal, where)
    step: Float64 = (positions[order[-1]] - positions[order[0]]) / (len(positions) - 1)
    return [int(index) for index in order], step


def _check_gaps(gaps: Float64, where: str) -> None:
    if gaps.min() < 1e-3:
        first = int(np.argmin(gaps)) + 1
        raise InputError(
            f"{where}: slices {first} and {first + 1} along the normal lie at one position",
            hint="a series with several echoes, phases or time points must be split into one folder each",
        )
    usual = float(np.median(gaps))
    if gaps.max() > 1.5 * usual:
        first = int(np.argmax(gaps)) + 1
        raise InputError(
            f"{where}: slices {first} and {first + 1} along the normal are {gaps.max():.3f} mm apart, "
            f"expected {usual:.3f} mm; {round(gaps.max() / usual) - 1 or 1} missing"
        )


def _check_places(ordered: Float64, normal: Float64, where: str) -> None:
    count = len(ordered) - 1
    step = (ordered[-1] - ordered[0]) / count
    off = np.linalg.norm(ordered - ordered[0] - np.arange(count + 1)[:, None] * step, axis=1)
    distance = float(step @ normal)
    if off.max() > max(0.01, IRREGULAR * distance):
        raise InputError(
            f"{where}: slice {int(np.argmax(off)) + 1} along the normal lies {off.max():.3f} mm off its "
            f"regular place, expected at most {max(0.01, IRREGULAR * distance):.3f} mm"
        )
    tilt = _angle(step / np.linalg.norm(step), normal)
    if tilt > 60:
        raise InputError(
            f"{where}: slices are stacked {tilt:.1f} degrees off their normal, expected at most 60"
        )


def _normal(orientation: Float64) -> Float64:
    return np.cross(orientation[:3], orientation[3:])


def _angle(first: Float64, second: Float64) -> float:
    return float(np.degrees(np.arccos(np.clip(first @ second, -1, 1))))
