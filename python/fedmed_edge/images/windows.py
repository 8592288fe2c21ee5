"""Sliding windows over a grid that is larger than the network's input."""

import itertools

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import Float32


def window_starts(grid: tuple[int, ...], size: tuple[int, ...], overlap: float) -> list[tuple[int, ...]]:
    """First grid index of every window, the last axis running fastest.

    Windows advance by size · (1 - overlap), rounded down, at least 1; the last of an axis is moved back to
    end with the grid. An axis no longer than the window has one, at 0.

    Args:
        grid: Sides of the grid.
        size: Sides of the window.
        overlap: Share of a window that its neighbour covers too, 0 to below 1.

    Raises:
        InputError: `overlap` is out of range.

    Source: MONAI's sliding_window_inference, which it equals.

    Example:
        >>> window_starts((10, 4), (4, 4), 0.5)
        [(0, 0), (2, 0), (4, 0), (6, 0)]
    """
    if not 0 <= overlap < 1:
        raise InputError(f"windows: `overlap` has {overlap}, expected 0 to below 1")
    starts = []
    for side, window in zip(grid, size, strict=True):
        last = max(0, side - window)
        step = max(1, int(window * (1 - overlap)))
        starts.append([*range(0, last, step), last])
    return list(itertools.product(*starts))


def importance(size: tuple[int, ...]) -> Float32:
    """Weight of each point of a window when windows are blended: a Gaussian of 1/8 of the window's sides.

    Returns:
        (*size) float32, at least 1e-3.

    Source: MONAI's compute_importance_map(mode="gaussian", sigma_scale=0.125), which it equals.

    Example:
        >>> importance((1, 3)).argmax(), importance((1, 3)).max()
        (np.int64(1), np.float32(1.0))
    """
    weights = np.ones((), np.float32)
    for side in size:
        places = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        weights = weights[..., None] * np.exp(places**2 / np.float32(-2 * (0.125 * side) ** 2))
    return np.maximum(weights, max(float(weights.min()), 1e-3)).astype(np.float32)
