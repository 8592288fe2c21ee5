"""Sliding windows over a grid that is larger than the network's input."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import Float32
from fedmed_edge.kernels import blend_windows

OVERLAP = 0.25
"""Share of a window that its neighbour covers too, when a volume is segmented."""


def cover(pixels: Float32, size: tuple[int, ...]) -> Iterator[Float32]:
    """Windows side by side, as a volume is classified: views of `pixels`, the last moved back to its end.

    Args:
        pixels: (C, *grid).
        size: Sides of the window.

    Example:
        >>> row = np.arange(10, dtype=np.float32).reshape(1, 1, 10)
        >>> [window.ravel().tolist()[0] for window in cover(row, (1, 4))]
        [0.0, 4.0, 6.0]
    """
    for start in window_starts(pixels.shape[1:], size, 0.0):
        yield window_of(pixels, start, size)


def blended(
    pixels: Float32, size: tuple[int, ...], answer: Callable[[Float32], Float32], *, channels: int
) -> Float32:
    """A network's answers on windows that overlap by `OVERLAP`, blended with Gaussian weights.

    A grid of the window's own size is answered as it is.

    Args:
        pixels: (C, *grid) float32.
        size: Sides of the window.
        answer: Window (C, *size) → (channels, *size) float32.

    Returns:
        (channels, *grid) float32.

    Source: MONAI's sliding_window_inference(mode="gaussian"), which it equals.

    Example:
        >>> blended(np.ones((1, 6, 5), np.float32), (4, 4), lambda window: window / 2, channels=1).max()
        np.float32(0.5)
    """
    grid = pixels.shape[1:]
    if grid == size:
        return answer(pixels)
    total = np.zeros((channels, *grid), np.float32)
    weight, weights = np.zeros(grid, np.float32), importance(size)
    for start in window_starts(grid, size, OVERLAP):
        blend_windows(total, weight, answer(window_of(pixels, start, size)), weights, start)
    total /= weight
    return total


def window_of(array: npt.NDArray[Any], start: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[Any]:
    """View of the window of `size` that begins at `start`, in the last axes of an array.

    Example:
        >>> window_of(np.arange(16).reshape(1, 4, 4), (1, 2), (2, 2))
        array([[[ 6,  7],
                [10, 11]]])
    """
    ranges: Any = (..., *(slice(low, low + side) for low, side in zip(start, size, strict=True)))
    window: npt.NDArray[Any] = array[ranges]
    return window


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
