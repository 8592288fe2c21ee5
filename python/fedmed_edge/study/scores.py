"""From answers to scores: Dice or balanced accuracy as the product defines them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.extract import Prediction
from fedmed_edge.features.training import Network, predict
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.metrics import (
    balanced_accuracy,
    dice,
    expected_calibration_error,
    otsu_threshold,
)


@dataclass(frozen=True)
class Answers:
    """What one model said of one site's images, image by image.

    Attributes:
        patients: Patient of every image.
        truth, label: True and answered class numbers (classification).
        probabilities: (N, C) float32 (classification).
        dice: Dice of every image (segmentation).
        surface: Mean surface distance of every image, where it was asked for (segmentation).
    """

    patients: list[str] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    probabilities: list[list[float]] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    surface: list[float] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON values; `Answers(**document)` is the way back."""
        return {name: value for name, value in vars(self).items() if value}

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def scores(recipe: Recipe, answers: Answers, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean Dice, or balanced accuracy over the classes that occur, under many weightings of the images.

    Args:
        answers: Of N images, at least one.
        weights: (draws, N), for the bootstrap how often each image was drawn.

    Returns:
        (draws,) float64.
    """
    if recipe.kind == "segmentation":
        return np.asarray(weights @ np.array(answers.dice) / weights.sum(axis=1))
    return balanced_accuracy(np.array(answers.label), np.array(answers.truth), weights)


def score(recipe: Recipe, answers: Answers) -> float:
    """Mean Dice, or balanced accuracy over the classes that occur; NaN where there is no image."""
    count = len(answers.patients)
    return float(scores(recipe, answers, np.ones((1, count)))[0]) if count else float("nan")


def calibration_error(answers: Answers) -> float | None:
    """Expected calibration error over 15 bins (classification), else None."""
    if not answers.probabilities:
        return None
    return expected_calibration_error(np.array(answers.probabilities), np.array(answers.truth))


def recalls(recipe: Recipe, answers: Answers) -> dict[str, float]:
    """Recall of every class that occurs (classification)."""
    truth, label = np.array(answers.truth), np.array(answers.label)
    return {
        recipe.classes[number]: float((label[truth == number] == number).mean())
        for number in np.unique(truth).tolist()
    }


def answers_of_network(network: Network, dataset: Dataset, *, device: str, surface: bool = False) -> Answers:
    """What an end-to-end network says of the labelled items of a data set.

    Args:
        surface: Surface distances too (segmentation).
    """
    probabilities = predict(network, dataset, device=device)
    if dataset.recipe.kind == "classification":
        return answers_of_probabilities(dataset, probabilities)

    def masks() -> Iterator[npt.NDArray[np.uint8]]:
        for item, grid in zip(dataset, probabilities, strict=True):
            _refuse_unfinite(grid, dataset)
            yield restore(grid, prepare(dataset.load(item), dataset.recipe))

    return _segmented(dataset, masks(), surface)


def _refuse_unfinite(probabilities: npt.NDArray[np.floating], dataset: Dataset) -> None:
    """The largest of what is no number is class 0: a score like any other would come of it."""
    if not np.isfinite(probabilities).all():
        raise InputError(f"{dataset.folder}: answers are not finite: what gives them has run away")


def answers_of_predictions(
    dataset: Dataset, predictions: Sequence[Prediction], *, surface: bool = False
) -> Answers:
    """What a closed-form head says of the items of a data set, from `features.extract.evaluate_heads`."""
    if dataset.recipe.kind == "classification":
        return answers_of_probabilities(dataset, [one.probabilities for one in predictions])
    masks = (one.mask for one in predictions if one.mask is not None)
    return _segmented(dataset, masks, surface)


def answers_of_threshold(dataset: Dataset, *, surface: bool = False) -> Answers:
    """Otsu's threshold, image by image: what no learning at all reaches (two classes)."""
    masks = (otsu_threshold(dataset.load(item).pixels).astype(np.uint8) for item in dataset)
    return _segmented(dataset, masks, surface)


def _segmented(dataset: Dataset, masks: Iterable[npt.NDArray[np.uint8]], surface: bool) -> Answers:
    overlaps, distances = [], []
    classes = len(dataset.recipe.classes)
    for item, mask in zip(dataset, masks, strict=True):
        image = dataset.load(item)
        truth = dataset.load_mask(item, image)
        overlaps.append(dice(mask, truth, classes))
        if surface:
            from fedmed_edge.study.surfaces import surface_distance

            distances.append(surface_distance(mask, truth, classes, image.spacing_mm))
    return Answers(_patients(dataset), dice=overlaps, surface=distances)


def answers_of_probabilities(
    dataset: Dataset, probabilities: Sequence[npt.NDArray[np.floating] | None]
) -> Answers:
    """What somebody says of the labelled items of a classification, given (C,) probabilities of each.

    Raises:
        InputError: Some are not finite.
    """
    stacked = np.array(probabilities, np.float32).reshape(len(dataset), len(dataset.recipe.classes))
    _refuse_unfinite(stacked, dataset)
    return Answers(
        _patients(dataset),
        truth=[int(item.label) for item in dataset if item.label is not None],
        label=stacked.argmax(axis=1).tolist(),
        probabilities=stacked.round(6).tolist(),
    )


def _patients(dataset: Dataset) -> list[str]:
    return [item.patient for item in dataset]
