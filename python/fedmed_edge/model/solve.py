"""The few solves that all else is made of, on one LAPACK thread so that bits do not depend on cores."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.feature_statistics import Array64, width_of

P = ParamSpec("P")
R = TypeVar("R")

_BLOCK = 64


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS and LAPACK to one thread: how they split work over threads would change the last bits.

    Example:
        >>> with one_thread():
        ...     float(np.linalg.det(np.eye(2)))
        1.0
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the whole call runs under `one_thread`."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread():
            return function(*args, **kwargs)

    return limited


def upper_triangle(packed: Array64) -> Array64:
    """(D, D) float64 with the packed values on and above the diagonal and zeros below.

    Args:
        packed: (P,) upper triangle, row by row.

    Example:
        >>> upper_triangle(np.array([1.0, 2.0, 3.0]))
        array([[1., 2.],
               [0., 3.]])
    """
    width = width_of(packed.shape[0])
    matrix = np.zeros((width, width))
    start = 0
    for row in range(width):
        matrix[row, row:] = packed[start : start + width - row]
        start += width - row
    return matrix


def diagonal_positions(width: int) -> npt.NDArray[np.intp]:
    """Positions (width,) of the diagonal in the packed order.

    Example:
        >>> diagonal_positions(3)
        array([0, 3, 5])
    """
    row = np.arange(width)
    return row * width - row * (row - 1) // 2


def solve_ridge(gram: Array64, targets: Array64, ridge: float) -> Array64:
    """Solve (G + ridge · mean(diag G) · I) H = B by Cholesky in float64.

    Args:
        gram: (P,) packed upper triangle of G.
        targets: (D, C) right-hand sides B.
        ridge: λ, ≥ 0.

    Returns:
        (D, C) float64; zeros where G is all zeros.

    Raises:
        InputError: G with its ridge is not positive definite.

    Source: method §3.

    Example:
        >>> solve_ridge(np.array([2.0, 0.0, 2.0]), np.array([[3.0], [0.0]]), 0.5).ravel()
        array([1., 0.])
    """
    matrix = upper_triangle(gram)
    diagonal = np.einsum("ii->i", matrix)
    scale = diagonal.mean()
    if scale == 0.0:
        return np.zeros_like(targets)
    diagonal += ridge * scale
    try:
        root = np.linalg.cholesky(matrix, upper=True).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        raise InputError(
            f"rebuild: the sum of the Grams with ridge {ridge:g} is not positive definite",
            hint="ask for a larger ridge, or leave it at auto",
        ) from None
    return _back(root, _forward(root, targets))


def _forward(root: Array64, targets: Array64) -> Array64:
    """Solve rootᵀ y = targets, block by block; NumPy has no triangular solve of its own."""
    out = targets.copy()
    for start in range(0, len(root), _BLOCK):
        block = slice(start, start + _BLOCK)
        rhs = out[block] - root[:start, block].T @ out[:start]
        out[block] = np.linalg.solve(root[block, block].T, rhs)
    return out


def _back(root: Array64, targets: Array64) -> Array64:
    """Solve root x = targets."""
    out = targets.copy()
    for start in reversed(range(0, len(root), _BLOCK)):
        block, after = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        out[block] = np.linalg.solve(root[block, block], out[block] - root[block, after] @ out[after])
    return out


def quadratic(gram: Array64, head: Array64) -> Array64:
    """HᵀGH (C, C) of a packed Gram (P,) and a head (D, C).

    Example:
        >>> quadratic(np.array([1.0, 2.0, 3.0]), np.array([[1.0], [1.0]]))
        array([[8.]])
    """
    half = head.T @ (upper_triangle(gram) @ head)
    own = gram[diagonal_positions(len(head))]
    return half + half.T - head.T @ (own[:, None] * head)


def root_psd(matrix: Array64) -> Array64:
    """Symmetric square root (F, F) of a symmetric matrix, negative eigenvalues clipped at 0.

    Example:
        >>> root_psd(np.diag([4.0, 9.0]))
        array([[2., 0.],
               [0., 3.]])
    """
    values, vectors = np.linalg.eigh(matrix)
    half = vectors * np.sqrt(np.sqrt(np.maximum(values, 0.0)))
    root: Array64 = half @ half.T
    return root
