"""Affines."""

import itertools

import hypothesis.strategies as st
import nibabel
import numpy as np
from hypothesis import given
from scipy.spatial.transform import Rotation

from fedmed_edge.images.geometry import carry_axes, spacing, world_axes

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
