import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
from fedmed_edge.features.extract import extract, extract_clipped, extract_with_sample
from fedmed_edge.features.lift import Lift, grid_axes
from fedmed_edge.features.views import shifted_view
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import IGNORE, prepare, prepare_mask
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, unpack
from fedmed_edge.statistics.style import log_amplitude

Task = tuple[Recipe, Dataset, Generation]


def grams(rows: np.ndarray, labels: np.ndarray, classes: int) -> list[np.ndarray]:
    rows = rows.astype(np.float64)
    return [rows[labels == index].T @ rows[labels == index] for index in range(classes)]


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got, wanted, atol=1e-9 * max(1.0, np.abs(wanted).max()))


def rows_of(lift: Lift, maps: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """All rows as the sums have them."""
    count = int(np.prod([len(axis) for axis in grid_axes(recipe.size, recipe.pixel_stride)]))
    none = np.full(count, -1, np.int32)
    return lift.pixel_grams(maps, recipe.pixel_stride, recipe.size, none, count=0, picked=np.arange(count))[1]


def test_class_sums_of_images(images_task: Task) -> None:
    recipe, dataset, generation = images_task
    told: list[str] = []
    statistics = extract(generation, dataset, min_cohort=2, progress=told.append)
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    moments = [moments_of(encoder.maps(prepare(dataset.load(item), recipe).pixels)) for item in dataset]
    pooled = [pooled_of(one) for one in moments]
    rows = np.concatenate([lift.image_row(one) for one in pooled])
    labels = np.array([item.label for item in dataset])
    for index, wanted in enumerate(grams(rows, labels, 2)):
        assert_same(unpack(statistics.class_gram(index)), wanted)
    assert statistics.patients.tolist() == [12, 12] and statistics.folds == 5 and told[-1] == "24 of 24"
    features = np.array([[*lift.standardise(one), 1] for one in pooled])
    assert_same(unpack(statistics.image_gram), features.T @ features)
    distances = [lift.distance_squared(row[:-1]) for row in features]
    np.testing.assert_allclose(
        statistics.distance_moments, [24, np.sum(distances), np.square(distances).sum()]
    )
    first = np.concatenate([sums for _, sums, _ in moments[0]])
    total = np.sum([np.concatenate([sums for _, sums, _ in one]) for one in moments], axis=0)
    np.testing.assert_allclose(statistics.channel_moments[1], total)
    assert statistics.channel_moments.shape == (3, len(first))
    styles = [log_amplitude(prepare(dataset.load(item), recipe).pixels, recipe.size) for item in dataset]
    np.testing.assert_allclose(statistics.style_mean, np.mean(styles, axis=0))


def test_class_sums_of_pixels(pixels_task: Task) -> None:
    recipe, dataset, generation = pixels_task
    statistics = extract(generation, dataset, min_cohort=1)
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    rows, labels = [], []
    axes = grid_axes(recipe.size, recipe.pixel_stride)
    for item in dataset:
        image = dataset.load(item)
        prepared = prepare(image, recipe)
        rows.append(rows_of(lift, encoder.maps(prepared.pixels), recipe))
        mask = prepare_mask(dataset.load_mask(item, image), prepared)
        labels.append(mask[np.ix_(*axes)].ravel())
    for index, wanted in enumerate(grams(np.concatenate(rows), np.concatenate(labels), 2)):
        assert_same(unpack(statistics.class_gram(index)), wanted)
    assert statistics.images == 6 and statistics.class_counts.sum() == 6 * 64


def test_rows_of_shifted_views_are_compared_with_those_of_images(
    images_task: Task, pixels_task: Task, make: SimpleNamespace
) -> None:
    for recipe, dataset, generation in (images_task, pixels_task):
        training = Training(maps=1.0, inversion=0.5, invariance=0.3)
        asked = replace(dataset, recipe=recipe.model_copy(update={"training": training}))
        encoder, lift = Encoder(generation, "cpu"), Lift(generation)
        found = []
        for item in dataset:
            pixels = prepare(dataset.load(item), recipe).pixels
            view = shifted_view(pixels, training)
            pair = [encoder.maps(one) for one in (pixels, view)]
            if recipe.kind == "classification":
                rows = [lift.image_row(pooled_of(moments_of(maps))) for maps in pair]
            else:
                rows = [rows_of(lift, maps, recipe) for maps in pair]
            found.append((rows[0] - rows[1])[:, :-1].astype(np.float64))
        wanted = np.vstack(found)
        wanted = np.hstack([wanted, np.ones((len(wanted), 1))])
        got = unpack(extract(generation, asked, min_cohort=1).shift_gram)
        np.testing.assert_allclose(got, wanted.T @ wanted, atol=1e-5 * np.trace(got))
        plain = extract(
            generation,
            replace(asked, recipe=recipe.model_copy(update={"training": Training()})),
            min_cohort=1,
        )
        assert not plain.shift_gram.any()
        assert not extract(make.draft(recipe), asked, min_cohort=1).shift_gram.any()


def test_shifts_are_of_the_images_that_count_and_of_no_fewer(images_task: Task) -> None:
    recipe, dataset, generation = images_task
    labels = np.array([item.label for item in dataset])
    few = dataset.subset([*np.flatnonzero(labels == 0), *np.flatnonzero(labels == 1)[:3]])
    for share in (1e-3, 1.0):
        training = Training(maps=share, invariance=0.3)
        asked = replace(few, recipe=recipe.model_copy(update={"training": training}))
        statistics = extract(generation, asked, min_cohort=10)
        assert statistics.absent == (recipe.classes[1],)
        # else a share that whoever writes the recipe chooses would leave fewer patients than min_cohort in it
        assert statistics.shift_gram[-1] == statistics.images == 12
    # noise goes on class Grams, so with it no view is even encoded
    assert not hasattr(extract_clipped(generation, asked, clip=1.0), "add_shifts")


def test_every_voxel_of_a_volume_counts_once(tmp_path: Path, make: SimpleNamespace) -> None:
    recipe = make.recipe("segmentation", (16, 16, 16), pixel_stride=1)
    dataset = make.volumes(tmp_path, recipe, [(24, 20, 12), (16, 40, 17)])
    generation = make.completed(recipe, dataset)
    statistics = extract(generation, dataset, min_cohort=1)
    voxels = np.zeros(2)
    for item in dataset:
        image = dataset.load(item)
        prepared = prepare(image, recipe)
        mask = prepare_mask(dataset.load_mask(item, image), prepared)
        voxels += [(mask == index).sum() for index in (0, 1)]
        assert (mask == IGNORE).sum() == mask.size - np.prod(prepared.valid)
    np.testing.assert_array_equal(statistics.class_counts, voxels)
    assert voxels.sum() == 24 * 20 * 12 + 16 * 40 * 17
    assert statistics.images == 2 and statistics.distance_moments[0] == 2


def test_an_image_of_several_windows_is_the_mean_of_them(tmp_path: Path, make: SimpleNamespace) -> None:
    recipe = make.recipe("classification", (16, 16, 16))
    dataset = make.volumes(tmp_path, recipe, [(32, 16, 16), (16, 16, 16)])
    generation = make.completed(recipe, dataset)
    statistics = extract(generation, dataset.subset([0]), min_cohort=1)
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    pixels = prepare(dataset.load(dataset.items[0]), recipe).pixels
    halves = [pooled_of(moments_of(encoder.maps(half))) for half in (pixels[:, :16], pixels[:, 16:])]
    row = np.mean([lift.image_row(half)[0] for half in halves], axis=0, dtype=np.float32)
    assert_same(unpack(statistics.class_gram(0)), np.outer(row, row).astype(np.float64))
    feature = np.mean([lift.standardise(half) for half in halves], axis=0)
    assert_same(unpack(statistics.image_gram)[-1, :-1], feature)
    distance = float(np.mean([lift.distance_squared(lift.standardise(half)) for half in halves]))
    assert statistics.distance_moments[1] == pytest.approx(distance)
    # The reference was measured on the mean: that alone is left out, not how far windows are from it.
    own = lift.distance_squared(feature)
    inside = extract(generation, dataset.subset([0]), site="a", min_cohort=1).distance_moments[1]
    assert inside == pytest.approx(generation.left_out(own) + distance - own)
    assert inside < generation.left_out(distance)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_unlabelled_items_give_pooled_rows(
    tmp_path: Path, make: SimpleNamespace, kind: str, images_task: Task, pixels_task: Task
) -> None:
    recipe, _, generation = images_task if kind == "classification" else pixels_task
    dataset = getattr(make, kind)(tmp_path, recipe, 8, 4)
    statistics = extract(generation, dataset, min_cohort=2)
    rows = 4 if kind == "classification" else 4 * 64
    assert statistics.class_counts.sum() == rows and statistics.unlabelled[-1] == rows
    alone = extract(generation, dataset.subset(range(4, 8)), min_cohort=2)
    assert alone.absent == recipe.classes and alone.unlabelled[-1] == rows
    np.testing.assert_array_equal(alone.unlabelled, statistics.unlabelled)


def test_a_draft_takes_every_item_as_unlabelled(images_task: Task, make: SimpleNamespace) -> None:
    recipe, dataset, _ = images_task
    statistics = extract(make.draft(recipe), dataset, min_cohort=10)
    assert not statistics.blocks and statistics.unlabelled[-1] == 24
    assert statistics.images == 24 and not statistics.distance_moments.any()


def test_small_classes_stay_at_home_whole(images_task: Task, caplog: pytest.LogCaptureFixture) -> None:
    _, dataset, generation = images_task
    few = dataset.subset([*range(0, 24, 2), 1, 3])
    with caplog.at_level(logging.INFO, "fedmed_edge.features.extract"):
        statistics = extract(generation, few, site="alpha", min_cohort=5)
    left_out, done = caplog.messages
    assert left_out == "class bright is left out: patients 2, min_cohort 5"
    assert done.startswith("extracted 12 of 14 images of alpha in ")
    assert statistics.absent == ("bright",)
    assert statistics.images == statistics.style_count == 12
    with pytest.raises(InputError, match="no class has 13 patients, which `min_cohort` asks for"):
        extract(generation, dataset, min_cohort=13)


def test_order_and_company_change_no_sum(images_task: Task) -> None:
    _, dataset, generation = images_task
    one = extract(generation, dataset, min_cohort=1)
    other = extract(generation, dataset.subset(range(23, -1, -1)), min_cohort=1)
    split: FeatureStatistics = extract(generation, dataset.subset(range(10)), min_cohort=1) + extract(
        generation, dataset.subset(range(10, 24)), min_cohort=1
    )
    for statistics in (other, split):
        assert_same(statistics.gram(), one.gram())
    for index in range(24):
        alone = extract(generation, dataset.subset([index]), min_cohort=1)
        label = dataset.items[index].label or 0
        assert np.isin(alone.class_gram(label), alone.gram()).all()


def test_sample_is_drawn_from_the_rows_that_count(pixels_task: Task) -> None:
    _, dataset, generation = pixels_task
    statistics, sample = extract_with_sample(generation, dataset, min_cohort=1, limit=60, seed=3)
    _, again = extract_with_sample(generation, dataset, min_cohort=1, limit=60, seed=3)
    assert sample.rows.shape == (60, generation.row_dim) and (sample.rows[:, -1] == 1).all()
    np.testing.assert_array_equal(sample.rows, again.rows)
    assert set(sample.folds.tolist()) <= {key[0] for key in statistics.blocks}
    assert set(sample.classes.tolist()) == {0, 1}
    _, all_rows = extract_with_sample(generation, dataset, min_cohort=1, limit=100_000)
    for (fold, index), block in statistics.blocks.items():
        own = all_rows.rows[(all_rows.folds == fold) & (all_rows.classes == index)].astype(np.float64)
        assert_same(unpack(block), own.T @ own)


def test_refusals(images_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, generation = images_task
    other = replace(dataset, recipe=recipe.model_copy(update={"channels": 3}))
    with pytest.raises(InputError, match="`channels` has 3, expected the generation's 1") as told:
        extract(generation, other)
    assert "state the generation's `channels` and `size` in the recipe" in (told.value.hint or "")
    monkeypatch.setattr("fedmed_edge.runtime._PROVIDERS", {"cpu": "", "cuda": "NoSuchProvider"})
    with pytest.raises(DeviceError, match="`device` has cuda, expected one that comes up"):
        extract(generation, dataset, device="cuda")
