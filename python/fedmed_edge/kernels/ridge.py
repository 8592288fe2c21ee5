"""Ridge regression from packed Gram matrices, and its error on rows held out, on LAPACK.

LAPACK is the one that NumPy brings: `numpy.linalg` factorises, matrix products do the rest. SciPy's has the
triangular solve and the condition estimate that NumPy lacks, but would add a hundred megabytes to every
installation for calls that are up to twice as quick; a LAPACK of our own would be one library more whose last
bits differ from machine to machine. How NumPy's splits work over threads changes last bits too: a caller
that needs the same ones holds it to one thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_BLOCK = 64
# As many Cholesky factorisations take as long as one decomposition into eigenvectors: 6 at D = 512, 10 at
# 1,025.
_EIGEN_FROM = 8
_ESTIMATE_STEPS = 5


@dataclass(frozen=True, eq=False)
class RidgeSolution:
    """Solutions of one system at several ridges.

    Attributes:
        heads: (R, D, C) float64, one solution a ridge.
        rcond: (R,) float64 from 0 to 1, an estimate of 1 / condition number: about as many of the sixteen
            digits are lost as it has zeros. 1 where the Gram is all zeros.
    """

    heads: Float64 = field(repr=False)
    rcond: Float64


def upper_triangle(packed: Float64) -> Float64:
    """(D, D) float64 with the packed values on and above the diagonal and zeros below.

    Args:
        packed: (D (D + 1) / 2,) upper triangle, row by row.

    Example:
        >>> upper_triangle(np.array([1.0, 2.0, 3.0]))
        array([[1., 2.],
               [0., 3.]])
    """
    width = _width(packed)
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


def ridge_solve(gram: Float64, targets: Float64, ridges: Sequence[float]) -> RidgeSolution:
    """Solve (G + λ · mean(diag G) · I) H = B in float64 for every λ.

    Fewer than eight λ are solved by one Cholesky factorisation each, more by one decomposition into
    eigenvectors for all. `rcond` is then in the 1-norm (Higham's estimate, which LAPACK's `pocon` is too) or
    the 2-norm (the eigenvalues).

    Args:
        gram: (D (D + 1) / 2,) packed upper triangle of G.
        targets: (D, C) right-hand sides B.
        ridges: R values λ, each ≥ 0.

    Returns:
        Heads and condition; heads are zeros where G is all zeros.

    Raises:
        ValueError: `gram` and `targets` do not fit each other, are no finite float64, or a ridge is negative.
        numpy.linalg.LinAlgError: G with a ridge is not positive definite.

    Source: method §3; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., algorithm 15.1.

    Example:
        >>> solution = ridge_solve(np.array([2.0, 0.0, 2.0]), np.array([[3.0], [0.0]]), [0.5, 2.0])
        >>> solution.heads[:, :, 0].round(12).tolist(), solution.rcond.round(12).tolist()
        ([[1.0, 0.0], [0.5, 0.0]], [1.0, 1.0])
    """
    if targets.ndim != 2 or targets.shape[0] != _width(gram):
        raise ValueError(
            f"ridge_solve: `targets` has shape {targets.shape}, expected ({_width(gram)}, C) as `gram`"
        )
    if any(not 0.0 <= ridge < float("inf") for ridge in ridges):
        raise ValueError(f"ridge_solve: `ridges` has {list(ridges)}, expected values of at least 0")
    for name, array in (("gram", gram), ("targets", targets)):
        if array.dtype != np.float64:
            raise ValueError(f"ridge_solve: `{name}` has dtype {array.dtype}, expected float64")
        if not np.isfinite(array).all():
            # LAPACK would go on, and the condition come out as if all were well.
            raise ValueError(f"ridge_solve: `{name}` has values that are not finite, expected finite ones")
    matrix = upper_triangle(gram)
    scale = float(np.einsum("ii->i", matrix).mean()) if matrix.size else 0.0
    if scale == 0.0:
        return RidgeSolution(np.zeros((len(ridges), *targets.shape)), np.ones(len(ridges)))
    if len(ridges) >= _EIGEN_FROM:
        return _by_eigenvectors(matrix, targets, [ridge * scale for ridge in ridges], ridges)
    return _by_cholesky(matrix, targets, [ridge * scale for ridge in ridges], ridges)


def held_out_losses(heads: Float64, gram: Float64, cross: Float64, constant: float) -> Float64:
    """Squared error of several heads on rows held out, from the rows' sums: constant - 2⟨X, H⟩ + tr(HᵀGH).

    All heads go through one product with G.

    Args:
        heads: (R, D, C) float64.
        gram: (D, D) upper triangle of the held-out rows' Gram, zeros below (`upper_triangle`).
        cross: (D, C) X, the held-out rows' own right-hand sides.
        constant: Their sum of squared targets.

    Returns:
        (R,) float64.

    Raises:
        ValueError: The shapes do not fit each other.

    Source: method §4.

    Example:
        >>> rows = np.array([[1.0, 2.0], [0.0, 1.0]])
        >>> heads = np.array([[[1.0], [0.0]], [[0.0], [0.5]]])
        >>> held_out_losses(heads, np.triu(rows.T @ rows), rows.T @ np.ones((2, 1)), 2.0).tolist()
        [1.0, 0.25]
    """
    if heads.ndim != 3 or gram.shape != heads.shape[1:2] * 2 or cross.shape != heads.shape[1:]:
        raise ValueError(
            f"held_out_losses: `heads`, `gram` and `cross` have shapes {heads.shape}, {gram.shape} and "
            f"{cross.shape}, expected (R, D, C), (D, D) and (D, C)"
        )
    count, width, classes = heads.shape
    side_by_side = heads.transpose(1, 0, 2).reshape(width, count * classes)
    # Of a symmetric matrix HᵀGH = 2 HᵀUH − HᵀDH.
    square = 2.0 * (gram @ side_by_side) - np.diagonal(gram)[:, None] * side_by_side
    total = np.einsum("dn,dn->n", side_by_side, square).reshape(count, classes).sum(axis=1)
    losses: Float64 = constant - 2.0 * np.einsum("rdc,dc->r", heads, cross) + total
    return losses


def _width(packed: Float64) -> int:
    width = int((np.sqrt(8.0 * packed.size + 1.0) - 1.0) / 2.0)
    if packed.ndim != 1 or width * (width + 1) // 2 != packed.size:
        raise ValueError(f"ridge_solve: `gram` has shape {packed.shape}, expected (D (D + 1) / 2,)")
    return width


def _refuse(ridge: float) -> np.linalg.LinAlgError:
    return np.linalg.LinAlgError(f"ridge_solve: `gram` with ridge {ridge:g} is not positive definite")


def _by_eigenvectors(
    matrix: Float64, targets: Float64, levels: Sequence[float], ridges: Sequence[float]
) -> RidgeSolution:
    values, vectors = np.linalg.eigh(matrix, UPLO="U")
    turned = vectors.T @ targets
    heads, rcond = np.empty((len(levels), *targets.shape)), np.empty(len(levels))
    for index, level in enumerate(levels):
        lifted = values + level
        if lifted[0] <= len(values) * np.finfo(np.float64).eps * lifted[-1]:
            raise _refuse(ridges[index])
        heads[index] = vectors @ (turned / lifted[:, None])
        rcond[index] = lifted[0] / lifted[-1]
    return RidgeSolution(heads, rcond)


def _by_cholesky(
    matrix: Float64, targets: Float64, levels: Sequence[float], ridges: Sequence[float]
) -> RidgeSolution:
    heads, rcond = np.empty((len(levels), *targets.shape)), np.empty(len(levels))
    diagonal = np.diagonal(matrix).copy()
    absolute = np.abs(matrix)
    beside = absolute.sum(axis=0) + absolute.sum(axis=1) - 2.0 * np.abs(diagonal)
    for index, level in enumerate(levels):
        np.fill_diagonal(matrix, diagonal + level)
        try:
            # The transpose of an upper triangle is a lower one that needs no reordering for LAPACK.
            root = _Root(np.linalg.cholesky(matrix.T).astype(np.float64, copy=False))
        except np.linalg.LinAlgError:
            raise _refuse(ridges[index]) from None
        heads[index] = root.solve(targets)
        rcond[index] = 1.0 / max(1.0, float((beside + diagonal + level).max()) * _inverse_norm(root))
    return RidgeSolution(heads, rcond)


class _Root:
    """A = L Lᵀ, solved block by block: NumPy has no triangular solve of its own."""

    def __init__(self, lower: Float64) -> None:
        self.lower = lower
        self.blocks = [slice(start, start + _BLOCK) for start in range(0, len(lower), _BLOCK)]
        self.inverses = [np.linalg.inv(lower[block, block]) for block in self.blocks]

    def solve(self, targets: Float64) -> Float64:
        out = targets.copy()
        for block, inverse in zip(self.blocks, self.inverses, strict=True):
            out[block] = inverse @ (out[block] - self.lower[block, : block.start] @ out[: block.start])
        for block, inverse in zip(reversed(self.blocks), reversed(self.inverses), strict=True):
            after = slice(block.stop, None)
            out[block] = inverse.T @ (out[block] - self.lower[after, block].T @ out[after])
        return out


def _inverse_norm(root: _Root) -> float:
    """Estimate of ‖A⁻¹‖₁ from below; seldom off by more than a factor of 3."""
    width = len(root.lower)
    # The second guess finds what cancels in the first.
    rising = (-1.0) ** np.arange(width) * (1.0 + np.arange(width) / max(width - 1, 1))
    guesses = root.solve(np.column_stack([np.full(width, 1.0 / width), rising]))
    image = guesses[:, 0]
    norm = float(np.abs(image).sum())
    place = -1
    for _ in range(_ESTIMATE_STEPS):
        slope = root.solve(np.where(image >= 0, 1.0, -1.0))
        steepest = int(np.abs(slope).argmax())
        if steepest == place:
            break
        place = steepest
        image = root.solve(np.eye(1, width, place)[0])
        grown = float(np.abs(image).sum())
        if grown <= norm:
            break
        norm = grown
    return max(norm, 2.0 * float(np.abs(guesses[:, 1]).sum()) / (3.0 * width))
