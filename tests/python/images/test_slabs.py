"""Labels slab by slab against the whole volume in memory."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.images import slabs
from fedmed_edge.images.image import Image
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.images.slabs import label_volume
from fedmed_edge.images.volume_grid import VolumeGrid
from fedmed_edge.images.windows import OVERLAP, blended, window_starts
from fedmed_edge.recipe import Intensity, Recipe

SIZE = (12, 8, 10)


def recipe_of(spacing_mm: tuple[float, float, float], classes: int = 3) -> Recipe:
    return Recipe(
        name="spot",
        kind="segmentation",
        classes=tuple(f"class {number}" for number in range(classes)),
        size=SIZE,
        spacing_mm=spacing_mm,
        intensity=Intensity(rule="range", low=0, high=1),
    )


def affine_of(seed: int, shear: float) -> np.ndarray[Any, Any]:
    """A turned, flipped, permuted scan; sheared as by a tilted gantry."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(3) + 0.2 * random.standard_normal((3, 3)))
    order = list(itertools.permutations(range(3)))[seed % 6]
    linear = (
        (turn * np.sign(np.diag(turn)))[:, order] * random.choice([-1, 1], 3) * random.uniform(0.7, 1.6, 3)
    )
    linear[:, 2] += shear * linear[:, 1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, random.uniform(-50, 50, 3)
    return affine


def volume_of(seed: int, shear: float, memory: tuple[int, ...] = (2, 1, 0)) -> Image:
    random = np.random.default_rng(seed)
    shape = tuple(int(side) for side in random.integers(9, 40, 3))
    stored = random.random([shape[axis] for axis in memory]).astype(np.float32)
    pixels = stored.transpose(np.argsort(memory))[None]
    return Image(pixels, affine_of(seed, shear), (1.0, 1.0, 1.0), "", "nifti", Path("a.nii"))


def network(window: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    """Class shares that change from voxel to voxel and from window to window."""
    phase = np.arange(classes, dtype=np.float32)[:, None, None, None]
    places = np.linspace(0, 1, window.size, dtype=np.float32).reshape(window.shape[1:])
    scores = np.exp(3 * np.sin(phase + 7 * window[0] + 2 * places))
    return np.ascontiguousarray(scores / scores.sum(axis=0), np.float32)


@pytest.mark.parametrize("shear", [0.0, 1e-5, 0.3])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [1 << 30, 1])
def test_labels_are_those_of_the_whole_volume(
    seed: int, shear: float, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "TOTALS_BYTES", budget)
    monkeypatch.setattr(slabs, "TOTALS_SHARE", 0)
    monkeypatch.setattr(slabs, "_PART_VALUES", 1 if seed % 2 else 1 << 20)
    memory = list(itertools.permutations(range(3)))[seed % 5]
    image, recipe = volume_of(seed, shear, memory), recipe_of((1.1, 0.9, 1.3))
    prepared, grid = prepare(image, recipe), VolumeGrid(image, recipe)
    assert (grid.shape, grid.valid) == (prepared.grid, prepared.valid)
    whole = blended(prepared.pixels, SIZE, lambda window: network(window, 3), channels=3)
    labels, shares = label_volume(grid, SIZE, lambda start: network(grid.window(start, SIZE), 3), classes=3)
    expected = restore(whole, prepared)
    assert labels.shape == image.shape and labels.dtype == np.uint8
    # Sums in another order: voxels whose two best classes are equal to a rounding may differ.
    assert np.mean(labels != expected) < 2e-4
    inside = whole[(slice(None), *(slice(side) for side in grid.valid))]
    np.testing.assert_allclose(shares, inside.reshape(3, -1).mean(axis=1, dtype=np.float64), atol=1e-6)


@pytest.mark.parametrize("shear", [0.0, 0.2])
def test_a_window_is_that_part_of_the_prepared_volume(shear: float) -> None:
    for seed in range(6):
        image, recipe = volume_of(seed, shear), recipe_of((1.0, 1.2, 0.8))
        prepared, grid = prepare(image, recipe), VolumeGrid(image, recipe)
        start = tuple(max(0, side - window) // 2 for side, window in zip(grid.shape, SIZE, strict=True))
        place = (slice(None), *(slice(low, low + side) for low, side in zip(start, SIZE, strict=True)))
        np.testing.assert_allclose(grid.window(start, SIZE), prepared.pixels[place], atol=2e-6)


def test_whole_numbers_of_16_bits_are_the_same_volume() -> None:
    image, recipe = (
        volume_of(3, 0.0),
        recipe_of((1.0, 1.0, 1.0)).model_copy(
            update={"intensity": Intensity(rule="percentile", low=1, high=99)}
        ),
    )
    numbers = np.rint(image.pixels * 4000 - 1000)
    both = [
        VolumeGrid(replace(image, pixels=pixels), recipe)  # type: ignore[arg-type]
        for pixels in (numbers.astype(np.float32), numbers.astype(np.int16))
    ]
    windows = [grid.window((0, 0, 0), SIZE) for grid in both]
    np.testing.assert_array_equal(windows[0], windows[1])


def test_labels_lie_in_memory_as_the_source_does() -> None:
    image, recipe = volume_of(1, 0.0), recipe_of((1.0, 1.0, 1.0))
    grid = VolumeGrid(image, recipe)
    labels, _ = label_volume(grid, SIZE, lambda start: network(grid.window(start, SIZE), 3), classes=3)
    assert labels.T.flags.c_contiguous


@pytest.mark.parametrize("classes", [2, 3, 4, 25, 100])
def test_totals_of_a_large_scan_stay_within_the_budget(classes: int) -> None:
    """However many classes: only tiles of a window's width may be larger than the budget allows."""
    size = (64, 64, 64)
    nothing = np.broadcast_to(np.zeros((), np.float32), (1, 512, 512, 300))
    recipe = recipe_of((1.0, 1.0, 1.0), classes).model_copy(update={"size": size})
    grid = VolumeGrid(Image(nothing, np.eye(4), (1.0, 1.0, 1.0), "", "nifti", Path("a.nii")), recipe)
    axes = slabs._Axes(grid, size)
    starts = [tuple(one[axis] for axis in axes.order) for one in window_starts(grid.shape, size, OVERLAP)]
    tiles = slabs._tiles(axes, starts, size, classes)
    cells = np.zeros(axes.valid[1:], int)
    for beside, along in tiles:
        low = (beside.cells[0] + beside.own.start, along.cells[0] + along.own.start)
        cells[low[0] : beside.cells[0] + beside.own.stop, low[1] : along.cells[0] + along.own.stop] += 1
    assert (cells == 1).all()
    sides = [max(tile[axis].width for tile in tiles) for axis in (0, 1)]
    budget = max(slabs.TOTALS_BYTES, slabs.TOTALS_SHARE * 4 * nothing.size - 5 * 4 * classes * 64**3)
    assert max(sides) < 2 * 64 or 4 * (classes + 1) * axes.depth(size) * sides[0] * sides[1] <= budget
    assert (len(tiles) == 1) == (classes <= 3)
