"""Images and volumes: sampling on another grid, windows blended into an answer."""

from collections.abc import Sequence
from operator import index
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.kernels.device import with_twin
from fedmed_edge.kernels.threads import thread_count

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]


@with_twin("pixels", "out")
def resample(
    pixels: Float32,
    matrix: npt.ArrayLike,
    offset: npt.ArrayLike,
    shape: Sequence[int],
    *,
    mode: Literal["linear", "nearest"],
    out: Float32 | None = None,
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
        out: (C, *shape) float32 apart from `pixels`, overwritten; default: a new array. Where `pixels` is on
            a GPU it is needed.

    Returns:
        (C, *shape) float32, `out` where it was given.

    Raises:
        ValueError: `pixels` has another dtype, memory order or number of axes, a side is 0, `matrix` or
            `offset` has another shape or is not finite, or `mode` is unknown.

    Example:
        >>> row = np.array([[[0, 10, 20]]], np.float32)
        >>> resample(row, np.diag([1, 0.5]), [0, 0], (1, 5), mode="linear").tolist()
        [[[0.0, 5.0, 10.0, 15.0, 20.0]]]
    """
    sides = tuple(index(side) for side in shape)
    if len(sides) != pixels.ndim - 1 or min(sides, default=0) < 1:
        raise ValueError(f"resample: `shape` has {sides}, expected {pixels.ndim - 1} sides of at least 1")
    if out is None:
        out = np.empty((pixels.shape[0], *sides), np.float32)
    elif out.shape != (pixels.shape[0], *sides):
        raise ValueError(
            f"resample: `out` has shape {out.shape}, expected {(pixels.shape[0], *sides)} by `shape`"
        )
    elif np.may_share_memory(pixels, out):
        raise ValueError("resample: `out` overlaps `pixels`, expected it apart")
    _kernels.resample(
        pixels,
        np.ascontiguousarray(matrix, np.float64),
        np.ascontiguousarray(offset, np.float64),
        out,
        mode,
        thread_count(),
    )
    return out


@with_twin("total", "weight", "window", "importance")
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
    _kernels.blend_windows(total, weight, window, importance, [index(i) for i in start], thread_count())


@with_twin("total", "out")
def argmax_slab(total: Float32, out: UInt8, start: Sequence[int] | None = None) -> None:
    """Write the channel of the largest value of each cell, for a part of a grid.

    ``out[i] = argmax(total[:, start + i])``, the first of equal ones; a NaN is larger than nothing. The
    weight that `blend_windows` adds up is one for all channels of a cell and changes no answer, so that
    totals need not be divided by it. No memory beside the two arrays.

    Args:
        total: (K, *grid) float32 of 2 or 3 spatial axes, K from 1 to 256.
        out: (*part) uint8, no larger than the grid; overwritten.
        start: Grid index where `out` begins, one number an axis; default: the first.

    Raises:
        ValueError: An array has another dtype, shape or memory order, or `out` reaches beyond the grid.

    Example:
        >>> out = np.empty((1, 2), np.uint8)
        >>> argmax_slab(np.array([[[0, 3], [4, 1]], [[2, 2], [3, 5]]], np.float32), out, (1, 0))
        >>> out.tolist()
        [[0, 1]]
    """
    first = [0] * out.ndim if start is None else [index(i) for i in start]
    _kernels.argmax_slab(total, first, out, thread_count())
