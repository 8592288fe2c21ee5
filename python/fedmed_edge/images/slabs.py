"""Overlapping windows of a volume blended into labels, slab by slab.

The blended answer of a whole volume, (K, *grid) float32, never exists: a slab as thick as a window is summed
up, its finished planes become labels on the volume's own voxels, and the slab moves on. Where a slab of all
classes would pass a budget it is cut into bands; windows that reach into two bands are then answered twice.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedmed_edge.images.image import Float32, Float64, UInt8
from fedmed_edge.images.volume_grid import VolumeGrid
from fedmed_edge.images.windows import OVERLAP, importance, window_starts
from fedmed_edge.kernels import argmax_slab, blend_windows, resample

Start = tuple[int, int, int]

TOTALS_BYTES = 128 << 20
"""What the running totals may take, and of a larger volume `TOTALS_SHARE` of it in float32; a band is at
least as wide as a window. Two bands cost a quarter more windows, and so on: memory that does not grow with
the number of classes is paid with time where there are many."""

TOTALS_SHARE = 0.45

_PART_VALUES = 1 << 22


def label_volume(
    grid: VolumeGrid, size: tuple[int, ...], answer: Callable[[Start], Float32], *, classes: int
) -> tuple[UInt8, Float64]:
    """Labels of a volume from a network's answers on windows that overlap by `OVERLAP`.

    Probabilities are blended with Gaussian weights, resampled linearly to the volume's voxels and compared,
    as `windows.blended` and `preprocess.restore` do with all of them in memory.

    Args:
        grid: The grid that the windows lie on.
        size: Sides of the window.
        answer: Grid index where a window begins → (classes, *size) float32 probabilities.
        classes: K.

    Returns:
        uint8 of `grid.source_shape`, in the memory order of the source; (K,) float64, mean probability of
        each class over the grid.

    Source: MONAI's sliding_window_inference(mode="gaussian"), which it equals.
    """
    axes = _Axes(grid, size)
    labels = _empty_as(grid)
    windows: dict[int, list[Start]] = {}
    for start in window_starts(grid.shape, size, OVERLAP):
        windows.setdefault(start[axes.order[0]], []).append((start[0], start[1], start[2]))
    weights = importance(tuple(size[axis] for axis in axes.order))
    sums = np.zeros(classes)
    for band in _bands(axes, size, classes):
        slab = _Slab(axes, band, size, classes)
        for first, following in pairwise([*sorted(windows), axes.valid[0]]):
            for start in windows[first]:
                slab.add(start, answer, weights)
            sums += slab.finish(following, labels, last=following == axes.valid[0])
    return labels, sums / np.prod(axes.valid)


def _empty_as(grid: VolumeGrid) -> UInt8:
    """An empty mask of the volume's shape, its axes in the same order in memory."""
    order = np.argsort([-abs(stride) for stride in grid.source_strides], kind="stable")
    stored = np.empty([grid.source_shape[axis] for axis in order], np.uint8)
    return stored.transpose(np.argsort(order))


class _Axes:
    """The grid's axes in the order they are worked through: across slabs, across bands, along lines.

    Attributes:
        order: Grid axis of each; `columns` the source axis that belongs to it.
        valid: Extent of the grid along each.
        matrix, shift: grid index = matrix @ source index + shift, both in this order.
        shear: (2, 3) least and most that the other two source axes move the grid index along each; 0 but for
            a tilted gantry and rounded cosines.
    """

    def __init__(self, grid: VolumeGrid, size: tuple[int, ...]) -> None:
        matrix, offset = grid.to_source
        inverse: Float64 = np.linalg.inv(matrix).astype(np.float64)
        source_of = _matched(inverse)
        moved = inverse * (np.array(grid.source_shape) - 1)
        moved[range(3), source_of] = 0
        shear = np.stack([np.minimum(moved, 0).sum(axis=1), np.maximum(moved, 0).sum(axis=1)])
        slowness = [-abs(grid.source_strides[source_of[axis]]) for axis in range(3)]
        spread = np.ptp(shear, axis=0)
        # The slab that takes least memory; then as the source lies in memory, so that it is read in a row.
        cells = [(size[axis] + 1 + spread[axis]) / grid.valid[axis] for axis in range(3)]
        across = min(range(3), key=lambda axis: (cells[axis], slowness[axis]))
        rest = sorted((axis for axis in range(3) if axis != across), key=lambda axis: slowness[axis])
        self.order = (across, *rest)
        self.columns = tuple(source_of[axis] for axis in self.order)
        self.valid = tuple(grid.valid[axis] for axis in self.order)
        self.source_sides = tuple(grid.source_shape[axis] for axis in self.columns)
        self.matrix: Float64 = inverse[np.ix_(self.order, self.columns)]
        self.shift: Float64 = (-inverse @ offset)[list(self.order)]
        self.shear: Float64 = shear[:, list(self.order)]

    def depth(self, size: tuple[int, ...]) -> int:
        """Planes that a slab has: a window's, and those that unfinished voxels behind it are sampled from."""
        spread = math.ceil(self.shear[1, 0] - self.shear[0, 0])
        return int(min(size[self.order[0]] + 1 + spread, self.valid[0]))

    def sources(self, axis: int, low: float, high: float) -> slice:
        """Source indices along an axis that lie over grid index `low` and at most at `high`, unsheared."""
        places = self.matrix[axis, axis] * np.arange(self.source_sides[axis]) + self.shift[axis]
        hits = np.flatnonzero((places > low + 1e-9) & (places <= high + 1e-9))
        return slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0)


def _matched(inverse: Float64) -> tuple[int, ...]:
    """Source axis of each grid axis: the nearest that no other one took."""
    left, found = np.abs(inverse).copy(), [0, 0, 0]
    for _ in range(3):
        grid_axis, source_axis = np.unravel_index(int(np.argmax(left)), left.shape)
        found[int(grid_axis)] = int(source_axis)
        left[grid_axis, :] = left[:, source_axis] = -1
    return tuple(found)


def _bands(axes: _Axes, size: tuple[int, ...], classes: int) -> Iterator[tuple[int, int]]:
    """First and last grid index (exclusive) of each band across the second axis."""
    line_bytes = 4 * (classes + 1) * axes.depth(size) * axes.valid[2]
    volume_bytes = 4 * math.prod(axes.source_sides)
    budget = max(TOTALS_BYTES, int(TOTALS_SHARE * volume_bytes))
    width = max(size[axes.order[1]], budget // line_bytes - 1)
    count = -(-axes.valid[1] // width)
    yield from pairwise(round(axes.valid[1] * part / count) for part in range(count + 1))


class _Slab:
    """Running totals of the windows across one slab of one band."""

    def __init__(self, axes: _Axes, band: tuple[int, int], size: tuple[int, ...], classes: int) -> None:
        self._axes, self._band = axes, band
        self._width = size[axes.order[1]]
        self._lowest = -np.inf if band[0] == 0 else band[0]
        self._highest = np.inf if band[1] == axes.valid[1] else band[1]
        # Voxels between two bands are sampled from both: the cells that this band's voxels lie among.
        first = max(0, math.floor(band[0] + axes.shear[0, 1]))
        self._cells = (first, min(math.ceil(band[1] + axes.shear[1, 1]) + 1, axes.valid[1]))
        shape = (axes.depth(size), self._cells[1] - first, axes.valid[2])
        self._total = np.zeros((classes, *shape), np.float32)
        self._weight = np.zeros(shape, np.float32)
        self._base = self._fresh = 0
        self._done = -np.inf

    def add(self, start: Start, answer: Callable[[Start], Float32], weights: Float32) -> None:
        """Blend in a window, where it reaches into this band."""
        across, beside, along = (start[axis] for axis in self._axes.order)
        if beside >= self._cells[1] or beside + self._width <= self._cells[0]:
            return
        turned = answer(start).transpose(0, *(axis + 1 for axis in self._axes.order))
        lead = max(0, self._cells[0] - beside)
        blend_windows(
            self._total,
            self._weight,
            np.ascontiguousarray(turned[:, :, lead:]),
            np.ascontiguousarray(weights[:, lead:]),
            (across - self._base, max(0, beside - self._cells[0]), along),
        )

    def finish(self, following: int, labels: UInt8, *, last: bool) -> Float64:
        """Write the labels that no window at or after plane `following` changes, and move on.

        Returns:
            (K,) sums of the probabilities of the planes that became whole, in this band.
        """
        ready = following - self._base
        fresh = slice(self._fresh, ready)
        own = slice(self._band[0] - self._cells[0], self._band[1] - self._cells[0])
        for channel in self._total:
            channel[fresh] /= self._weight[fresh]
        sums: Float64 = self._total[:, fresh, own].sum(axis=(1, 2, 3), dtype=np.float64)
        if last:
            # What lies beyond the last plane takes its value, as beyond every border.
            self._total[:, ready:] = self._total[:, ready - 1 : ready]
        high = np.inf if last else following - 1 - self._axes.shear[1, 0]
        self._write(labels, self._axes.sources(0, self._done, high))
        self._done = high
        if not last:
            first = max(self._base, math.floor(high + self._axes.shear[0, 0]))
            self._move(first - self._base)
            self._fresh = following - first
        return sums

    def _write(self, labels: UInt8, planes: slice) -> None:
        axes = self._axes
        beside = axes.sources(1, self._lowest, self._highest)
        target = labels.transpose(axes.columns)
        sides = (beside.stop - beside.start, axes.source_sides[2])
        if not sides[0]:
            return
        step = max(1, _PART_VALUES // (len(self._total) * sides[0] * sides[1]))
        for first in range(planes.start, planes.stop, step):
            stop = min(first + step, planes.stop)
            begin = np.array([first, beside.start, 0], np.float64)
            offset = axes.matrix @ begin + axes.shift - (self._base, self._cells[0], 0)
            sampled = resample(self._total, axes.matrix, offset, (stop - first, *sides), mode="linear")
            part: npt.NDArray[np.uint8] = np.empty(sampled.shape[1:], np.uint8)
            argmax_slab(sampled, part)
            target[first:stop, beside] = part

    def _move(self, planes: int) -> None:
        """Drop the first planes; one plane at a time, as whole slabs would be copied."""
        depth = self._total.shape[1]
        for sums in (*self._total, self._weight):
            for plane in range(depth - planes):
                sums[plane] = sums[plane + planes]
            sums[depth - planes :] = 0
        self._base += planes
