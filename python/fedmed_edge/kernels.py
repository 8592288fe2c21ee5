"""The compiled kernels, one typed function each; the only importer of `_kernels`.

Arrays go in as they are: a wrong dtype, shape or memory order is refused (`ValueError`), never converted.
Results do not depend on the number of threads, which is the environment variable `FEDMED_THREADS` or else
the number of processors. A plain NumPy definition of each kernel stands in its test.
"""

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.errors import InputError

MAX_THREADS = 256

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


def thread_count() -> int:
    """Threads that a kernel may use: `FEDMED_THREADS`, else the number of processors.

    Raises:
        InputError: `FEDMED_THREADS` is no whole number from 1 to 256.
    """
    setting = os.environ.get("FEDMED_THREADS", "").strip()
    if not setting:
        return min(os.cpu_count() or 1, MAX_THREADS)
    if not setting.isdecimal() or not 1 <= int(setting) <= MAX_THREADS:
        raise InputError(f"FEDMED_THREADS: has `{setting}`, expected a whole number from 1 to {MAX_THREADS}")
    return int(setting)


def class_gram(rows: Float32, classes: Int32, grams: Float64) -> None:
    """Add every row's outer product with itself to the Gram of its class.

    ``grams[classes[n]] += packed upper triangle of rows[n]ᵀ rows[n]``; rows of class -1 are left out.
    Products are exact in float64 and summed in float64 in a fixed order.

    Args:
        rows: (N, D) float32.
        classes: (N,) int32 from -1 to K - 1.
        grams: (K, D (D + 1) / 2) float64 packed upper triangles in the order of `numpy.triu_indices`; added
            to.

    Raises:
        ValueError: An array has another dtype, shape or memory order, or a class is out of range; then
            `grams` is as it was.

    Example:
        >>> grams = np.zeros((2, 3))
        >>> class_gram(np.array([[1, 2], [3, 4]], np.float32), np.array([1, -1], np.int32), grams)
        >>> grams.tolist()
        [[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]
    """
    _kernels.class_gram(rows, classes, grams, thread_count())


def channel_moments(maps: Float32) -> tuple[int, Float64, Float64]:
    """Count, sum and sum of squares of every channel.

    Args:
        maps: (C, …) float32 with one or more axes after the channel.

    Returns:
        Values a channel; sums (C,) float64; sums of squares (C,) float64.

    Raises:
        ValueError: `maps` has another dtype, memory order or fewer than two axes.

    Example:
        >>> count, sums, squares = channel_moments(np.array([[1, 2, 3]], np.float32))
        >>> count, sums.tolist(), squares.tolist()
        (3, [6.0], [14.0])
    """
    channels = maps.shape[0] if maps.ndim else 0
    sums, squares = np.empty(channels), np.empty(channels)
    _kernels.channel_moments(maps, sums, squares, thread_count())
    return maps.size // max(channels, 1), sums, squares


def resample(
    pixels: Float32,
    matrix: npt.ArrayLike,
    offset: npt.ArrayLike,
    shape: Sequence[int],
    *,
    mode: Literal["linear", "nearest"],
) -> Float32:
    """Sample every channel on another grid.

    Output index o takes the input at ``matrix @ o + offset``, in index coordinates whose integers are pixel
    centres; coordinates beyond the border are moved onto it. `linear` weighs in float64, and a pixel of
    weight 0 is not read; `nearest` takes the pixel at floor(coordinate + ½).

    Args:
        pixels: (C, *in) float32 of d = 2 or 3 spatial axes.
        matrix: (d, d).
        offset: (d,).
        shape: The d sides of the output.

    Returns:
        (C, *shape) float32.

    Raises:
        ValueError: `pixels` has another dtype, memory order or number of axes, a side is 0, `matrix` or
            `offset` has another shape or is not finite, or `mode` is unknown.

    Example:
        >>> row = np.array([[[0, 10, 20]]], np.float32)
        >>> resample(row, np.diag([1, 0.5]), [0, 0], (1, 5), mode="linear").tolist()
        [[[0.0, 5.0, 10.0, 15.0, 20.0]]]
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) != pixels.ndim - 1 or min(sides, default=0) < 1:
        raise ValueError(f"resample: `shape` has {sides}, expected {pixels.ndim - 1} sides of at least 1")
    out = np.empty((pixels.shape[0], *sides), np.float32)
    _kernels.resample(
        pixels,
        np.ascontiguousarray(matrix, np.float64),
        np.ascontiguousarray(offset, np.float64),
        out,
        mode,
        thread_count(),
    )
    return out


def blend_windows(
    total: Float32, weight: Float32, window: Float32, importance: Float32, start: Sequence[int]
) -> None:
    """Add one weighted window to the running total of a sliding-window answer.

    ``total[:, region] += window · importance`` and ``weight[region] += importance`` in float32, where the
    region begins at `start`; what hangs over the grid's end is left out. After all windows ``total / weight``
    is the blended answer.

    Args:
        total: (K, *grid) float32 of 2 or 3 spatial axes; added to.
        weight: (*grid) float32; added to.
        window: (K, *size) float32.
        importance: (*size) float32.
        start: First grid index that the window covers, one number an axis.

    Raises:
        ValueError: An array has another dtype, shape or memory order, or `start` is outside the grid; then
            `total` and `weight` are as they were.

    Example:
        >>> total, weight = np.zeros((1, 1, 3), np.float32), np.zeros((1, 3), np.float32)
        >>> window, importance = np.full((1, 1, 2), 4, np.float32), np.full((1, 2), 0.5, np.float32)
        >>> blend_windows(total, weight, window, importance, (0, 2))
        >>> total.tolist(), weight.tolist()
        ([[[0.0, 0.0, 2.0]]], [[0.0, 0.0, 0.5]])
    """
    _kernels.blend_windows(total, weight, window, importance, [int(i) for i in start], thread_count())
