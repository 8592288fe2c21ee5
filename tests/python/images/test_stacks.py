"""Stacks of slices: order, regularity, and every fault with its place and size."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fedmed_edge.errors import InputError
from fedmed_edge.images.stacks import diagnose


def stack(count: int = 6, distance: float = 2.5, tilt_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    orientation = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()[:, :2].T
    step = np.cross(*orientation) * distance + orientation[1] * tilt_mm
    return np.arange(count)[:, None] * step, np.tile(orientation.reshape(6), (count, 1))


@pytest.mark.parametrize("tilt_mm", [0.0, 0.8])
def test_slices_are_ordered_along_their_normal(tilt_mm: float) -> None:
    positions, orientations = stack(tilt_mm=tilt_mm)
    shuffled = np.random.default_rng(0).permutation(len(positions))
    found = diagnose(positions[shuffled], orientations)
    np.testing.assert_array_equal(shuffled[list(found.order)], np.arange(len(positions)))
    np.testing.assert_allclose(found.step, positions[1], atol=1e-12)
    np.testing.assert_allclose(found.heights, np.arange(6) * 2.5, atol=1e-12)
    assert found.tilt_degrees == pytest.approx(np.degrees(np.arctan(tilt_mm / 2.5)), abs=1e-5)
    assert not found.faults and found.distance_mm == pytest.approx(2.5)


def test_a_missing_slice_is_named_with_its_gap() -> None:
    positions, orientations = stack()
    with pytest.raises(
        InputError,
        match=r"here: slices 3 and 4 along the normal are 5.000 mm apart, expected 2.500 mm; 1 missing",
    ):
        diagnose(np.delete(positions, 3, axis=0), orientations[1:]).require_regular("here")


def test_two_slices_at_one_position_are_named() -> None:
    positions, orientations = stack()
    positions[4] = positions[1]
    with pytest.raises(InputError, match=r"here: slices 2 and 3 along the normal lie at one position"):
        diagnose(positions, orientations).require_regular("here")


@pytest.mark.parametrize("axis", [0, 2])
def test_a_slice_out_of_place_is_named(axis: int) -> None:
    positions, orientations = stack()
    row, column = orientations[0].reshape(2, 3)
    positions[2] += (row, column, np.cross(row, column))[axis] * 0.3
    with pytest.raises(InputError, match=r"here: slice 3 along the normal lies 0.300 mm off its regular pl"):
        diagnose(positions, orientations).require_regular("here")


def test_jitter_of_rounded_positions_is_taken() -> None:
    positions, orientations = stack()
    found = diagnose(positions.round(2), orientations.round(4))
    assert found.order == (0, 1, 2, 3, 4, 5) and not found.faults and not found.tilted


def test_a_localizer_is_named() -> None:
    positions, orientations = stack()
    orientations[3] = np.roll(np.eye(3), 1, axis=0)[:2].reshape(6)
    with pytest.raises(InputError, match=r"here: slice 4 of 6 \(by file name\) is turned by .* expected one"):
        diagnose(positions, orientations).require_regular("here")


def test_a_stack_across_its_slices_is_refused() -> None:
    positions, orientations = stack(tilt_mm=9.0)
    wanted = r"slices are stacked 74.5 degrees off their normal, expected a straight stack or a gantry tilted"
    with pytest.raises(InputError, match=wanted):
        diagnose(positions, orientations).require_regular("here")
