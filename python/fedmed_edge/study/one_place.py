"""The head that all rows in one place would give: what a head of sums is held against."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_BLOCK = 1 << 14


class OnePlace:
    """Class-balanced ridge regression of one-hot targets on rows, by NumPy alone.

    By orthogonal factors of the rows themselves: a Gram would square their condition, and its rounding would
    count as a difference. Of each class the factor alone is held, so memory does not grow with the rows.

    Args:
        classes: C, how many there are.

    Source: Golub & Van Loan, Matrix Computations, 4th edition, 5.3 (least squares by QR).

    Example:
        >>> place = OnePlace(2)
        >>> place.add(np.eye(2), np.array([0, 1]))
        >>> place.head(1e-3).argmax(axis=0).tolist()
        [0, 1]
    """

    def __init__(self, classes: int) -> None:
        self._factors: list[Float64 | None] = [None] * classes
        self._sizes = np.zeros(classes)

    def add(self, rows: npt.NDArray[np.floating], classes: npt.NDArray[np.integer]) -> None:
        """Put rows (N, D) of classes (N,) with the others."""
        targets = np.eye(len(self._factors))
        for start in range(0, len(rows), _BLOCK):
            block, of_block = rows[start : start + _BLOCK], classes[start : start + _BLOCK]
            for number in np.unique(of_block).tolist():
                own = block[of_block == number].astype(np.float64)
                self._sizes[number] += len(own)
                own = np.hstack([own, np.broadcast_to(targets[number], (len(own), len(targets)))])
                held = self._factors[number]
                own = own if held is None else np.vstack([held, own])
                self._factors[number] = np.asarray(np.linalg.qr(own, mode="r"))

    def head(self, ridge: float) -> Float64:
        """The head (D, C).

        Args:
            ridge: λ, relative to the mean diagonal of the weighted Gram.
        """
        weighted = [
            factor / np.sqrt(size)
            for factor, size in zip(self._factors, self._sizes, strict=True)
            if factor is not None
        ]
        known = np.vstack(weighted)
        width = known.shape[1] - len(self._factors)
        level = ridge * np.sum(known[:, :width] ** 2) / width
        held = np.hstack([np.sqrt(level) * np.eye(width), np.zeros((width, len(self._factors)))])
        factor = np.asarray(np.linalg.qr(np.vstack([known, held]), mode="r"))[:width]
        return np.asarray(np.linalg.solve(factor[:, :width], factor[:, width:]), np.float64)
