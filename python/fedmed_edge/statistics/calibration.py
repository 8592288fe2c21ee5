"""Binned validation counts: what chooses the one temperature of the posteriors, and adds up over sites.

Source: method §3; temperature scaling and the 15 bins follow Guo et al., ICML 2017.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.feature_statistics import Array64

TEMPERATURES: Final = tuple(2.0 ** (step / 4) for step in range(-12, 13))
"""Temperatures that are tried, 1/8 to 8 in steps of 2^¼; 1 is among them."""

BINS: Final = 15
COLUMNS: Final = 2 + 2 * BINS
"""Columns of the counts: sum of −log p, number of rows, confidence sums by bin, correct answers by bin."""

_SMALLEST = 1e-12


def bin_counts(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Array64:
    """Counts of held-out answers at every temperature.

    Args:
        probabilities: (N, C), rows that sum to 1, at temperature 1.
        labels: (N,) true class indices.

    Returns:
        (T, 32) float64 sums, additive over rows and sites; T = `len(TEMPERATURES)`.

    Raises:
        InputError: The shapes do not fit.

    Example:
        >>> counts = bin_counts(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
        >>> counts.shape, counts[0, 1]
        ((25, 32), np.float64(2.0))
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise InputError(
            f"calibration: `labels` has shape {labels.shape}, expected ({len(probabilities)},) for "
            f"`probabilities` {probabilities.shape}"
        )
    logarithms = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    return np.stack([_counts_at(logarithms / temperature, labels) for temperature in TEMPERATURES])


def _counts_at(scores: Array64, labels: npt.NDArray[np.integer]) -> Array64:
    scores = scores - scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    answer = log_p.argmax(axis=1)
    confidence = np.exp(log_p.max(axis=1))
    place = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    correct = (answer == labels).astype(np.float64)
    own = log_p[np.arange(len(labels)), labels]
    return np.concatenate(
        [
            [-own.sum(), float(len(labels))],
            np.bincount(place, weights=confidence, minlength=BINS),
            np.bincount(place, weights=correct, minlength=BINS),
        ]
    )


def best_temperature(counts: Array64) -> float:
    """Temperature with the least mean −log p of `counts` (T, 32); 1 where nothing was counted.

    Example:
        >>> best_temperature(np.zeros((25, 32)))
        1.0
    """
    if counts[0, 1] == 0:
        return 1.0
    return float(TEMPERATURES[int(counts[:, 0].argmin())])


def expected_calibration_error(counts: Array64, temperature: float = 1.0) -> float:
    """Σ over bins of |confidence − correct answers| / number of rows, at one of `TEMPERATURES`; 0 to 1.

    Raises:
        ValueError: The temperature is not in the grid.

    Example:
        >>> round(expected_calibration_error(bin_counts(np.array([[0.9, 0.1]]), np.array([0]))), 6)
        0.1
    """
    row = counts[TEMPERATURES.index(temperature)]
    if row[1] == 0:
        return 0.0
    return float(np.abs(row[2 : 2 + BINS] - row[2 + BINS :]).sum() / row[1])
