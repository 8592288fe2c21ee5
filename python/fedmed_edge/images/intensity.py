"""Intensity rules: how stored values become the network's input.

A rule is measured on the whole image once and applied to any part of it, so that a volume need not be copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmed_edge.recipe import Intensity

Float32 = npt.NDArray[np.float32]
Voxels = npt.NDArray[np.float32] | npt.NDArray[np.int16]

# Values that are looked at together: what is larger is measured part by part.
_PART_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class Scaling:
    """An intensity rule with the numbers that one image gave it: (value - shift) / divisor, clipped or not.

    Attributes:
        shift, divisor: (C,) or (1,) float32.
        clips: Whether what lies outside of 0 to 1 is moved to it.
    """

    shift: Float32 = field(repr=False)
    divisor: Float32 = field(repr=False)
    clips: bool

    def apply(self, pixels: Voxels) -> Float32:
        """Scale values; a new array in the memory order of `pixels`.

        Args:
            pixels: (C, ...), all of the image or a part of it.
        """
        spread = (-1, *[1] * (pixels.ndim - 1))
        scaled: Float32 = np.array(pixels, np.float32, order="K")
        scaled -= self.shift.reshape(spread)
        scaled /= self.divisor.reshape(spread)
        if self.clips:
            np.clip(scaled, 0, 1, out=scaled)
        return scaled


def scale_intensity(pixels: Voxels, intensity: Intensity) -> Float32:
    """Apply an intensity rule to a whole image.

    Args:
        pixels: (C, ...), left as it is.

    Returns:
        (C, ...) float32. `range` and `percentile`: 0 to 1, the percentiles taken over all channels together;
        an image of one value becomes 0. `zscore`: mean 0, deviation 1 in each channel; a flat channel
        becomes 0.

    Example:
        >>> row = np.array([[-1000, 0, 1000, 3000]], np.float32)
        >>> scale_intensity(row, Intensity(rule="range", low=-1000, high=1000)).tolist()
        [[0.0, 0.5, 1.0, 1.0]]
    """
    return measure_scaling(pixels, intensity).apply(pixels)


def measure_scaling(pixels: Voxels, intensity: Intensity) -> Scaling:
    """The numbers that a rule takes from an image; memory does not grow with the image.

    Args:
        pixels: (C, ...).
    """
    if intensity.rule == "zscore":
        return _zscore(pixels)
    low, high = intensity.low, intensity.high
    if intensity.rule == "percentile":
        low, high = _percentiles(pixels, (low, high))
    # Percentiles that are equal say nothing of the scale: whatever is divided by infinity becomes 0.
    divisor = np.inf if low == high else high - low
    return Scaling(np.array([low], np.float32), np.array([divisor], np.float32), clips=True)


def _zscore(pixels: Voxels) -> Scaling:
    count = pixels[0].size
    mean = np.array([sum(part.sum(dtype=np.float64) for part in _parts(own)) / count for own in pixels])
    centre = mean.astype(np.float32)
    squares = [
        sum(np.square(part - shift, dtype=np.float32).sum(dtype=np.float64) for part in _parts(own))
        for own, shift in zip(pixels, centre, strict=True)
    ]
    deviation = np.sqrt(np.array(squares) / count)
    return Scaling(centre, np.where(deviation > 0, deviation, 1).astype(np.float32), clips=False)


def _percentiles(pixels: Voxels, shares: tuple[float, float]) -> tuple[float, float]:
    """Percentiles as numpy's, which would copy and order a whole volume."""
    if pixels.size <= _PART_VALUES:
        low, high = np.percentile(np.asarray(pixels, np.float32), shares)
        return float(low), float(high)
    places = [(pixels.size - 1) * share / 100 for share in shares]
    ranks = sorted({min(int(place) + step, pixels.size - 1) for place in places for step in (0, 1)})
    values = dict(zip(ranks, _ranked(pixels, ranks), strict=True))
    found = []
    for place in places:
        below = int(place)
        above = min(below + 1, pixels.size - 1)
        found.append(values[below] + (values[above] - values[below]) * (place - below))
    return found[0], found[1]


def _ranked(pixels: Voxels, ranks: list[int]) -> list[float]:
    """Values that would stand at these places if the image were ordered: two passes of counting."""
    counts = np.zeros(1 << 16, np.int64)
    for part in _parts(pixels):
        counts += np.bincount(_ordered_bits(part) >> 16, minlength=1 << 16)
    ends = np.cumsum(counts)
    upper = [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
    finer = {half: np.zeros(1 << 16, np.int64) for half in upper}
    for part in _parts(pixels):
        bits = _ordered_bits(part)
        for half, own in finer.items():
            own += np.bincount(bits[bits >> 16 == half] & 0xFFFF, minlength=1 << 16)
    values = []
    for rank, half in zip(ranks, upper, strict=True):
        inside = rank - int(ends[half] - counts[half])
        lower = int(np.searchsorted(np.cumsum(finer[half]), inside, side="right"))
        values.append(_value_of((half << 16) | lower))
    return values


def _ordered_bits(part: Voxels) -> npt.NDArray[np.uint32]:
    """Numbers that are ordered as the float32 values are: the sign bit turned, negative ones turned over."""
    bits = np.ascontiguousarray(part, np.float32).reshape(-1).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _value_of(ordered: int) -> float:
    bits = ordered ^ (1 << 31) if ordered >> 31 else ordered ^ 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _parts(pixels: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Parts of an array along the axis that is slowest in memory."""
    slow = int(np.argmax([abs(stride) for stride in pixels.strides]))
    ordered = np.moveaxis(pixels, slow, 0)
    step = max(1, _PART_VALUES * len(ordered) // max(1, ordered.size))
    for first in range(0, len(ordered), step):
        yield ordered[first : first + step]
