"""Batches of a site's training images: drawn evenly, changed at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandShiftIntensity,
)
from monai.transforms.spatial.array import RandAffine, RandFlip, RandRotate90
from monai.transforms.transform import Transform
from torch import Tensor

from fedmed_edge.features.drawing import Drawing, Window
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Recipe

__all__ = ["Changes", "Feed"]


class Feed:
    """Endless batches of one site's images.

    Args:
        dataset: Its labelled items are drawn.
        batch: Images (windows) a batch.
        seed: Of draws and changes.

    Attributes:
        images: How many there are.

    Raises:
        InputError: The data set has no labelled item.
    """

    def __init__(self, dataset: Dataset, *, batch: int, seed: int) -> None:
        self.drawing = Drawing(dataset, seed)
        self.images = len(self.drawing.items)
        self.count = batch
        self.changes = Changes(dataset.recipe, seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images (B, channels, *size) float32, with labels (B,) or masks (B, *size) int64."""
        return self._changed([self.drawing.next() for _ in range(self.count)])

    def batch_of(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `batch`, of items by their number in `drawing.items`."""
        return self._changed([self.drawing.window(item) for item in items])

    def _changed(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        images, targets = zip(*(self._one(*window) for window in windows), strict=True)
        return torch.stack(images), torch.stack(targets)

    def _one(
        self, pixels: npt.NDArray[np.float32], label: int, mask: npt.NDArray[np.uint8] | None
    ) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(pixels)
        if mask is None:
            return self.changes(image, None)[0], torch.tensor(label)
        image, changed = self.changes(image, torch.from_numpy(mask[None].astype(np.float32)))
        assert changed is not None
        return image, changed[0].round().long()


class Changes:
    """Random flips, turns, affine maps, and small changes of intensity, of one image and its mask.

    What makes another hospital's image of it, curves and turned contrasts too, is `shifts.Shift`.

    Args:
        recipe: Size and kind of the images.
        seed: Of every draw.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        size, dimensions = recipe.size, recipe.dimensions
        turns = 0.3 if dimensions == 2 else (0.1, 0.1, 0.3)
        self.moves: list[Any] = [RandFlip(0.5, axis) for axis in range(dimensions)]
        if size[0] == size[1]:
            self.moves.append(RandRotate90(0.5))
        self.moves.append(
            RandAffine(
                0.5,
                rotate_range=turns,
                scale_range=[0.15] * dimensions,
                translate_range=[0.06 * side for side in size],
                padding_mode="border",
            )
        )
        blur = ((0.3, 1.2),) * 3
        colours: list[Transform] = [
            RandScaleIntensity(0.25, 0.7, channel_wise=True),
            RandShiftIntensity(0.1, prob=0.5, channel_wise=True),
            RandAdjustContrast(0.4, (0.6, 1.7)),
            RandGaussianSmooth(*blur, prob=0.15),
            RandGaussianNoise(0.25, std=0.06),
        ]
        self.colours = Compose(colours)
        for index, move in enumerate(self.moves):
            move.set_random_state(seed=(seed + index) % (1 << 32))
        self.colours.set_random_state(seed=(seed + len(self.moves)) % (1 << 32))

    def __call__(self, image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The image (channels, *size) and its mask (1, *size), moved alike."""
        for move in self.moves:
            image = move(image)
            if mask is not None:
                same = {"mode": "nearest"} if isinstance(move, RandAffine) else {}
                mask = move(mask, randomize=False, **same)
        return self.colours(image), mask
