"""Slices that are no regular stack → a regular one, and a mask on it → back onto the slices."""

import numpy as np

from fedmed_edge.images.image import Float32, Float64, UInt8
from fedmed_edge.images.stacks import SAME_PLACE_MM, Stack
from fedmed_edge.kernels import resample

# A shift of less, in pixels, is not worth a slice's sharpness.
_NO_SHIFT = 0.02


def straightened(
    pixels: Float32, stack: Stack, orientation: Float64, spacing_mm: tuple[float, float]
) -> Float32:
    """Resample slices linearly onto the regular stack along `stack.step`.

    Of slices at one position the first counts. In between, values are interpolated along the line from the
    first slice to the last; a slice beside that line is shifted in its plane.

    Args:
        pixels: (slices, rows, columns) along the normal.
        orientation: (6,) of the slices.
        spacing_mm: Distance of rows, of columns.

    Returns:
        (regular slices, rows, columns) float32.
    """
    kept = _first_of_each_place(stack.heights)
    heights = stack.heights[kept]
    shifts = _shifts(stack, orientation, spacing_mm)
    moved = [_shifted(pixels[index], shifts[index]) for index in kept]
    wanted = np.arange(_count(stack)) * stack.distance_mm
    above = np.clip(np.searchsorted(heights, wanted, side="left"), 1, len(heights) - 1)
    out = np.empty((len(wanted), *pixels.shape[1:]), np.float32)
    for place, (height, upper) in enumerate(zip(wanted, above, strict=True)):
        share = (height - heights[upper - 1]) / (heights[upper] - heights[upper - 1])
        share = np.float32(np.clip(share, 0, 1))
        out[place] = moved[upper - 1] * (1 - share) + moved[upper] * share
    return out


def on_frames(mask: UInt8, stack: Stack, orientation: Float64, spacing_mm: tuple[float, float]) -> UInt8:
    """Undo `straightened` for class numbers: the nearest regular slice, shifted back.

    Args:
        mask: (regular slices, rows, columns) uint8.

    Returns:
        (slices, rows, columns) uint8, as many as there were.
    """
    shifts = np.rint(_shifts(stack, orientation, spacing_mm)).astype(int)
    out = np.zeros((len(stack.heights), *mask.shape[1:]), np.uint8)
    for place, height in enumerate(stack.heights):
        nearest = mask[min(round(height / stack.distance_mm), len(mask) - 1)]
        windows = [
            _overlap(side, int(shift)) for side, shift in zip(nearest.shape, shifts[place], strict=True)
        ]
        there, here = zip(*windows, strict=True)
        out[place][there] = nearest[here]
    return out


def _overlap(side: int, shift: int) -> tuple[slice, slice]:
    """Where indices i lie for which i + shift is one, too; and where these do."""
    return slice(max(0, -shift), side - max(0, shift)), slice(max(0, shift), side - max(0, -shift))


def _count(stack: Stack) -> int:
    return round(float(stack.heights[-1]) / stack.distance_mm) + 1


def _first_of_each_place(heights: Float64) -> list[int]:
    gaps = np.diff(heights, prepend=-np.inf)
    return [int(index) for index in np.flatnonzero(gaps >= SAME_PLACE_MM)]


def _shifts(stack: Stack, orientation: Float64, spacing_mm: tuple[float, float]) -> Float64:
    """(n, 2) rows and columns by which each slice lies beside the line."""
    rows = stack.drift @ orientation[3:] / spacing_mm[0]
    columns = stack.drift @ orientation[:3] / spacing_mm[1]
    return np.stack([rows, columns], axis=1)


def _shifted(values: Float32, shift: Float64) -> Float32:
    """The slice as it would be on the line: pixel (r, c) there is pixel (r, c) - shift here."""
    if np.abs(shift).max() < _NO_SHIFT:
        return values
    contiguous = np.ascontiguousarray(values)[None]
    moved: Float32 = resample(contiguous, np.eye(2), -shift, values.shape, mode="linear")[0]
    return moved
