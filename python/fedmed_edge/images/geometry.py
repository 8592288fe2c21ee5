"""Affines: how array axes lie in the patient."""

import numpy as np
import numpy.typing as npt

# Largest distance, in voxels, between where two affines put one corner, for them to be the same grid.
SAME_GRID = 0.1

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
