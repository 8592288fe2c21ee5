"""Overlapping windows of a volume blended into labels, slab by slab.

The blended answer of a whole volume, (K, *grid) float32, never exists: a slab as thick as a window is summed
up, its finished planes become labels on the volume's own voxels, and the slab moves on. Where a slab of all
classes would pass a budget it is cut into tiles; windows that reach into two of them are then answered twice.
"""

import math
import zlib
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from fedmed_edge.images.image import Float32, Float64, UInt8
from fedmed_edge.images.volume_grid import VolumeGrid
from fedmed_edge.images.windows import OVERLAP, importance, window_starts
from fedmed_edge.kernels import argmax_slab, blend_windows, resample

Start = tuple[int, int, int]

TOTALS_BYTES = 80 << 20
"""What the running totals may take, and of a larger volume `TOTALS_SHARE` of it in float32, less what the
network itself holds of all classes; a tile is at least as wide as a window. Two tiles cost a fifth more
windows, and so on: memory that does not grow with the number of classes is paid with time where there are
many."""

TOTALS_SHARE = 0.65
_ANSWERS_HELD = 5  # of a window, by a network whose last layers have its full size

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
    starts = [tuple(start[axis] for axis in axes.order) for start in window_starts(grid.shape, size, OVERLAP)]
    tiles = _tiles(axes, starts, size, classes)
    labels, packed = _empty_as(grid), _Packed()
    target = labels.transpose(axes.columns)
    # Of several tiles the last finds the labels of the others in memory: packed, they take little.
    keep = target.__setitem__ if len(tiles) == 1 else packed.add
    weights = importance(tuple(size[axis] for axis in axes.order))
    sums = np.zeros(classes)
    for tile in tiles:
        sums += _label_tile(axes, tile, starts, answer, weights, keep, classes)
    packed.unpack(target)
    return labels, sums / np.prod(axes.valid)


def _label_tile(
    axes: "_Axes",
    tile: "_Tile",
    starts: list[tuple[int, ...]],
    answer: Callable[[Start], Float32],
    weights: Float32,
    keep: "Keep",
    classes: int,
) -> Float64:
    slab = _Slab(axes, tile, weights, classes)
    sums = np.zeros(classes)
    for first, following in pairwise([*sorted({start[0] for start in starts}), axes.valid[0]]):
        for start in starts:
            if start[0] == first:
                slab.add(start, answer)
        sums += slab.finish(following, keep, last=following == axes.valid[0])
    return sums


Keep = Callable[[tuple[slice, ...], UInt8], None]
"""Takes finished labels and where they lie, in source voxels and the order of `_Axes`."""


class _Packed:
    """Labels put away."""

    def __init__(self) -> None:
        self._parts: list[tuple[tuple[slice, ...], tuple[int, ...], bytes]] = []

    def add(self, place: tuple[slice, ...], part: UInt8) -> None:
        self._parts.append((place, part.shape, zlib.compress(part.tobytes(), 1)))

    def unpack(self, target: UInt8) -> None:
        while self._parts:
            place, shape, content = self._parts.pop()
            target[place] = np.frombuffer(zlib.decompress(content), np.uint8).reshape(shape)


def _empty_as(grid: VolumeGrid) -> UInt8:
    """An empty mask of the volume's shape, its axes in the same order in memory."""
    order = np.argsort([-abs(stride) for stride in grid.source_strides], kind="stable")
    stored = np.empty([grid.source_shape[axis] for axis in order], np.uint8)
    return stored.transpose(np.argsort(order))


class _Axes:
    """The grid's axes in the order they are worked through: across slabs, then those that tiles are cut on.

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

    def back(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """Values of the axes in this order, in the grid's own."""
        return tuple(values[self.order.index(axis)] for axis in range(3))

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


class _Band:
    """A part of an axis whose voxels are labelled together.

    Attributes:
        cells: First and last grid index (exclusive) that its voxels lie among: some lie between two bands.
        own: Those of the cells that are no other band's.
        sources: Source indices of its voxels.
    """

    def __init__(self, axes: _Axes, axis: int, first: int, last: int) -> None:
        low = max(0, math.floor(first + axes.shear[0, axis]))
        self.cells: tuple[int, int] = (low, min(math.ceil(last + axes.shear[1, axis]) + 1, axes.valid[axis]))
        self.own = slice(first - low, last - low)
        self.sources = axes.sources(
            axis, first if first > 0 else -np.inf, last if last < axes.valid[axis] else np.inf
        )

    @property
    def width(self) -> int:
        """How many cells it has."""
        return self.cells[1] - self.cells[0]

    def meets(self, start: int, width: int) -> bool:
        """Whether a window reaches into it."""
        return start < self.cells[1] and start + width > self.cells[0]


_Tile = tuple[_Band, _Band]


def _tiles(axes: _Axes, starts: list[tuple[int, ...]], size: tuple[int, ...], classes: int) -> list[_Tile]:
    """Tiles within the budget that need the fewest windows; the smallest where none fit."""
    volume_bytes, answer_bytes = 4 * math.prod(axes.source_sides), 4 * classes * math.prod(size)
    budget = max(TOTALS_BYTES, TOTALS_SHARE * volume_bytes - _ANSWERS_HELD * answer_bytes)
    line_bytes = 4 * (classes + 1) * axes.depth(size)
    second, third = (
        _cuts(axes, axis, {start[axis] for start in starts}, size[axes.order[axis]]) for axis in (1, 2)
    )

    def cost(cut: tuple[tuple[list[_Band], int], tuple[list[_Band], int]]) -> tuple[bool, int, int]:
        (beside, met), (along, also_met) = cut
        taken = line_bytes * max(band.width for band in beside) * max(band.width for band in along)
        return taken > budget, taken if taken > budget else met * also_met, taken

    (beside, _), (along, _) = min(product(second, third), key=cost)
    return list(product(beside, along))


def _cuts(axes: _Axes, axis: int, starts: set[int], width: int) -> list[tuple[list[_Band], int]]:
    """Every way to cut an axis into bands at least as wide as a window; how many windows meet them."""
    found = []
    for count in range(1, max(1, axes.valid[axis] // width) + 1):
        edges = [round(axes.valid[axis] * part / count) for part in range(count + 1)]
        bands = [_Band(axes, axis, *pair) for pair in pairwise(edges)]
        found.append((bands, sum(band.meets(start, width) for band in bands for start in starts)))
    return found


class _Slab:
    """Running totals of the windows across one slab of one tile."""

    def __init__(self, axes: _Axes, tile: _Tile, weights: Float32, classes: int) -> None:
        self._axes, self._tile, self._weights = axes, tile, weights
        shape = (axes.depth(axes.back(weights.shape)), *(band.width for band in tile))
        self._total = np.zeros((classes, *shape), np.float32)
        self._weight = np.zeros(shape, np.float32)
        self._base = self._fresh = 0
        self._done = -np.inf

    def add(self, start: tuple[int, ...], answer: Callable[[Start], Float32]) -> None:
        """Blend in a window, where it reaches into this tile."""
        widths = self._weights.shape[1:]
        if not all(map(_Band.meets, self._tile, start[1:], widths)):
            return
        first, second, third = self._axes.back(start)
        turned = answer((first, second, third)).transpose(0, *(axis + 1 for axis in self._axes.order))
        low = [band.cells[0] for band in self._tile]
        beside, along = (max(0, cell - place) for cell, place in zip(low, start[1:], strict=True))
        blend_windows(
            self._total,
            self._weight,
            np.ascontiguousarray(turned[:, :, beside:, along:]),
            np.ascontiguousarray(self._weights[:, beside:, along:]),
            (start[0] - self._base, max(0, start[1] - low[0]), max(0, start[2] - low[1])),
        )

    def finish(self, following: int, keep: Keep, *, last: bool) -> Float64:
        """Hand over the labels that no window at or after plane `following` changes, and move on.

        Returns:
            (K,) sums of the probabilities of the planes that became whole, in this tile.
        """
        ready = following - self._base
        fresh = slice(self._fresh, ready)
        for channel in self._total:
            channel[fresh] /= self._weight[fresh]
        own = (slice(None), fresh, *(band.own for band in self._tile))
        sums: Float64 = self._total[own].sum(axis=(1, 2, 3), dtype=np.float64)
        if last:
            # What lies beyond the last plane takes its value, as beyond every border.
            self._total[:, ready:] = self._total[:, ready - 1 : ready]
        high = np.inf if last else following - 1 - self._axes.shear[1, 0]
        self._label(self._axes.sources(0, self._done, high), keep)
        self._done = high
        if not last:
            first = max(self._base, math.floor(high + self._axes.shear[0, 0]))
            self._move(first - self._base)
            self._fresh = following - first
        return sums

    def _label(self, planes: slice, keep: Keep) -> None:
        axes = self._axes
        beside, along = (band.sources for band in self._tile)
        sides = (beside.stop - beside.start, along.stop - along.start)
        if not all(sides):
            return
        corner = (self._base, *(band.cells[0] for band in self._tile))
        step = max(1, _PART_VALUES // (len(self._total) * sides[0] * sides[1]))
        for first in range(planes.start, planes.stop, step):
            stop = min(first + step, planes.stop)
            begin = np.array([first, beside.start, along.start], np.float64)
            offset = axes.matrix @ begin + axes.shift - corner
            sampled = resample(self._total, axes.matrix, offset, (stop - first, *sides), mode="linear")
            part: npt.NDArray[np.uint8] = np.empty(sampled.shape[1:], np.uint8)
            argmax_slab(sampled, part)
            keep((slice(first, stop), beside, along), part)

    def _move(self, planes: int) -> None:
        """Drop the first planes; one plane at a time, as whole slabs would be copied."""
        depth = self._total.shape[1]
        for sums in (*self._total, self._weight):
            for plane in range(depth - planes):
                sums[plane] = sums[plane + planes]
            sums[depth - planes :] = 0
        self._base += planes
