"""Sums over the values of channels and over the amplitudes of spectra."""

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.kernels.device import with_twin
from fedmed_edge.kernels.threads import thread_count

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@with_twin("maps")
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
