"""Sums of outer products of feature rows, by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.kernels.device import with_twin
from fedmed_edge.kernels.threads import thread_count

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
GramMode = Literal["exact", "fast"]


@with_twin("rows", "classes", "grams")
def class_gram(
    rows: Rows,
    classes: Int32,
    grams: Float64,
    *,
    mode: GramMode = "exact",
    dtype: Literal["bfloat16"] | None = None,
) -> None:
    """Add every row's outer product with itself to the Gram of its class.

    ``grams[classes[n]] += packed upper triangle of rows[n]ᵀ rows[n]``; rows of class -1 are left out. Pooled:
    one class, all zeros. As sums of rows, grams of parts add up to that of the whole.

    `exact`: products are exact in float64 and summed in float64 in a fixed order. `fast`: the mean of up to
    1,024 rows of a class is taken off, products are summed in float32 over 12 rows, four such sums to each
    other and then in float64. No element is further than 1e-6 √(gᵢᵢ gⱼⱼ) from `exact`, whatever the rows and
    their mean, as long as values are 0 or between 1e-18 and 1e18 in size.

    Args:
        rows: (N, D) float32 or float16; or bfloat16 as uint16 bit patterns (NumPy has no such type), named by
            `dtype`. An `ml_dtypes.bfloat16` array's patterns are its ``view(np.uint16)``.
        classes: (N,) int32 from -1 to K - 1.
        grams: (K, D (D + 1) / 2) float64 packed upper triangles in the order of `numpy.triu_indices`; added
            to.
        mode: `exact` or `fast`.
        dtype: "bfloat16" where `rows` holds its bit patterns.

    Raises:
        ValueError: An array has another dtype, shape or memory order, or a class is out of range; then
            `grams` is as it was.

    Example:
        >>> grams = np.zeros((2, 3))
        >>> class_gram(np.array([[1, 2], [3, 4]], np.float32), np.array([1, -1], np.int32), grams)
        >>> grams.tolist()
        [[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]
    """
    if dtype not in (None, "bfloat16"):
        raise ValueError(f"class_gram: `dtype` has `{dtype}`, expected `bfloat16` or none")
    _kernels.class_gram(rows, classes, grams, mode, dtype or "", thread_count())


@dataclass(frozen=True, eq=False)
class LiftWeights:
    """The map from all scales' channels (C = Σ c_k) to rows [relu(f lift + bias), f projection, 1].

    Attributes:
        mean: (C,) float32, and
        gain: (C,) float32: f = (x - mean) gain.
        lift: (C, L) float32, from standardised channels straight to lifted columns; L may be 0.
        bias: (L,) float32.
        projection: (C, F) float32; None: f itself stands in the row.
    """

    mean: Float32
    gain: Float32
    lift: Float32
    bias: Float32
    projection: Float32 | None = None

    @property
    def row_dim(self) -> int:
        """D, width of a row."""
        for name, matrix in (("lift", self.lift), ("projection", self.projection)):
            if matrix is not None and len(matrix.shape) != 2:
                raise ValueError(f"lifted_class_gram: `{name}` has {len(matrix.shape)} axes, expected 2")
        features = len(self.mean) if self.projection is None else self.projection.shape[1]
        return int(self.lift.shape[1] + features + 1)


@with_twin("maps", "classes", "grams")
def lifted_class_gram(
    maps: Sequence[Float32],
    weights: LiftWeights,
    *,
    size: Sequence[int],
    stride: int,
    classes: Int32,
    grams: Float64,
    picked: npt.NDArray[np.int64] | None = None,
    mode: GramMode = "exact",
) -> Float32:
    """Make the lifted rows of one image and add each one's outer product to the Gram of its class.

    Row n belongs to cell n of a strided label grid, last axis fastest. Maps are interpolated linearly between
    the centres of their cells; rows are made a few hundred at a time and never stand in memory together.
    A row's element is within (C + 16) 2⁻²⁴ Σ|f w| of its float64 definition; sums are those of `class_gram`.

    Args:
        maps: (c_k, *s_k) float32 of every scale, on 2 or 3 axes.
        weights: From all scales' channels to rows (D).
        size: Label grid.
        stride: Rows stand at stride // 2 (side // 2 where that is less) and every `stride` cells after it.
        classes: (N,) int32 from -1 to K - 1; rows of -1 are left out.
        grams: (K, D (D + 1) / 2) float64 packed upper triangles; added to.
        picked: Ascending numbers of rows to be handed out, whatever their class.
        mode: `exact` or `fast`.

    Returns:
        (len(picked), D) float32.

    Raises:
        ValueError: An array has another dtype, shape or memory order, or a class or row is out of range; then
            `grams` is as it was.

    Example:
        >>> numbers = np.ones(1, np.float32)
        >>> weights = LiftWeights(0 * numbers, numbers, -numbers[:, None], numbers)
        >>> maps, classes, grams = np.array([[[0.5, 2]]], np.float32), np.zeros(2, np.int32), np.zeros((1, 6))
        >>> lifted_class_gram([maps], weights, size=(1, 2), stride=1, classes=classes, grams=grams)
        array([], shape=(0, 3), dtype=float32)
        >>> grams.tolist()
        [[0.25, 0.25, 0.5, 4.25, 2.5, 2.0]]
    """
    picked = np.zeros(0, np.int64) if picked is None else picked
    kept = np.empty((len(picked), weights.row_dim), np.float32)
    projection = np.zeros((0, 0), np.float32) if weights.projection is None else weights.projection
    _kernels.lifted_class_gram(
        maps,
        weights.mean,
        weights.gain,
        weights.lift,
        weights.bias,
        projection,
        size,
        stride,
        classes,
        grams,
        picked,
        kept,
        mode,
        thread_count(),
    )
    return kept
