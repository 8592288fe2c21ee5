"""How good a model is: Dice and balanced accuracy, as they are defined for every table and every site."""

import numpy as np
import numpy.typing as npt

__all__ = ["balanced_accuracy", "dice"]

Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]


def dice(prediction: Integers, truth: Integers, classes: int) -> float:
    """Dice overlap of one image, mean over the foreground classes 1 … C - 1.

    Args:
        prediction, truth: Class numbers, same shape.
        classes: C; class 0 is background.

    Returns:
        0 to 1; a class that is in neither counts as 1.

    Raises:
        ValueError: The shapes differ, or there is no foreground class.

    Example:
        >>> dice(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), 2)
        0.6666666666666666
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"dice: `prediction` has shape {prediction.shape}, expected {truth.shape}")
    if classes < 2:
        raise ValueError(f"dice: `classes` has {classes}, expected at least 2")
    scores = []
    for number in range(1, classes):
        ours, theirs = prediction == number, truth == number
        total = np.count_nonzero(ours) + np.count_nonzero(theirs)
        scores.append(2 * np.count_nonzero(ours & theirs) / total if total else 1.0)
    return float(np.mean(scores))


def balanced_accuracy(prediction: Integers, truth: Integers, weights: Float64) -> Float64:
    """Mean recall over the classes that occur, of N items under many weightings.

    Args:
        prediction, truth: (N,) class numbers.
        weights: (draws, N), a class of weight 0 is left out of its draw.

    Returns:
        (draws,) float64.

    Raises:
        ValueError: The lengths differ, or there is no item.

    Example:
        >>> truth, prediction = np.array([0, 0, 2]), np.array([0, 0, 1])
        >>> balanced_accuracy(prediction, truth, np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])).tolist()
        [0.5, 1.0]
    """
    if prediction.shape != truth.shape or not truth.size:
        raise ValueError(
            f"balanced_accuracy: `prediction` has {prediction.size} items, expected {truth.size}, not 0"
        )
    correct = (prediction == truth).astype(np.float64)
    recalls = []
    for number in np.unique(truth):
        own = weights[:, truth == number]
        total = own.sum(axis=1)
        right = own @ correct[truth == number]
        recalls.append(np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0))
    return np.asarray(np.nanmean(recalls, axis=0))
