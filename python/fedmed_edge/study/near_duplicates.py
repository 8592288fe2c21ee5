"""Images that are nearly the same in training and test: reported, for a score on them is no score."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from fedmed_edge.images.dataset import Dataset, Item

SIDE = 32
ALIKE = 0.99
"""Correlation of two thumbnails from which on they are called near-duplicates."""

_BLOCK = 512

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """A training and a test image that are nearly the same.

    Attributes:
        train, test: Site and place of the image in its dataset folder.
        correlation: Of their thumbnails.
    """

    train: tuple[str, str]
    test: tuple[str, str]
    correlation: float


def near_duplicates(data: Mapping[str, Dataset]) -> list[Pair]:
    """Pairs over all sites of a task, the most alike first.

    Images are compared by the correlation of their grey thumbnails of 32 × 32, whatever their size and
    brightness; turned and mirrored copies are not found. Of a volume the middle slice stands for all.

    Args:
        data: Site → its whole data set.

    Raises:
        InputError: An image cannot be read.
    """
    train, train_rows = _rows({site: one.train for site, one in data.items()})
    test, test_rows = _rows({site: one.test for site, one in data.items()})
    pairs = []
    for start in range(0, len(test), _BLOCK):
        alike = test_rows[start : start + _BLOCK] @ train_rows.T
        for row, column in zip(*np.nonzero(alike >= ALIKE), strict=True):
            pairs.append(Pair(train[column], test[start + row], round(float(alike[row, column]), 4)))
    return sorted(pairs, key=lambda pair: (-pair.correlation, pair.train, pair.test))


def _rows(data: Mapping[str, Dataset]) -> tuple[list[tuple[str, str]], Float32]:
    """Site and place of every image, and rows (N, SIDE²) of unit length and mean 0."""
    places, rows = [], [np.zeros((0, SIDE * SIDE), np.float32)]
    for site, dataset in data.items():
        for item in dataset:
            places.append((site, item.image.relative_to(dataset.folder).as_posix()))
            rows.append(_thumbnail(dataset, item)[None])
    return places, np.concatenate(rows)


def _thumbnail(dataset: Dataset, item: Item) -> Float32:
    pixels = dataset.load(item).pixels
    if pixels.ndim == 4:
        pixels = pixels[..., pixels.shape[-1] // 2]
    grey = Picture.fromarray(np.ascontiguousarray(pixels.mean(axis=0), np.float32))
    small = np.asarray(grey.resize((SIDE, SIDE), Picture.Resampling.BOX), np.float32).ravel()
    small = small - small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)
