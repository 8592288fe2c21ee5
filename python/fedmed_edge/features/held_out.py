"""How wrong answers on held-out images are: 1 − balanced accuracy, or 1 − Dice at the file's own size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.heads import LinearHead, evaluate_heads
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.metrics import balanced_accuracy, dice

if TYPE_CHECKING:
    from fedmed_edge.features.training import Network

__all__ = ["head_error", "network_error"]

Answer = int | npt.NDArray[np.uint8]
"""A class, or a mask of the file's own size."""


def head_error(generation: Generation, head: LinearHead, dataset: Dataset, *, device: str = "auto") -> float:
    """Error of a head on a generation's features, 0 to 1.

    Args:
        dataset: Its labelled images are answered; give `dataset.test`.

    Raises:
        InputError: No labelled image, or as `evaluate_heads`.
        DeviceError: The asked device did not come up.
    """
    (answers,) = evaluate_heads(generation, dataset.labelled, [head], device=device)
    found: list[Answer] = []
    for one in answers:
        if one.mask is not None:
            found.append(one.mask)
        elif one.probabilities is not None:
            found.append(int(np.argmax(one.probabilities)))
    return _error(found, dataset.labelled)


def network_error(network: "Network", dataset: Dataset, *, device: str = "auto") -> float:
    """Error of a trained network, 0 to 1; as `head_error`. Needs torch."""
    from fedmed_edge.features.training import predict

    labelled = dataset.labelled
    found: list[Answer] = []
    for item, answer in zip(labelled, predict(network, labelled, device=device), strict=True):
        if dataset.recipe.kind == "classification":
            found.append(int(answer.argmax()))
        else:
            found.append(restore(answer, prepare(labelled.load(item), labelled.recipe)))
    return _error(found, labelled)


def _error(answers: Sequence[Answer], labelled: Dataset) -> float:
    if not answers:
        raise InputError("held-out error: no labelled test image")
    if labelled.recipe.kind == "classification":
        truth = np.array([item.label for item in labelled])
        return 1.0 - float(balanced_accuracy(np.array(answers), truth, np.ones((1, len(truth))))[0])
    classes = len(labelled.recipe.classes)
    masks = (labelled.load_mask(item, labelled.load(item)) for item in labelled)
    return 1.0 - float(np.mean([dice(*pair, classes) for pair in zip(answers, masks, strict=True)]))  # type: ignore[arg-type]
