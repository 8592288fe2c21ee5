from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from fedmed_edge.errors import InputError
from fedmed_edge.features.heads import evaluate_heads
from fedmed_edge.features.held_out import head_error, network_error
from fedmed_edge.features.training import build_network, predict, train
from fedmed_edge.images.dataset import Dataset

Task = tuple[Any, Dataset, Any]


class Head:
    """A head of random weights."""

    def __init__(self, rows: int, classes: int) -> None:
        random = np.random.default_rng(0)
        self.form = random.normal(size=(rows, classes)), random.normal(size=classes)

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        return self.form


def dice_error(found: list[np.ndarray], dataset: Dataset) -> float:
    scores = []
    for item, ours in zip(dataset, found, strict=True):
        truth = dataset.load_mask(item, dataset.load(item))
        scores.append(2 * ((ours == 1) & (truth == 1)).sum() / ((ours == 1).sum() + (truth == 1).sum()))
    return float(1 - np.mean(scores))


def test_errors_of_a_classification_are_scikit_learns(images_task: Task) -> None:
    recipe, dataset, generation = images_task
    truth = [item.label for item in dataset]
    head = Head(generation.row_dim, 2)
    (answers,) = evaluate_heads(generation, dataset, [head])
    found = [int(np.argmax(one.probabilities)) for one in answers]  # type: ignore[arg-type]
    assert head_error(generation, head, dataset) == pytest.approx(1 - balanced_accuracy_score(truth, found))
    network = build_network(recipe)
    train(network, dataset, steps=3)
    found = [int(one.argmax()) for one in predict(network, dataset)]
    assert network_error(network, dataset) == pytest.approx(1 - balanced_accuracy_score(truth, found))


def test_errors_of_a_segmentation_are_at_the_files_own_size(pixels_task: Task) -> None:
    recipe, dataset, generation = pixels_task
    head = Head(generation.row_dim, 2)
    (answers,) = evaluate_heads(generation, dataset, [head])
    masks = [one.mask for one in answers if one.mask is not None]
    assert head_error(generation, head, dataset) == pytest.approx(dice_error(masks, dataset))
    network = build_network(recipe)
    before = network_error(network, dataset)
    train(network, dataset, steps=30, seed=1)
    assert network_error(network, dataset) < min(0.3, before)


def test_unlabelled_images_do_not_count(images_task: Task) -> None:
    _, dataset, generation = images_task
    head = Head(generation.row_dim, 2)
    blank = replace(dataset.items[0], label=None)
    assert head_error(generation, head, replace(dataset, items=(blank, *dataset.items))) == head_error(
        generation, head, dataset
    )
    with pytest.raises(InputError, match="no labelled test image"):
        head_error(generation, head, replace(dataset, items=(blank,)))
