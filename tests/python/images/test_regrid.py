"""`lenient`: a crooked stack becomes a straight one at the right place, and a mask finds its way back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom import frame_masks, read_volume
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.recipe import Intensity, Recipe

RECIPE = Recipe(
    name="t",
    kind="segmentation",
    classes=("no", "yes"),
    size=(16, 16, 16),
    spacing_mm=(1, 1, 1),
    intensity=Intensity(rule="range", low=0, high=1000),
)


def field_at(positions: np.ndarray, rows: int = 20, columns: int = 24) -> np.ndarray:
    """Slices (n, rows, columns) of a field that is linear in the patient's x, y, z: 0.75 × 0.5 mm pixels."""
    x = positions[:, 0, None, None] + np.arange(columns) * 0.75
    y = positions[:, 1, None, None] + np.arange(rows)[:, None] * 0.5
    return np.broadcast_to(
        10 * x + 7 * y + 3 * positions[:, 2, None, None] + 300, (len(positions), rows, columns)
    )


def series_at(write_series: Any, positions: np.ndarray) -> Any:
    stored = np.rint(field_at(positions) * 8).astype(np.int16)
    folder: Path = write_series(stored, positions, RescaleSlope=0.125, RescaleIntercept=0)
    (series,) = group_files(sorted(folder.iterdir())).series
    return series


CROOKED = {
    "missing": [[0, 0, z] for z in (0, 1, 2, 4, 5, 6)],
    "irregular": [[0, 0, z] for z in (0, 1, 2.3, 3, 4.2, 5)],
    "aside": [[0, 0, 0], [0.3, 0.4, 1], [0, 0, 2], [-0.2, 0.1, 3], [0, 0, 4]],
    "duplicate": [[0, 0, z] for z in (0, 1, 1, 2, 3)],
    "sheared": [[0.6 * z, 0, z] for z in range(5)],
    "all at once": [[0.6 * z + 0.1 * (z % 2), 0.2 * z, z] for z in (0, 1, 1, 2, 4, 5.2, 6)],
}


@pytest.mark.parametrize("fault", CROOKED)
def test_a_crooked_stack_is_refused_by_default_and_straightened_on_demand(
    write_series: Any, fault: str
) -> None:
    positions = np.array(CROOKED[fault], float)
    series = series_at(write_series, positions)
    with pytest.raises(InputError, match=r"series: slice"):
        read_volume(series)
    image = read_volume(series, lenient=True)
    assert image.affine_ras is not None
    assert all(note.startswith("resampled: slice") for note in image.warnings if not note.startswith("tilt"))
    assert any(note.startswith("resampled") for note in image.warnings)
    i, j, k = np.meshgrid(*(np.arange(side) for side in image.shape), indexing="ij")
    world = np.einsum("ab,b...->a...", image.affine_ras, np.stack([i, j, k, np.ones_like(i)]))
    wanted = -10 * world[0] - 7 * world[1] + 3 * world[2] + 300
    inner = np.s_[2:-2, 2:-2, :]
    np.testing.assert_allclose(image.pixels[0][inner], wanted[inner], atol=0.15)


@pytest.mark.parametrize("fault", CROOKED)
def test_a_mask_drawn_at_a_place_comes_back_to_it_on_every_frame(write_series: Any, fault: str) -> None:
    positions = np.array(CROOKED[fault], float)
    series = series_at(write_series, positions)
    prepared = prepare(read_volume(series, lenient=True), RECIPE)
    # Where the field is high is the same place in the patient on every grid.
    half = 0.55 * 1000
    probabilities = np.stack([prepared.pixels[0] < 0.55, prepared.pixels[0] >= 0.55]).astype(np.float32)
    mask = restore(probabilities, prepared)
    on_frames = frame_masks(mask, series)
    truth = field_at(np.array([frame.position for frame in series.frames]))
    sure = np.abs(truth - half) > 15  # farther than a voxel of the model's grid
    sure[:, :2] = sure[:, -2:] = sure[:, :, :2] = sure[:, :, -2:] = False
    assert on_frames.shape == truth.shape and sure.mean() > 0.3
    np.testing.assert_array_equal(on_frames[sure], (truth >= half)[sure])


def test_a_tilted_gantry_is_named_and_a_turned_slice_never_resampled(write_series: Any) -> None:
    positions = np.arange(5)[:, None] * [0, 0.9, 2.5]
    image = read_volume(series_at(write_series, positions))
    assert image.warnings == ("tilt: slices are stacked 19.8 degrees off their normal",)


def test_a_gap_wider_than_the_rest_is_not_filled(write_series: Any) -> None:
    series = series_at(write_series, np.array([[0, 0, z] for z in (0.0, 1, 2, 40)]))
    with pytest.raises(InputError, match=r"slices 3 and 4 along the normal are 38.000 mm apart"):
        read_volume(series, lenient=True)


def test_slices_that_all_lie_at_one_place_are_refused_even_so(write_series: Any) -> None:
    series = series_at(write_series, np.zeros((4, 3)))
    with pytest.raises(InputError, match="slices 1 and 2 along the normal lie at one position"):
        read_volume(series, lenient=True)
