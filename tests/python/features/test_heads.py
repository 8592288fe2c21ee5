from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.features import heads
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
from fedmed_edge.features.heads import evaluate_heads
from fedmed_edge.features.lift import Lift
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.recipe import Recipe

Task = tuple[Recipe, Dataset, Generation]


@dataclass
class Head:
    weight: np.ndarray
    bias: np.ndarray

    def linear(self) -> tuple[Any, Any]:
        return self.weight, self.bias


def drawn(generation: Generation, seed: int, classes: int = 2) -> Head:
    random = np.random.default_rng(seed)
    return Head(random.normal(0, 0.2, (generation.row_dim, classes)), random.normal(size=classes))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def test_classification(images_task: Task) -> None:
    recipe, dataset, generation = images_task
    models = [drawn(generation, seed) for seed in (1, 2, 3)]
    answers = evaluate_heads(generation, dataset, models)
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    for index, item in enumerate(dataset):
        pooled = pooled_of(moments_of(encoder.maps(prepare(dataset.load(item), recipe).pixels)))
        row = lift.image_row(pooled)[0].astype(np.float64)
        for model, own in zip(models, answers, strict=True):
            assert own[index].item is item and own[index].mask is None
            expected = softmax(row @ model.weight + model.bias)
            np.testing.assert_allclose(np.asarray(own[index].probabilities), expected, atol=1e-6)
            wanted = lift.distance_squared(lift.standardise(pooled))
            assert own[index].distance_squared == pytest.approx(wanted)


@pytest.mark.parametrize("slab", [1, 1 << 21])
def test_segmentation_at_the_files_own_size(
    pixels_task: Task, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_SLAB_VALUES", slab)
    recipe, dataset, generation = pixels_task
    models = [drawn(generation, seed) for seed in (1, 2)]
    answers = evaluate_heads(generation, dataset.subset([0, 1]), models)
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    for index in (0, 1):
        prepared = prepare(dataset.load(dataset.items[index]), recipe)
        rows, _ = lift.pixel_rows(encoder.maps(prepared.pixels), 1, recipe.size)
        for model, own in zip(models, answers, strict=True):
            grid = softmax(rows @ model.weight + model.bias).T.reshape(2, *recipe.size)
            mask = own[index].mask
            assert mask is not None and mask.shape == (40, 44) and own[index].probabilities is None
            assert (mask == restore(grid.astype(np.float32), prepared)).mean() > 0.999


def test_volumes_are_blended_from_windows(tmp_path: Path, make: SimpleNamespace) -> None:
    recipe = make.recipe("segmentation", (16, 16, 16))
    dataset = make.volumes(tmp_path, recipe, [(28, 20, 12)])
    generation = make.completed(recipe, make.volumes(tmp_path / "more", recipe, [(16, 16, 16), (18, 20, 16)]))
    # a head that answers by the bias alone gives the same everywhere, wherever windows meet
    constant = Head(np.zeros((generation.row_dim, 2)), np.array([0.0, 1.0]))
    answers = evaluate_heads(generation, dataset, [constant, drawn(generation, 1)])
    mask = answers[0][0].mask
    assert mask is not None and mask.shape == (28, 20, 12) and (mask == 1).all()
    assert answers[1][0].mask is not None
    scorer = heads._Scorer(generation, recipe, [constant], "cpu")
    grid, distance = scorer.segment(prepare(dataset.load(dataset.items[0]), recipe))
    np.testing.assert_allclose(grid[0, 1], 1 / (1 + np.exp(-1)), rtol=1e-5)
    assert distance is not None and distance > 0


def test_volume_classification_is_the_geometric_mean_of_windows(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    recipe = make.recipe("classification", (16, 16, 16))
    dataset = make.volumes(tmp_path, recipe, [(32, 16, 16), (16, 16, 16)])
    generation = make.completed(recipe, dataset)
    model = drawn(generation, 4)
    answer = evaluate_heads(generation, dataset.subset([0]), [model])[0][0].probabilities
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    pixels = prepare(dataset.load(dataset.items[0]), recipe).pixels
    each = [
        softmax(lift.image_row(pooled_of(moments_of(encoder.maps(half))))[0] @ model.weight + model.bias)
        for half in (pixels[:, :16], pixels[:, 16:])
    ]
    mean = np.sqrt(each[0] * each[1])
    np.testing.assert_allclose(np.asarray(answer), mean / mean.sum(), rtol=1e-4)


def test_a_draft_has_no_distance(images_task: Task, make: SimpleNamespace) -> None:
    recipe, dataset, _ = images_task
    draft = make.draft(recipe)
    answers = evaluate_heads(draft, dataset.subset([0]), [drawn(draft, 0)])
    assert answers[0][0].distance_squared is None


def test_refusals(images_task: Task) -> None:
    _, dataset, generation = images_task
    assert evaluate_heads(generation, dataset.subset([0]), []) == []
    with pytest.raises(InputError, match=r"`weight` has shape \(45, 3\), expected \(45, 2\)"):
        evaluate_heads(generation, dataset, [drawn(generation, 0, classes=3)])
