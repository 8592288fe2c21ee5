"""Sums over the values of channels and over the amplitudes of spectra."""

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.kernels.device import with_twin
from fedmed_edge.kernels.threads import thread_count

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@with_twin("maps")
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
    known = -maps.ndim <= channel_axis < maps.ndim
    axis = channel_axis % maps.ndim if known else channel_axis
    if known and not maps.flags.c_contiguous:
        last = np.moveaxis(maps, axis, -1)
        if last.flags.c_contiguous:
            maps, axis = last, maps.ndim - 1
    channels = maps.shape[axis] if known else 0
    sums, squares = np.empty(channels), np.empty(channels)
    _kernels.channel_moments(maps, axis, sums, squares, thread_count())
    return maps.size // max(channels, 1), sums, squares


@with_twin("pixels")
def amplitude_moments(
    pixels: Float32, block: tuple[int, int], *, floor: float
) -> tuple[int, Float64, Float64]:
    """Sums over slices of the log-amplitude of the low frequencies, and of its squares, in float64.

    ``log(|F(u, v)| / (rows · columns) + floor)`` of each plane's Fourier transform F, for the block of
    frequencies around 0, zero in its middle. Sums of several images add up to a mean and deviation.

    Only the block is computed, by two small products. Where half a block is more than a fifth of its side, a
    whole transform (`numpy.fft`) would be faster.

    Args:
        pixels: (C, rows, columns) float32, or (C, rows, columns, slices) of a volume.
        block: Its sides, both odd, within rows and columns.
        floor: Added to the amplitude before the logarithm, above 0.

    Returns:
        Slices (1 of an image); sums (C, *block) and sums of squares (C, *block) float64.

    Raises:
        ValueError: `pixels` has another dtype, memory order or number of axes, `block` does not fit, or
            `floor` is not above 0.

    Example:
        >>> count, sums, _ = amplitude_moments(np.full((1, 8, 8), 0.5, np.float32), (1, 3), floor=1e-6)
        >>> count, sums.round(2).tolist()
        (1, [[[-13.82, -0.69, -13.82]]])
    """
    sums = np.empty((pixels.shape[0] if pixels.ndim else 0, *block))
    squares = np.empty_like(sums)
    _kernels.amplitude_moments(pixels, floor, sums, squares, thread_count())
    return pixels.shape[3] if pixels.ndim == 4 else 1, sums, squares
