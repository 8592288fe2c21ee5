"""Which training image, and which window of it, comes next."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.images.preprocess import IGNORE, prepare, prepare_mask
from fedmed_edge.images.windows import window_of

__all__ = ["CACHE_BYTES", "Case", "Drawing", "Window"]

CACHE_BYTES = 1 << 29
"""Prepared images are kept in memory up to here; later ones are prepared again each time."""


Window = tuple[npt.NDArray[np.float32], int, npt.NDArray[np.uint8] | None]
"""Pixels (channels, *size), label (−1 for segmentation) and mask (*size)."""


@dataclass(frozen=True, eq=False)
class Case:
    """A prepared training image (channels, *grid) float32 and, for segmentation, its mask (*grid) uint8."""

    pixels: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8] | None


class Drawing:
    """Draws labelled images of a data set for ever, seeded.

    Classification draws every class equally often, and each image of a class once before any of them twice;
    segmentation draws every image once a pass. Half of the windows of a volume are centred on a voxel of a
    foreground class, each class equally often.

    Args:
        dataset: Its unlabelled items are passed over.
        seed: Seed of every draw.

    Raises:
        InputError: The data set has no labelled item.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.recipe = dataset.recipe
        self.items: tuple[Item, ...] = dataset.labelled.items
        if not self.items:
            raise InputError(f"{dataset.folder}: has no labelled training image, expected at least one")
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._kept: dict[int, Case] = {}
        self._bytes = 0
        self._order = self._draw()

    def next(self) -> Window:
        """Window of the next draw."""
        return self.window(next(self._order))

    def window(self, index: int) -> Window:
        """Window of an item."""
        case, label = self._case(index), self.items[index].label
        pixels, mask = case.pixels, case.mask
        if pixels.shape[1:] != self.recipe.size:
            start = self._start(pixels.shape[1:], mask)
            pixels = window_of(pixels, start, self.recipe.size)
            mask = None if mask is None else window_of(mask, start, self.recipe.size)
        return np.ascontiguousarray(pixels), -1 if label is None else label, mask

    def _case(self, index: int) -> Case:
        if index in self._kept:
            return self._kept[index]
        item, mask = self.items[index], None
        image = self.dataset.load(item)
        prepared = prepare(image, self.recipe)
        if self.recipe.kind == "segmentation":
            mask = prepare_mask(self.dataset.load_mask(item, image), prepared)
        case = Case(prepared.pixels, mask)
        size = case.pixels.nbytes + (0 if mask is None else mask.nbytes)
        if self._bytes + size <= CACHE_BYTES:
            self._kept[index] = case
            self._bytes += size
        return case

    def _draw(self) -> Iterator[int]:
        labels = np.array([-1 if item.label is None else item.label for item in self.items])
        if self.recipe.kind == "segmentation":
            labels[:] = 0
        stacks: dict[int, list[int]] = {int(label): [] for label in np.unique(labels)}
        while True:
            for label in self._random.permutation(list(stacks)):
                stack = stacks[int(label)]
                if not stack:
                    stack.extend(self._random.permutation(np.flatnonzero(labels == label)).tolist())
                yield stack.pop()

    def _start(self, grid: tuple[int, ...], mask: npt.NDArray[np.uint8] | None) -> tuple[int, ...]:
        size = self.recipe.size
        last = [side - window for side, window in zip(grid, size, strict=True)]
        if mask is not None and self._random.random() < 0.5:
            present = [value for value in np.unique(mask).tolist() if value not in (0, IGNORE)]
            if present:
                places = np.flatnonzero(mask == self._random.choice(present))
                middle = np.unravel_index(self._random.choice(places), grid)
                return tuple(
                    int(np.clip(at - window // 2, 0, end))
                    for at, window, end in zip(middle, size, last, strict=True)
                )
        return tuple(int(self._random.integers(0, end + 1)) for end in last)
