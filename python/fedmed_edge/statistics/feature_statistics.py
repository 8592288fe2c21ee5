"""The sums that one site hands over, and how they add.

A Gram is kept as its packed upper triangle: P = D(D + 1)/2 float64 values, row by row. Rows end in 1, so the
last packed column holds the sum of the rows and the last packed element their count.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError

Array64 = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

REST = -1
"""Fold number of the part that is always trained on and never held out."""

__all__ = [
    "REST",
    "Array64",
    "Counts",
    "FeatureStatistics",
    "last_column",
    "pack",
    "packed_length",
    "unpack",
    "width_of",
]


def packed_length(width: int) -> int:
    """Length P of the packed upper triangle of a (width, width) matrix.

    Example:
        >>> packed_length(3)
        6
    """
    return width * (width + 1) // 2


def width_of(length: int) -> int:
    """Width of the matrix whose packed upper triangle has `length` elements.

    Raises:
        ValueError: `length` is no triangular number.

    Example:
        >>> width_of(6)
        3
    """
    width = (isqrt(8 * length + 1) - 1) // 2
    if packed_length(width) != length:
        raise ValueError(f"packed gram has {length} elements, expected a triangular number")
    return width


@lru_cache(maxsize=4)
def _upper(width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    rows, columns = np.triu_indices(width)
    return rows, columns


@lru_cache(maxsize=16)
def last_column(width: int) -> npt.NDArray[np.intp]:
    """Positions (width,) of the last column in the packed order, top to bottom.

    Example:
        >>> last_column(3)
        array([2, 4, 5])
    """
    row = np.arange(width)
    positions = row * width - row * (row - 1) // 2 + width - 1 - row
    positions.setflags(write=False)
    return positions


def pack(matrix: npt.ArrayLike) -> Array64:
    """Packed upper triangle (P,) float64 of a square matrix (D, D), row by row.

    Example:
        >>> pack([[1.0, 2.0], [2.0, 3.0]])
        array([1., 2., 3.])
    """
    square = np.asarray(matrix, np.float64)
    return square[_upper(square.shape[0])]


def unpack(packed: Array64) -> Array64:
    """Symmetric matrix (D, D) float64 of a packed upper triangle (P,).

    Raises:
        ValueError: The length is no triangular number.

    Example:
        >>> unpack(np.array([1.0, 2.0, 3.0]))
        array([[1., 2.],
               [2., 3.]])
    """
    width = width_of(packed.shape[0])
    rows, columns = _upper(width)
    matrix = np.empty((width, width))
    matrix[rows, columns] = packed
    matrix[columns, rows] = packed
    return matrix


def _zeros(*shape: int) -> Array64:
    return np.zeros(shape, np.float64)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Plain sums over the rows and images of one site (method §2). C classes, D row width, F features.

    Class Grams are kept sparse: only the (fold, class) pairs that hold rows. The dense arrays of the file,
    `class_grams` and `rest_grams`, are made on request.

    Attributes:
        classes: Class names; the index of a class is its place here.
        row_dim: D, width of a lifted row z = [relu(fR + b), f, 1].
        feature_dim: F, width of an image's pooled, unlifted feature.
        folds: 0, 2 or 5; the most that any class has.
        blocks: (fold, class index) → packed Gram (P,) of the rows of that class in that fold; fold `REST`
            holds a class that is too small for folds. Treat as immutable.
        absent: Names of the classes that were left out by `min_cohort`.
        patients: (C,) int64, patients behind every class; 0 for an absent one.
        unlabelled: (P,) packed Gram of rows without a class.
        shift_gram: (P,) packed Gram of [Δ, 1], Δ the D − 1 differences between a row of an image and the same
            row of its shifted view; rows with a class and without.
        image_gram: (P_F,) packed Gram of [f, 1], one row an image, P_F of width F + 1.
        distance_moments: (3,) count, Σd², Σd⁴ of Mahalanobis distances to the generation's reference.
        channel_moments: (3, ΣC_k) count, sum, sum of squares of every backbone output channel.
        style_count: Images in the style sums.
        style_sum, style_square: (channels, h, w) sum and sum of squares of the log-amplitude (`style`).
        calibration: (T, 32) sums of `calibration.bin_counts`, or None.

    Example:
        >>> from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
        >>> plan = plan_folds({0: {"ann"}, 1: {"bob"}}, min_cohort=1)
        >>> sums = Accumulator(("benign", "malignant"), row_dim=2, feature_dim=1, plan=plan)
        >>> sums.add_rows(np.array([[3, 1], [5, 1]], np.float32), np.array([0, 1], np.int32), "ann")
        >>> sums.result().class_counts
        array([1., 1.])
    """

    classes: tuple[str, ...]
    row_dim: int
    feature_dim: int
    folds: int = 0
    blocks: Mapping[tuple[int, int], Array64] = field(default_factory=dict, repr=False)
    absent: tuple[str, ...] = ()
    patients: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    unlabelled: Array64 = field(default_factory=lambda: _zeros(0), repr=False)
    shift_gram: Array64 = field(default_factory=lambda: _zeros(0), repr=False)
    image_gram: Array64 = field(default_factory=lambda: _zeros(0), repr=False)
    distance_moments: Array64 = field(default_factory=lambda: _zeros(3), repr=False)
    channel_moments: Array64 = field(default_factory=lambda: _zeros(3, 0), repr=False)
    style_count: float = 0.0
    style_sum: Array64 = field(default_factory=lambda: _zeros(0, 0, 0), repr=False)
    style_square: Array64 = field(default_factory=lambda: _zeros(0, 0, 0), repr=False)
    calibration: Array64 | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        sizes = {
            "patients": len(self.classes),
            "unlabelled": packed_length(self.row_dim),
            "shift_gram": packed_length(self.row_dim),
            "image_gram": packed_length(self.feature_dim + 1),
        }
        for name, size in sizes.items():
            value = getattr(self, name)
            if value.size == 0:
                object.__setattr__(self, name, np.zeros(size, value.dtype))
            elif value.shape != (size,):
                raise ValueError(f"statistics: `{name}` has shape {value.shape}, expected ({size},)")

    @property
    def class_counts(self) -> Array64:
        """(C,) rows of every class, as float64."""
        return self._sum_over_blocks(last_column(self.row_dim)[-1:])[:, 0]

    @property
    def class_sums(self) -> Array64:
        """(C, D) sum of the rows of every class."""
        return self._sum_over_blocks(last_column(self.row_dim))

    def _sum_over_blocks(self, positions: npt.NDArray[np.intp]) -> Array64:
        total = _zeros(len(self.classes), len(positions))
        for (_, index), block in _in_order(self.blocks):
            total[index] += block[positions]
        return total

    @property
    def class_grams(self) -> Array64:
        """(folds, C, P) dense Grams of the parts that can be held out; zeros where there is none."""
        dense = _zeros(self.folds, len(self.classes), packed_length(self.row_dim))
        for (fold, index), block in self.blocks.items():
            if fold != REST:
                dense[fold, index] = block
        return dense

    @property
    def rest_grams(self) -> Array64:
        """(C, P) dense Grams of the classes that are too small for folds; zeros for the others."""
        dense = _zeros(len(self.classes), packed_length(self.row_dim))
        for (fold, index), block in self.blocks.items():
            if fold == REST:
                dense[index] = block
        return dense

    def class_gram(self, index: int) -> Array64:
        """(P,) packed Gram of one class, over its folds and its rest."""
        total = _zeros(packed_length(self.row_dim))
        for (_, of), block in _in_order(self.blocks):
            if of == index:
                total += block
        return total

    def gram(self) -> Array64:
        """(P,) pooled packed Gram of all rows, with a class or without."""
        total = self.unlabelled.copy()
        for _, block in _in_order(self.blocks):
            total += block
        return total

    def fold(self, number: int) -> "FeatureStatistics":
        """The class statistics of one held-out fold; unlabelled rows left out, image-level sums kept."""
        blocks = {key: block for key, block in self.blocks.items() if key[0] == number}
        return replace(self, blocks=blocks, unlabelled=_zeros(0))

    def without_fold(self, number: int) -> "FeatureStatistics":
        """Everything but the class statistics of one fold: what a head is fitted on while it is held out."""
        return replace(self, blocks={key: block for key, block in self.blocks.items() if key[0] != number})

    @property
    def images(self) -> int:
        """Images in the image statistics."""
        return int(self.image_gram[-1])

    @property
    def style_mean(self) -> Array64:
        """(channels, h, w) mean log-amplitude over the images; empty without style."""
        return self.style_sum / max(self.style_count, 1.0)

    @property
    def style_deviation(self) -> Array64:
        """(channels, h, w) deviation of the log-amplitude over the images; empty without style."""
        square = self.style_square / max(self.style_count, 1.0)
        return np.sqrt(np.maximum(square - self.style_mean**2, 0.0))

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Sums of both, for two sets of images of disjoint patients under one generation.

        Folds add by number. A class is absent from the sum where both lack it. `calibration` is kept only
        where both have it, since it is evidence about one and the same head.

        Raises:
            InputError: The two do not speak of the same classes or the same generation.
        """
        _refuse_unlike(self, other)
        blocks = dict(self.blocks)
        for key, block in other.blocks.items():
            blocks[key] = blocks[key] + block if key in blocks else block
        both = self.calibration is not None and other.calibration is not None
        return FeatureStatistics(
            classes=self.classes,
            row_dim=self.row_dim,
            feature_dim=self.feature_dim,
            folds=max(self.folds, other.folds),
            blocks=blocks,
            absent=tuple(name for name in self.absent if name in other.absent),
            patients=self.patients + other.patients,
            unlabelled=self.unlabelled + other.unlabelled,
            shift_gram=self.shift_gram + other.shift_gram,
            image_gram=self.image_gram + other.image_gram,
            distance_moments=self.distance_moments + other.distance_moments,
            channel_moments=_add(self.channel_moments, other.channel_moments),
            style_count=self.style_count + other.style_count,
            style_sum=_add(self.style_sum, other.style_sum),
            style_square=_add(self.style_square, other.style_square),
            calibration=_add(self.calibration, other.calibration) if both else None,  # type: ignore[arg-type]
        )


def _in_order(
    blocks: Mapping[tuple[int, int], Array64],
) -> Iterable[tuple[tuple[int, int], Array64]]:
    """Blocks by fold, then class, so that a sum never depends on the order in which images came."""
    return sorted(blocks.items(), key=lambda item: item[0])


def _add(one: Array64, other: Array64) -> Array64:
    """Sum of two arrays, of which an empty one stands for zeros."""
    if one.size == 0 or other.size == 0:
        return other if one.size == 0 else one
    return one + other


def _refuse_unlike(one: FeatureStatistics, other: FeatureStatistics) -> None:
    for name in ("classes", "row_dim", "feature_dim"):
        got, wanted = getattr(other, name), getattr(one, name)
        if got != wanted:
            raise InputError(f"statistics: `{name}` has {got}, expected {wanted}")
    for name in ("channel_moments", "style_sum"):
        got, wanted = getattr(other, name).shape, getattr(one, name).shape
        if 0 not in got and 0 not in wanted and got != wanted:
            raise InputError(f"statistics: `{name}` has shape {got}, expected {wanted}")
