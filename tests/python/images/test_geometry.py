"""Affines and slice stacks."""

import itertools

import hypothesis.strategies as st
import nibabel
import numpy as np
import pytest
from hypothesis import given
from scipy.spatial.transform import Rotation

from fedmed_edge.errors import InputError
from fedmed_edge.images.geometry import carry_axes, order_slices, spacing, world_axes

seeds = st.integers(0, 10_000)


def random_affine(seed: int, shear: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    mirror = np.diag(rng.choice([-1.0, 1.0], 3))
    rotation = Rotation.random(random_state=seed).as_matrix()
    affine[:3, :3] = rotation @ mirror @ np.diag(rng.uniform(0.5, 4, 3))
    affine[:3, 2] += shear * affine[:3, 1]
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


@given(seeds, st.sampled_from([0.0, 0.4]))
def test_axes_are_nibabels(seed: int, shear: float) -> None:
    affine = random_affine(seed, shear)
    axes, directions = world_axes(affine)
    wanted = nibabel.io_orientation(affine)
    assert axes == tuple(wanted[:, 0])
    assert directions == tuple(wanted[:, 1])
    np.testing.assert_allclose(spacing(affine), nibabel.affines.voxel_sizes(affine))


@given(seeds, st.sampled_from(list(itertools.permutations(range(3)))), st.tuples(*[st.booleans()] * 3))
def test_axes_that_were_changed_are_changed_back(
    seed: int, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    values = np.random.default_rng(seed).random((3, 4, 5))
    target = random_affine(seed)
    changed = values.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    # Index of `changed` → index of `values`.
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        back[source, axis] = -1 if flip else 1
        back[source, 3] = values.shape[source] - 1 if flip else 0
    np.testing.assert_array_equal(carry_axes(changed, target @ back, target), values)


def test_other_grids_cannot_be_carried() -> None:
    values, target = np.zeros((3, 4, 5)), np.eye(4)
    assert carry_axes(values, np.diag([2.0, 1, 1, 1]), target) is None
    turned = np.eye(4)
    turned[:2, :2] = [[0.7, -0.7], [0.7, 0.7]]
    assert carry_axes(values, turned, target) is None


def stack(count: int = 6, distance: float = 2.5, tilt_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    orientation = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()[:, :2].T
    step = np.cross(*orientation) * distance + orientation[1] * tilt_mm
    return np.arange(count)[:, None] * step, np.tile(orientation.reshape(6), (count, 1))


@pytest.mark.parametrize("tilt_mm", [0.0, 0.8])
def test_slices_are_ordered_along_their_normal(tilt_mm: float) -> None:
    positions, orientations = stack(tilt_mm=tilt_mm)
    shuffled = np.random.default_rng(0).permutation(len(positions))
    order, step = order_slices(positions[shuffled], orientations, "here")
    np.testing.assert_array_equal(shuffled[order], np.arange(len(positions)))
    np.testing.assert_allclose(step, positions[1], atol=1e-12)


def test_a_missing_slice_is_named_with_its_gap() -> None:
    positions, orientations = stack()
    with pytest.raises(
        InputError,
        match=r"here: slices 3 and 4 along the normal are 5.000 mm apart, expected 2.500 mm; 1 missing",
    ):
        order_slices(np.delete(positions, 3, axis=0), orientations[1:], "here")


def test_two_slices_at_one_position_are_named() -> None:
    positions, orientations = stack()
    positions[4] = positions[1]
    with pytest.raises(InputError, match=r"here: slices 2 and 3 along the normal lie at one position"):
        order_slices(positions, orientations, "here")


@pytest.mark.parametrize("axis", [0, 2])
def test_a_slice_out_of_place_is_named(axis: int) -> None:
    positions, orientations = stack()
    row, column = orientations[0].reshape(2, 3)
    positions[2] += (row, column, np.cross(row, column))[axis] * 0.3
    with pytest.raises(InputError, match=r"here: slice 3 along the normal lies 0.300 mm off its regular pl"):
        order_slices(positions, orientations, "here")


def test_jitter_of_rounded_positions_is_taken() -> None:
    positions, orientations = stack()
    order, _ = order_slices(positions.round(2), orientations.round(4), "here")
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_localizer_is_named() -> None:
    positions, orientations = stack()
    orientations[3] = np.roll(np.eye(3), 1, axis=0)[:2].reshape(6)
    with pytest.raises(InputError, match=r"here: slice 4 of 6 \(by file name\) is turned by .* expected one"):
        order_slices(positions, orientations, "here")


def test_a_stack_across_its_slices_is_refused() -> None:
    positions, orientations = stack(tilt_mm=9.0)
    with pytest.raises(InputError, match=r"slices are stacked 74.5 degrees off their normal, expected at"):
        order_slices(positions, orientations, "here")
