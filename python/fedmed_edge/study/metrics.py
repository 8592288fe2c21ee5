"""Metrics of the experiments, their intervals, and the threshold baseline.

Definitions are those of the product page: Dice is the mean over foreground classes of one image at the file's
own size (both empty = 1), balanced accuracy the mean recall over the classes present, every mean comes with a
bootstrap interval.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedmed_edge.metrics import balanced_accuracy as balanced_accuracy
from fedmed_edge.metrics import dice as dice

Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

DRAWS = 2000
LEVEL = 0.95


def expected_calibration_error(probabilities: npt.ArrayLike, labels: Integers, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over equal bins of confidence, weighted by their items.

    Args:
        probabilities: (N, C) float, rows sum to 1.
        labels: (N,) class numbers.
        bins: Bins of the highest probability, each (low, high].

    Raises:
        ValueError: The lengths differ, or there is no item.

    Source: Guo et al., ICML 2017, equation 3.

    Example:
        >>> round(expected_calibration_error([[0.8, 0.2], [0.8, 0.2]], np.array([0, 1])), 6)
        0.3
    """
    confidence, accuracy, count = calibration_bins(probabilities, labels, bins)
    return float(np.sum(count * np.abs(confidence - accuracy)) / count.sum())


def calibration_bins(
    probabilities: npt.ArrayLike, labels: Integers, bins: int = 15
) -> tuple[Float64, Float64, Float64]:
    """Mean confidence, accuracy and number of items in each bin of the highest probability.

    Args:
        probabilities: (N, C) float, rows sum to 1.
        labels: (N,) class numbers.
        bins: Equal bins over (0, 1].

    Returns:
        Three (bins,) float64; confidence and accuracy of an empty bin are 0.

    Raises:
        ValueError: The lengths differ, or there is no item.
    """
    rows = np.asarray(probabilities, np.float64)
    if rows.ndim != 2 or not len(rows) or labels.shape != (len(rows),):
        raise ValueError(
            f"calibration: `labels` has shape {labels.shape}, expected one for each of {rows.shape} rows"
        )
    top = rows.max(axis=1)
    correct = (rows.argmax(axis=1) == labels).astype(np.float64)
    place = np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    filled = np.maximum(count, 1)
    return np.bincount(place, top, bins) / filled, np.bincount(place, correct, bins) / filled, count


def resampling_weights(
    groups: Sequence[str], *, seed: int = 0, draws: int = DRAWS
) -> npt.NDArray[np.float64]:
    """How often each item is drawn in each bootstrap draw.

    Args:
        groups: (N,) patient of each item; whole patients are drawn, as their images are not independent.

    Returns:
        (draws, N) float64 counts.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Example:
        >>> weights = resampling_weights(["ann", "ann", "bob"], draws=5)
        >>> weights.shape, bool((weights[:, 0] == weights[:, 1]).all())
        ((5, 3), True)
    """
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return np.asarray(drawn[:, owner], np.float64)


def otsu_threshold(image: npt.NDArray[np.generic], bins: int = 256) -> Mask:
    """Threshold baseline: split the grey levels by Otsu's rule; the smaller side is the foreground.

    Which side is brighter depends on the scanner or stain, so brightness cannot say what is foreground. Of
    two equal sides the brighter one is taken; an image of one value has no foreground.

    Args:
        image: (*spatial), or (C, *spatial) with C of 1 or 3 in front of 2 or 3 axes; channels are averaged.

    Returns:
        Foreground (*spatial).

    Source: Otsu, IEEE Trans. SMC 9(1), 1979, equation 18.

    Example:
        >>> otsu_threshold(np.array([[0, 0, 9], [0, 0, 9]])).astype(int).tolist()
        [[0, 0, 1], [0, 0, 1]]
    """
    grey = np.asarray(image, np.float64)
    if grey.ndim > 2 and grey.shape[0] in (1, 3):
        grey = grey.mean(axis=0)
    low, high = float(grey.min()), float(grey.max())
    if low == high:
        return np.zeros(grey.shape, np.bool_)
    bright = grey > _otsu_level(grey, bins, low, high)
    return np.asarray(bright if 2 * np.count_nonzero(bright) <= bright.size else ~bright, np.bool_)


def _otsu_level(grey: Float64, bins: int, low: float, high: float) -> float:
    """Upper edge of the darker class: the split with the largest variance between the classes."""
    counts, edges = np.histogram(grey, bins, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    gap = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * gap**2
    # An empty valley gives one value over many splits: its middle stands for it.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:][(best[0] + best[-1]) // 2])
