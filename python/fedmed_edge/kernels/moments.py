"""Sums over the values of channels and over the amplitudes of spectra."""

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.kernels.threads import thread_count

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def channel_moments(maps: Float32, *, channel_axis: int = 0) -> tuple[int, Float64, Float64]:
    """Count, sum and sum of squares of every channel, in float64, at the speed of memory.

    Squares are exact and both sums run in a fixed order.

    Args:
        maps: float32 with two or more axes: (C, …), a batch (N, C, …) with `channel_axis` 1, or channels last
            (…, C) with `channel_axis` -1. A batch of shape (N, C, …) that lies channels last in memory, as
            torch's `channels_last` has it, is read as it lies.
        channel_axis: The axis of the channels; all others are summed over.

    Returns:
        Values a channel; sums (C,) float64; sums of squares (C,) float64.

    Raises:
        ValueError: `maps` has another dtype, memory order or fewer than two axes, or no such axis.

    Example:
        >>> count, sums, squares = channel_moments(np.array([[1, 2, 3]], np.float32))
        >>> count, sums.tolist(), squares.tolist()
        (3, [6.0], [14.0])
    """
    axis = channel_axis + maps.ndim if channel_axis < 0 else channel_axis
    if maps.ndim > 2 and not maps.flags.c_contiguous and 0 <= axis < maps.ndim:
        last = np.moveaxis(maps, axis, -1)
        if last.flags.c_contiguous:
            maps, axis = last, maps.ndim - 1
    channels = maps.shape[axis] if 0 <= axis < maps.ndim else 0
    sums, squares = np.empty(channels), np.empty(channels)
    _kernels.channel_moments(maps, axis, sums, squares, thread_count())
    return maps.size // max(channels, 1), sums, squares
