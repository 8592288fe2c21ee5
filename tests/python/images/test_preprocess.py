"""Preprocessing against MONAI's transforms, and its round trip."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import Image
from fedmed_edge.images.intensity import scale_intensity
from fedmed_edge.images.preprocess import IGNORE, prepare, prepare_mask, restore
from fedmed_edge.recipe import Intensity, Recipe

RANGE = Intensity(rule="range", low=-100, high=150)


def recipe(**settings: Any) -> Recipe:
    base: dict[str, Any] = {"name": "r", "kind": "segmentation", "classes": ("a", "b"), "intensity": RANGE}
    return Recipe(**(base | settings))


def flat(pixels: np.ndarray, modality: str = "") -> Image:
    return Image(pixels.astype(np.float32), None, None, modality, "png", Path("a.png"))


def volume(pixels: np.ndarray, affine: np.ndarray) -> Image:
    return Image(pixels.astype(np.float32), affine, None, "", "nifti", Path("a.nii"))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-120, 170, shape).astype(np.float32)


@pytest.fixture(scope="module")
def monai() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.transforms")


@pytest.mark.parametrize(
    "shape", [(37, 61), (128, 128), (500, 333), (64, 300), (28, 28), (129, 127), (700, 20)]
)
def test_stretching_is_monais_resize(monai: Any, shape: tuple[int, int]) -> None:
    pixels = noise(3, *shape)
    prepared = prepare(flat(pixels), recipe(channels=3, size=(128, 96)))
    resize = monai.Resize((128, 96), mode="bilinear", anti_aliasing=True)
    wanted = resize(monai.ScaleIntensityRange(-100, 150, 0, 1, clip=True)(pixels))
    np.testing.assert_allclose(prepared.pixels, np.asarray(wanted), atol=1e-5)
    assert (prepared.valid, prepared.grid, prepared.source_shape) == ((128, 96), (128, 96), shape)


def test_intensity_rules_are_monais(monai: Any) -> None:
    pixels = noise(2, 30, 40, seed=3)
    np.testing.assert_array_equal(
        scale_intensity(pixels, RANGE),
        np.asarray(monai.ScaleIntensityRange(-100, 150, 0, 1, clip=True)(pixels)),
    )
    np.testing.assert_allclose(
        scale_intensity(pixels, Intensity(rule="percentile", low=2, high=97)),
        np.asarray(monai.ScaleIntensityRangePercentiles(2, 97, 0, 1, clip=True)(pixels)),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        scale_intensity(pixels, Intensity(rule="zscore")),
        np.asarray(monai.NormalizeIntensity(channel_wise=True)(pixels)),
        atol=1e-6,
    )


@pytest.mark.parametrize(("seed", "shear"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0.4)])
def test_volumes_are_monais_orientation_and_spacing(monai: Any, seed: int, shear: float) -> None:
    from monai.data.meta_tensor import MetaTensor

    pixels = noise(1, 24, 30, 13, seed=seed)
    scan = random_affine(seed, shear)
    prepared = prepare(volume(pixels, scan), recipe(size=(8, 8, 8), spacing_mm=(1.5, 1.5, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanned = MetaTensor(pixels, affine=scan)  # type: ignore[arg-type]
        scale = monai.ScaleIntensityRange(-100, 150, 0, 1, clip=True)
        oriented = monai.Orientation("RAS")(scale(scanned))
        wanted = monai.Spacing((1.5, 1.5, 2), mode="bilinear", padding_mode="border")(oriented)
    assert prepared.valid == tuple(wanted.shape[1:])
    inside = prepared.pixels[(slice(None), *(slice(side) for side in prepared.valid))]
    np.testing.assert_allclose(inside, wanted.numpy(), atol=8e-6)
    # The grid's own place in the patient, too.
    matrix, offset = prepared.to_source
    affine = np.eye(4)
    affine[:3, :3] = scan[:3, :3] @ matrix
    affine[:3, 3] = scan[:3, :3] @ offset + scan[:3, 3]
    np.testing.assert_allclose(affine, wanted.affine.numpy(), atol=1e-5)


def random_affine(seed: int, shear: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() @ np.diag(rng.uniform(0.8, 2.5, 3))
    affine[:3, 0] *= rng.choice([-1.0, 1.0])
    affine[:3, 2] += shear * affine[:3, 1]
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


@given(
    st.integers(0, 10_000),
    st.sampled_from(list(itertools.permutations(range(3)))),
    st.tuples(*[st.booleans()] * 3),
    st.sampled_from([0.0, 0.3]),
)
def test_a_mask_at_a_world_point_comes_back_there(
    seed: int, order: tuple[int, ...], flips: tuple[bool, ...], shear: float
) -> None:
    # A phantom of three balls, whose scan has any axis order, direction, obliqueness and tilt.
    rng = np.random.default_rng(seed)
    affine = random_affine(seed, shear)
    affine[:3, :3] = affine[:3, list(order)] * [-1 if flip else 1 for flip in flips]
    shape = tuple(int(side) for side in rng.integers(22, 30, 3))
    places = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    labels = np.zeros(shape, np.uint8)
    centres = []
    for number, corner in enumerate([(0.3, 0.3, 0.3), (0.7, 0.3, 0.6), (0.4, 0.7, 0.7)], 1):
        centre = affine[:3, :3] @ (np.array(shape) * corner) + affine[:3, 3]
        radius = 4.5 * np.abs(np.linalg.norm(affine[:3, :3], axis=0)).min()
        labels[(np.linalg.norm(places - centre, axis=1) < radius).reshape(shape)] = number
        centres.append(centre)
    spacing_mm = tuple(rng.uniform(0.8, 1.2, 3) * np.linalg.norm(affine[:3, :3], axis=0).min())
    settings = {"classes": ("0", "1", "2", "3"), "size": (8, 40, 8), "spacing_mm": spacing_mm}
    prepared = prepare(volume(labels[None], affine), recipe(**settings))
    grid_labels = prepare_mask(labels, prepared)
    matrix, offset = prepared.to_source
    for number, centre in enumerate(centres, 1):
        middle = np.argwhere(grid_labels == number).mean(axis=0)
        world = affine[:3, :3] @ (matrix @ middle + offset) + affine[:3, 3]
        assert np.linalg.norm(world - centre) < 1.0 * np.linalg.norm(affine[:3, :3], axis=0).max()
    probabilities = (grid_labels[None] == np.arange(4)[:, None, None, None]).astype(np.float32)
    back = restore(probabilities, prepared)
    assert back.shape == shape
    voxel = np.linalg.norm(affine[:3, :3], axis=0).max()
    for number, centre in enumerate(centres, 1):
        middle = np.argwhere(back == number).mean(axis=0)
        assert np.linalg.norm(affine[:3, :3] @ middle + affine[:3, 3] - centre) < voxel
        both = np.sum((back == number) & (labels == number))
        assert 2 * both / (np.sum(back == number) + np.sum(labels == number)) > 0.8


def test_the_label_of_a_grid_point_is_that_at_its_centre() -> None:
    mask = np.random.default_rng(0).integers(0, 5, (21, 34)).astype(np.uint8)
    prepared = prepare(flat(noise(1, 21, 34)), recipe(size=(16, 50)))
    labels = prepare_mask(mask, prepared)
    matrix, offset = prepared.to_source
    for row, column in itertools.product(range(16), range(50)):
        at = np.clip(matrix @ [row, column] + offset, 0, [20, 33])
        assert labels[row, column] == mask[tuple(np.floor(at + 0.5).astype(int))]


def test_an_image_already_on_the_grid_is_left_alone() -> None:
    pixels = noise(1, 16, 16)
    mask = (pixels[0] > 0).astype(np.uint8)
    prepared = prepare(flat(pixels), recipe(size=(16, 16)))
    np.testing.assert_array_equal(prepared.pixels, scale_intensity(pixels, RANGE))
    np.testing.assert_array_equal(prepare_mask(mask, prepared), mask)
    one_hot = np.stack([mask == 0, mask == 1]).astype(np.float32)
    np.testing.assert_array_equal(restore(one_hot, prepared), mask)
    still = prepare(volume(noise(1, 9, 9, 9), np.eye(4)), recipe(size=(8, 8, 8), spacing_mm=(1, 1, 1.0005)))
    assert still.grid == (9, 9, 9)


@pytest.mark.parametrize("shape", [(40, 50), (200, 150), (100, 300)])
def test_a_2d_mask_comes_back(shape: tuple[int, int]) -> None:
    mask = (gaussian_filter(np.random.default_rng(0).random(shape), 6) > 0.5).astype(np.uint8)
    prepared = prepare(flat(mask[None]), recipe(size=(96, 96)))
    labels = prepare_mask(mask, prepared)
    back = restore(np.stack([labels == 0, labels == 1]).astype(np.float32), prepared)
    assert back.shape == shape and np.mean(back == mask) > 0.97


def test_a_small_volume_is_padded_at_the_end_with_its_edge() -> None:
    prepared = prepare(volume(noise(1, 6, 20, 7), np.eye(4)), recipe(size=(8, 16, 8), spacing_mm=(1, 1, 1)))
    assert (prepared.valid, prepared.grid) == ((6, 20, 7), (8, 20, 8))
    np.testing.assert_array_equal(prepared.pixels[:, 6:, :, :7], prepared.pixels[:, 5:6, :, :7].repeat(2, 1))
    labels = prepare_mask(np.ones((6, 20, 7), np.uint8), prepared)
    assert (labels[:6, :, :7] == 1).all()
    assert (labels[6:] == IGNORE).all() and (labels[:, :, 7:] == IGNORE).all()
    # What a network says about padding does not reach the image.
    probabilities = np.zeros((2, 8, 20, 8), np.float32)
    probabilities[0, :6, :, :7] = 1
    probabilities[1] = 1 - probabilities[0]
    assert (restore(probabilities, prepared) == 0).all()


def test_memory_order_does_not_matter() -> None:
    pixels = noise(1, 12, 14, 16)
    affine = random_affine(7)
    settings = recipe(size=(8, 8, 8), spacing_mm=(1.1, 1.2, 1.3))
    wanted = prepare(volume(pixels, affine), settings).pixels
    for other in (
        np.asfortranarray(pixels),
        pixels[:, ::-1][:, ::-1],
        pixels.swapaxes(1, 3).copy().swapaxes(1, 3),
    ):
        np.testing.assert_array_equal(prepare(volume(other, affine), settings).pixels, wanted)


def test_the_image_itself_is_not_changed() -> None:
    for rule in ("range", "percentile", "zscore"):
        pixels = noise(1, 20, 20)
        before = pixels.copy()
        intensity = RANGE if rule == "range" else Intensity(rule=rule)
        prepare(flat(pixels), recipe(size=(20, 20), intensity=intensity))
        np.testing.assert_array_equal(pixels, before)


def test_slabs_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(
        volume(noise(1, 12, 14, 16), random_affine(3)), recipe(size=(8, 8, 8), spacing_mm=(1, 1, 1))
    )
    probabilities = np.random.default_rng(0).random((3, *prepared.grid), np.float32)
    wanted = restore(probabilities, prepared)
    monkeypatch.setattr("fedmed_edge.images.preprocess._SLAB_VALUES", 1)
    np.testing.assert_array_equal(restore(probabilities, prepared), wanted)


def test_a_flat_image_becomes_0() -> None:
    for intensity in (Intensity(rule="percentile"), Intensity(rule="zscore")):
        assert (scale_intensity(np.full((1, 4, 4), 7, np.float32), intensity) == 0).all()


def test_grey_is_repeated_for_three_channels() -> None:
    pixels = noise(1, 16, 16)
    prepared = prepare(flat(pixels), recipe(size=(16, 16), channels=3))
    np.testing.assert_array_equal(prepared.pixels, scale_intensity(pixels, RANGE).repeat(3, 0))


def test_mixed_channels_are_refused_unless_equal() -> None:
    pixels = noise(1, 16, 16).repeat(3, 0)
    assert prepare(flat(pixels), recipe(size=(16, 16))).pixels.shape == (1, 16, 16)
    pixels[2, 3, 4] += 1
    with pytest.raises(InputError, match=r"a.png: image has 3 channels that differ \(colour\), expected 1$"):
        prepare(flat(pixels), recipe(size=(16, 16)))


def test_another_modality_is_refused_and_an_unknown_one_taken() -> None:
    settings = recipe(size=(16, 16), modality=("CT", "MR"))
    assert prepare(flat(noise(1, 16, 16)), settings).grid == (16, 16)
    assert prepare(flat(noise(1, 16, 16), "MR"), settings).grid == (16, 16)
    with pytest.raises(InputError, match=r"a.png: `modality` has US, expected CT or MR$"):
        prepare(flat(noise(1, 16, 16), "US"), settings)


def test_other_dimensions_are_refused() -> None:
    volumes = recipe(size=(8, 8, 8), spacing_mm=(1, 1, 1))
    with pytest.raises(InputError, match=r"a.png: image has 2 dimensions, expected 3$"):
        prepare(flat(noise(1, 16, 16)), volumes)
    with pytest.raises(InputError, match=r"a.nii: image has 3 dimensions, expected 2$"):
        prepare(volume(noise(1, 8, 8, 8), np.eye(4)), recipe(size=(16, 16)))
    slice_alone = Image(noise(1, 8, 8), None, None, "CT", "dicom", Path("a.dcm"))
    with pytest.raises(InputError, match=r"a.dcm: image has 2 dimensions, expected 3") as refusal:
        prepare(slice_alone, volumes)
    assert refusal.value.hint == "give the folder of the series"
    with pytest.raises(InputError, match="image has no place in the patient, expected one for a volume"):
        prepare(volume(noise(1, 8, 8, 8), None), volumes)  # type: ignore[arg-type]


def test_a_grid_too_large_is_refused() -> None:
    affine = np.diag([50.0, 50, 50, 1])
    with pytest.raises(InputError, match=r"a.nii: grid has .* voxels at `spacing_mm`, expected at most 5368"):
        tiny = recipe(size=(8, 8, 8), spacing_mm=(0.05, 0.05, 0.05))
        prepare(volume(noise(1, 30, 30, 30), affine), tiny)


def test_a_mask_of_another_size_is_refused() -> None:
    prepared = prepare(flat(noise(1, 16, 20)), recipe(size=(8, 8)))
    with pytest.raises(InputError, match="mask has size 20x16, expected 16x20"):
        prepare_mask(np.zeros((20, 16), np.uint8), prepared)
    with pytest.raises(InputError, match="probabilities have size 8x9, expected 8x8"):
        restore(np.zeros((2, 8, 9), np.float32), prepared)
