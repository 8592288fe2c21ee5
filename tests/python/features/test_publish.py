from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kits import run_python

from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import build_backbone, state_of
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
from fedmed_edge.features.extract import extract
from fedmed_edge.features.lift import Lift
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.generation import SHRINKAGE, Generation, parse_generation, shrink
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.recipe import Lift as LiftSettings
from fedmed_edge.recipe import Recipe

Task = tuple[Recipe, Dataset, Generation]


def rows_of(generation: Generation, dataset: Dataset) -> np.ndarray:
    encoder, lift, recipe = Encoder(generation, "cpu"), Lift(generation), dataset.recipe
    rows = []
    for item in dataset:
        maps = encoder.maps(prepare(dataset.load(item), recipe).pixels)
        if recipe.kind == "classification":
            rows.append(lift.image_row(pooled_of(moments_of(maps))))
        else:
            rows.append(lift.pixel_rows(maps, recipe.pixel_stride, recipe.size)[0])
    return np.concatenate(rows).astype(np.float64)


def test_a_draft_leaves_features_as_they_are(make: SimpleNamespace) -> None:
    recipe = make.recipe("segmentation")
    draft = make.draft(recipe)
    assert draft.draft and draft.header.trained_by == ("a", "b")
    assert (draft.header.lift_dim, draft.header.widths, draft.row_dim) == (0, (1, 8, 12, 8), 30)
    back = parse_generation(draft.content, "draft")
    assert back.digest == draft.digest == make.draft(recipe).digest
    assert draft.digest != make.draft(recipe, seed=1).digest


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_rows_of_the_training_images_are_standardised(
    kind: str, images_task: Task, pixels_task: Task
) -> None:
    _, dataset, generation = images_task if kind == "classification" else pixels_task
    rows = rows_of(generation, dataset)
    features = rows[:, generation.header.lift_dim : -1]
    # channels that do not move keep deviation 1 and become 0
    moving = generation.deviation != 1
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(features.std(axis=0)[moving], 1, atol=2e-3)
    assert moving.mean() > 0.8 and not generation.draft
    assert generation.row_dim == 24 + generation.feature_dim + 1
    assert parse_generation(generation.content, "g").digest == generation.digest


def test_projection_keeps_the_first_principal_axes(images_task: Task) -> None:
    recipe, dataset, whole = images_task
    narrow = recipe.model_copy(update={"lift": LiftSettings(lift_dim=8, feature_dim=5)})
    draft = replace(
        whole,
        header=whole.header.model_copy(update={"lift_dim": 0}),
        mean=np.zeros_like(whole.mean),
        deviation=np.ones_like(whole.deviation),
        lift_weight=whole.lift_weight[:, :0],
        lift_bias=whole.lift_bias[:0],
        reference_mean=None,
        reference_covariance=None,
    )
    generation = complete_generation(draft, narrow, {"a": extract(draft, dataset, min_cohort=1)})
    assert (generation.feature_dim, generation.row_dim) == (5, 14)
    standard = rows_of(whole, dataset)[:, 24:-1]
    _, singular, axes = np.linalg.svd(standard - standard.mean(axis=0), full_matrices=False)
    assert generation.projection is not None
    overlap = np.abs(axes[:5] @ generation.projection)
    np.testing.assert_allclose(np.linalg.svd(overlap)[1][:3], 1, atol=0.05)
    projected = rows_of(generation, dataset)[:, 8:-1]
    np.testing.assert_allclose(projected.std(axis=0), singular[:5] / np.sqrt(len(standard)), rtol=1e-2)


def test_sites_together_equal_one_site(images_task: Task, make: SimpleNamespace) -> None:
    recipe, dataset, whole = images_task
    draft = make.draft(recipe)
    parts = {
        site: extract(draft, dataset.subset(range(low, low + 12)), min_cohort=1)
        for site, low in (("a", 0), ("b", 12))
    }
    split = complete_generation(draft, recipe, parts)
    np.testing.assert_allclose(split.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(split.deviation, whole.deviation, rtol=1e-5)
    np.testing.assert_array_equal(split.lift_weight, whole.lift_weight)
    assert complete_generation(draft, recipe, parts, seed=5).lift_bias[0] != split.lift_bias[0]


def test_reference_is_the_gaussian_of_the_images(pixels_task: Task) -> None:
    recipe, dataset, generation = pixels_task
    encoder, lift = Encoder(generation, "cpu"), Lift(generation)
    features = np.array(
        [
            lift.standardise(pooled_of(moments_of(encoder.maps(prepare(dataset.load(item), recipe).pixels))))
            for item in dataset
        ],
        np.float64,
    )
    assert generation.reference_mean is not None and generation.reference_covariance is not None
    np.testing.assert_allclose(generation.reference_mean, features.mean(axis=0), atol=1e-3)
    covariance = np.cov(features.T, bias=True)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(
        len(covariance)
    )
    np.testing.assert_allclose(generation.reference_covariance, shrunk, atol=1e-3)
    np.linalg.cholesky(generation.reference_covariance)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_images_that_are_all_the_same_still_make_a_generation(
    kind: str, tmp_path: Path, make: SimpleNamespace
) -> None:
    recipe = make.recipe(kind)
    dataset = getattr(make, kind)(tmp_path, recipe, images=4)
    for path in tmp_path.glob("[1-9].png"):
        path.write_bytes((tmp_path / "0.png").read_bytes())
    draft = make.draft(recipe)
    generation = complete_generation(draft, recipe, {"a": extract(draft, dataset, min_cohort=1)})
    assert parse_generation(generation.content, "g").digest == generation.digest
    assert np.isfinite(generation.whitening).all()


def test_lift_is_drawn_from_the_seed_and_narrowed(images_task: Task, make: SimpleNamespace) -> None:
    recipe, dataset, whole = images_task
    random = np.random.Generator(np.random.PCG64(0))
    drawn = random.standard_normal((whole.feature_dim, 24)) / np.sqrt(whole.feature_dim)
    np.testing.assert_array_equal(whole.lift_weight, drawn.astype(np.float32))
    np.testing.assert_array_equal(whole.lift_bias, random.standard_normal(24).astype(np.float32))
    wide = recipe.model_copy(update={"lift": LiftSettings(lift_dim=1024, feature_dim=64)})
    draft = make.draft(wide)
    assert complete_generation(draft, wide, {"a": extract(draft, dataset, min_cohort=1)}).row_dim == 1024


def test_completing_needs_no_torch(tmp_path: Path, images_task: Task, make: SimpleNamespace) -> None:
    recipe, dataset, whole = images_task
    path = tmp_path / "draft"
    path.write_bytes(make.draft(recipe).content)
    script = (
        "import sys; from pathlib import Path; from fedmed_edge.generation import read_generation; "
        "from fedmed_edge.features.publish import complete_generation; "
        "from fedmed_edge.features.extract import extract; "
        "from fedmed_edge.images.dataset import read_dataset; from fedmed_edge.recipe import Recipe; "
        "recipe = Recipe.model_validate_json(sys.argv[3]); draft = read_generation(Path(sys.argv[1])); "
        "sums = extract(draft, read_dataset(Path(sys.argv[2]), recipe), min_cohort=1); "
        "print(complete_generation(draft, recipe, {'a': sums}).digest); "
        "assert not {'torch', 'monai'} & set(sys.modules)"
    )
    assert run_python(script, path, dataset.folder, recipe.model_dump_json()).split() == [whole.digest]


@pytest.mark.parametrize("images", [60, 16])
def test_a_distance_left_out_is_that_to_a_reference_without_the_image(images_task: Task, images: int) -> None:
    """With more images than features, and with fewer, where shrinkage alone makes a distance finite."""
    _, _, generation = images_task
    spread = np.linspace(0.2, 3, generation.feature_dim)
    features = np.random.default_rng(0).normal(size=(images, len(spread))) * spread

    def distance(kept: npt.NDArray[np.float64], image: npt.NDArray[np.float64]) -> float:
        whole = replace(
            generation,
            header=generation.header.model_copy(update={"reference_images": len(kept)}),
            reference_mean=kept.mean(axis=0),
            reference_covariance=shrink(np.cov(kept.T, bias=True)),
        )
        return float(whole.squared_distance(image[None])[0])

    whole = replace(generation, header=generation.header.model_copy(update={"reference_images": images}))
    inside = np.array([distance(features, image) for image in features])
    wanted = np.array([distance(np.delete(features, i, axis=0), features[i]) for i in range(images)])
    got = np.array([whole.left_out(float(squared)) for squared in inside])
    assert inside.sum() < 0.75 * wanted.sum()
    np.testing.assert_allclose(got, wanted, rtol=0.15)
    assert got.sum() == pytest.approx(wanted.sum(), rel=0.1)


def test_extraction_leaves_out_where_the_reference_was_measured(images_task: Task) -> None:
    _, dataset, generation = images_task
    few = dataset.subset(range(6))
    elsewhere, own = (extract(generation, few, site=site, min_cohort=1) for site in ("z", "a"))
    one = extract(generation, dataset.subset([0]), site="z", min_cohort=1).distance_moments[1]
    left_out = extract(generation, dataset.subset([0]), site="a", min_cohort=1).distance_moments[1]
    assert left_out == generation.left_out(float(one)) > one
    assert own.distance_moments[1] > elsewhere.distance_moments[1]
    np.testing.assert_array_equal(own.image_gram, elsewhere.image_gram)


def test_refusals(images_task: Task, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, whole = images_task
    draft = make.draft(recipe)
    sums: Any = extract(draft, dataset, min_cohort=1)
    with pytest.raises(InputError, match="has its standardisation already, expected a draft"):
        complete_generation(whole, recipe, {"a": sums})
    with pytest.raises(InputError, match="no site's statistics, expected at least one"):
        complete_generation(draft, recipe, {})
    other = extract(whole, dataset, min_cohort=1)
    with pytest.raises(InputError, match="`row_dim` of `b` has 45, expected 21"):
        complete_generation(draft, recipe, {"b": other})
    many = recipe.model_copy(update={"classes": tuple(f"c{number}" for number in range(1000))})
    wide = many.model_copy(update={"lift": LiftSettings(lift_dim=1000, feature_dim=64)})
    with pytest.raises(
        InputError, match=r"a contribution of 1000 classes could have .* GiB, expected"
    ) as caught:
        complete_generation(draft, wide, {"a": sums})
    assert "narrower lift" in (caught.value.hint or "")
    unlike = build_backbone(recipe.backbone, kind="classification", channels=3, size=recipe.size)
    with pytest.raises(InputError, match=r"backbone: `net.stem.0.weight` has shape"):
        draft_generation(recipe, state_of(unlike))
