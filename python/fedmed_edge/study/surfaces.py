"""Distance between the surfaces of two segmentations, beside which Dice is read."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

Mask = npt.NDArray[np.bool_]


def surface_distance(
    prediction: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    classes: int,
    spacing_mm: Sequence[float] | None = None,
) -> float:
    """Average symmetric surface distance of one image, mean over the foreground classes 1 … C - 1.

    Args:
        prediction, truth: Class numbers, same shape.
        classes: C; class 0 is background.
        spacing_mm: Of the grid; None: distances are in pixels.

    Returns:
        0 or more; a class that is in neither counts as 0, one that is in one of them as the image's diagonal.

    Raises:
        ValueError: The shapes differ.

    Source: Heimann et al., IEEE Trans. Med. Imaging 28(8), 2009.

    Example:
        >>> surface_distance(np.array([[0, 0, 1, 0]]), np.array([[0, 1, 0, 0]]), 2)
        1.0
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"surface distance: `prediction` has {prediction.shape}, expected {truth.shape}")
    spacing = tuple(spacing_mm or (1.0,) * truth.ndim)
    diagonal = float(np.linalg.norm(np.array(truth.shape) * spacing))
    found = []
    for number in range(1, classes):
        ours, theirs = prediction == number, truth == number
        if not ours.any() or not theirs.any():
            found.append(0.0 if ours.any() == theirs.any() else diagonal)
            continue
        apart = np.concatenate([_to(theirs, ours, spacing), _to(ours, theirs, spacing)])
        found.append(float(apart.mean()))
    return float(np.mean(found))


def _to(target: Mask, mask: Mask, spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Distance of every surface element of `mask` to the surface of `target`."""
    distances = distance_transform_edt(~_surface(target), sampling=spacing)
    return np.asarray(distances[_surface(mask)], np.float64)


def _surface(mask: Mask) -> Mask:
    return np.asarray(mask & ~binary_erosion(mask), np.bool_)
