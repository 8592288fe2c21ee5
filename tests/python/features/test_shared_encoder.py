"""One encoder under recipes of both kinds: rows, sums, a head and local training on it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import set_state
from fedmed_edge.features.encoder import Encoder, pooled_of
from fedmed_edge.features.encoder import moments_of as moments
from fedmed_edge.features.extract import extract, extract_with_sample
from fedmed_edge.features.heads import evaluate_heads
from fedmed_edge.features.lift import grid_axes
from fedmed_edge.features.publish import complete_generation
from fedmed_edge.features.training import build_network, train
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.model.own_sums import own_model
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, unpack


@pytest.fixture(scope="module")
def shared(make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A draft of an encoder for images, and a data set of each kind."""
    backbone = make.recipe().backbone.model_copy(update={"arguments": {"norm": "group"}})
    one, other = make.recipe(backbone=backbone), make.recipe("segmentation", name="cells")
    folder = tmp_path_factory.mktemp("shared")
    return SimpleNamespace(
        draft=make.draft(one),
        images=make.classification(folder / "images", one),
        pixels=make.segmentation(folder / "pixels", other),
    )


@pytest.fixture(scope="module")
def sums(shared: Any) -> dict[str, FeatureStatistics]:
    """What both measured under the draft."""
    return {name: extract(shared.draft, getattr(shared, name), min_cohort=1) for name in ("images", "pixels")}


def completed(shared: Any, sums: dict[str, FeatureStatistics]) -> Generation:
    others = [{"b": sums["pixels"]}]
    return complete_generation(shared.draft, shared.images.recipe, {"a": sums["images"]}, others=others)


def rows_of(draft: Generation, dataset: Dataset, recipe: Recipe) -> np.ndarray:
    """Raw rows, upsampled by torch: one an image, or one a pixel of the strided grid."""
    encoder, rows = Encoder(draft, "cpu"), []
    for item in dataset:
        maps = encoder.maps(prepare(dataset.load(item), recipe).pixels)
        if recipe.kind == "classification":
            rows.append(pooled_of(moments(maps))[None])
            continue
        whole = [
            functional.interpolate(torch.from_numpy(one)[None], size=recipe.size, mode="bilinear")[0].numpy()
            for one in maps
        ]
        places = np.ix_(*grid_axes(recipe.size, recipe.pixel_stride))
        rows.append(np.concatenate(whole)[:, places[0], places[1]].reshape(sum(draft.header.widths), -1).T)
    return np.concatenate(rows).astype(np.float64)


def test_rows_of_pixels_are_the_encoders_maps_on_the_label_grid(
    shared: Any, sums: dict[str, FeatureStatistics]
) -> None:
    assert shared.draft.header.kind == "classification" and shared.draft.header.widths == (8, 12)
    for name in ("images", "pixels"):
        dataset = getattr(shared, name)
        rows = rows_of(shared.draft, dataset, dataset.recipe)
        wanted = np.hstack([rows, np.ones((len(rows), 1))])
        np.testing.assert_allclose(unpack(sums[name].gram()), wanted.T @ wanted, rtol=1e-4, atol=1e-2)


def test_tasks_weigh_alike_in_the_standardisation(shared: Any, sums: dict[str, FeatureStatistics]) -> None:
    made = completed(shared, sums)
    rows = [rows_of(shared.draft, one, one.recipe) for one in (shared.images, shared.pixels)]
    mean = np.mean([one.mean(axis=0) for one in rows], axis=0)
    square = np.mean([(one**2).mean(axis=0) for one in rows], axis=0)
    np.testing.assert_allclose(made.mean, mean, rtol=1e-4, atol=1e-4)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    deviation[deviation < 1e-6] = 1  # a channel that is always the same is centred alone
    np.testing.assert_allclose(made.deviation, deviation, rtol=1e-3, atol=1e-4)
    assert made.header.measured_at == ("a", "b") and made.header.reference_images == 24 + 6


def test_images_of_no_site_are_named_nowhere(shared: Any, sums: dict[str, FeatureStatistics]) -> None:
    made = complete_generation(shared.draft, shared.images.recipe, {"": sums["images"]})
    assert made.header.measured_at == () and not made.draft and made.header.reference_images == 24


@pytest.mark.parametrize("name", ["images", "pixels"])
def test_a_head_of_either_kind_is_solved_on_it(
    shared: Any, sums: dict[str, FeatureStatistics], name: str
) -> None:
    made, dataset = completed(shared, sums), getattr(shared, name)
    statistics, _ = extract_with_sample(made, dataset, min_cohort=1)
    (answers,) = evaluate_heads(made, dataset, [own_model(statistics, dataset.recipe)])
    if name == "images":
        found = [int(np.argmax(one.probabilities)) == one.item.label for one in answers]  # type: ignore[arg-type]
        assert np.mean(found) > 0.9
        return
    for one in answers:
        truth = dataset.load_mask(one.item, dataset.load(one.item))
        assert one.mask is not None and one.mask.shape == truth.shape
        assert 2 * (one.mask & truth).sum() / (one.mask.sum() + truth.sum()) > 0.7


@pytest.mark.parametrize("name", ["images", "pixels"])
def test_each_kind_trains_its_own_head_on_it(shared: Any, name: str) -> None:
    dataset = getattr(shared, name)
    network = build_network(dataset.recipe, architecture=shared.draft.header)
    set_state(network.backbone, shared.draft.weights)
    losses = train(network, dataset, steps=25, learning_rate=3e-3, seed=1).losses
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()


def test_images_of_another_size_or_channels_do_not_fit(shared: Any) -> None:
    for change, message in (({"size": (64, 64)}, r"`size` has \(64, 64\)"), ({"channels": 3}, "`channels`")):
        recipe = shared.pixels.recipe.model_copy(update=change)
        with pytest.raises(InputError, match=f"{message}.*expected the generation's"):
            extract(shared.draft, replace(shared.pixels, recipe=recipe))
