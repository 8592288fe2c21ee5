"""The few solves that all else is made of, on one LAPACK thread so that bits do not depend on cores."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import diagonal_positions, ridge_solve, upper_triangle
from fedmed_edge.statistics.feature_statistics import Array64

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


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
    head: Array64 = solve_ridges(gram, targets, [ridge])[0]
    return head


def solve_ridges(gram: Array64, targets: Array64, ridges: Sequence[float]) -> Array64:
    """The same for several ridges: (R, D, C) float64.

    Raises:
        InputError: G with one of the ridges is not positive definite.
    """
    try:
        solution = ridge_solve(gram, targets, ridges)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"rebuild: the sum of the Grams {str(error).partition('`gram` ')[2]}",
            hint="ask for a larger ridge, or leave it at auto",
        ) from None
    log.debug("ridges %s: reciprocal condition numbers %s", ridges, solution.rcond)
    return solution.heads


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
