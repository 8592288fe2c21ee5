"""Sums of outer products of feature rows, by class."""

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.kernels.device import with_twin
from fedmed_edge.kernels.threads import thread_count

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


@with_twin("rows", "classes", "grams")
def class_gram(rows: Float32, classes: Int32, grams: Float64) -> None:
    """Add every row's outer product with itself to the Gram of its class.

    ``grams[classes[n]] += packed upper triangle of rows[n]ᵀ rows[n]``; rows of class -1 are left out.
    Products are exact in float64 and summed in float64 in a fixed order.

    Args:
        rows: (N, D) float32.
        classes: (N,) int32 from -1 to K - 1.
        grams: (K, D (D + 1) / 2) float64 packed upper triangles in the order of `numpy.triu_indices`; added
            to.

    Raises:
        ValueError: An array has another dtype, shape or memory order, or a class is out of range; then
            `grams` is as it was.

    Example:
        >>> grams = np.zeros((2, 3))
        >>> class_gram(np.array([[1, 2], [3, 4]], np.float32), np.array([1, -1], np.int32), grams)
        >>> grams.tolist()
        [[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]
    """
    _kernels.class_gram(rows, classes, grams, thread_count())
