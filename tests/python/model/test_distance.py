from types import SimpleNamespace

import numpy as np
import pytest
import scipy.cluster.hierarchy
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import squareform

from fedmed_edge.errors import InputError
from fedmed_edge.generation import shrink
from fedmed_edge.model.distance import (
    ImageGaussian,
    bures_wasserstein,
    image_gaussian,
    known_threshold,
    places,
    site_map,
    tree,
)


def covariance(seed: int, size: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((size + 3, size))
    return rows.T @ rows / (size + 3)


@given(seed=st.integers(0, 10_000), size=st.integers(1, 12))
def test_bures_wasserstein_equals_scipy(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = (
        ImageGaussian(site, 1, rng.standard_normal(size), covariance(seed + number, size))
        for number, site in enumerate("ab")
    )
    root = scipy.linalg.sqrtm(one.covariance)
    inner = np.real(scipy.linalg.sqrtm(root @ two.covariance @ root))
    wanted = np.sum((one.mean - two.mean) ** 2) + np.trace(one.covariance + two.covariance - 2 * inner)
    got = bures_wasserstein(one, two)
    assert got == pytest.approx(np.sqrt(max(wanted, 0.0)), rel=1e-6, abs=1e-6)
    assert got == pytest.approx(bures_wasserstein(two, one), rel=1e-9)
    assert bures_wasserstein(one, one) <= 1e-6


def test_image_gaussian_is_that_of_the_features(made: SimpleNamespace) -> None:
    images = np.random.default_rng(0).standard_normal((30, 5))
    recipe = made.recipe(3)
    (one,) = made.contribute({"a": made.random(0, images=images)}, recipe)
    found = image_gaussian(one)
    np.testing.assert_allclose(found.mean, images.mean(axis=0))
    np.testing.assert_allclose(found.covariance, shrink(np.cov(images.T, bias=True)))
    assert found.images == 30


def test_site_map_orders_sites_by_how_unlike_they_are(made: SimpleNamespace) -> None:
    recipe, rng = made.recipe(3), np.random.default_rng(0)
    shifts = {"near": 0.0, "here": 0.1, "far": 9.0}
    sites = {
        name: made.random(0, images=rng.standard_normal((50, 4)) + shift) for name, shift in shifts.items()
    }
    found = site_map(made.contribute(sites, recipe))
    assert found.sites == ("far", "here", "near")
    assert found.distances[0, 1] == pytest.approx(18, rel=0.1)
    assert found.distances[1, 2] < 1
    np.testing.assert_array_equal(found.distances, found.distances.T)
    assert found.merges[0][:2] == (1, 2)
    apart = np.linalg.norm(found.places[:, None] - found.places, axis=2)
    np.testing.assert_allclose(apart, found.distances, atol=0.5)


def test_projection_of_many_sites_changes_little(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, rng = made.recipe(3), np.random.default_rng(0)
    scale = 0.9 ** np.arange(100)
    sites = {
        f"s{k}": made.random(0, images=scale * (rng.standard_normal((80, 100)) + 0.3 * k)) for k in range(9)
    }
    contributions = made.contribute(sites, recipe)
    projected = site_map(contributions).distances
    monkeypatch.setattr("fedmed_edge.model.distance.MANY_SITES", 100)
    np.testing.assert_allclose(projected, site_map(contributions).distances, rtol=0.05)


@given(seed=st.integers(0, 1000), size=st.integers(3, 9))
def test_places_keep_plane_distances(seed: int, size: int) -> None:
    plane = np.random.default_rng(seed).standard_normal((size, 2))
    distances = np.linalg.norm(plane[:, None] - plane, axis=2)
    found = places(distances)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found, axis=2), distances, atol=1e-6)
    for axis in found.T:
        assert axis[np.abs(axis).argmax()] > 0


@given(seed=st.integers(0, 1000), size=st.integers(2, 10))
def test_tree_equals_scipy(seed: int, size: int) -> None:
    points = np.random.default_rng(seed).standard_normal((size, 3))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    merges, order = tree(distances)
    wanted = scipy.cluster.hierarchy.linkage(squareform(distances, checks=False), "average")
    np.testing.assert_allclose([merge[2] for merge in merges], wanted[:, 2], rtol=1e-9)
    assert sorted(order) == list(range(size))


def test_one_site_has_a_map(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    found = site_map(made.contribute({"a": made.random(0)}, recipe))
    assert found.merges == () and found.order == (0,)
    np.testing.assert_array_equal(found.places, [[0.0, 0.0]])


def test_threshold_is_mean_and_three_deviations(made: SimpleNamespace) -> None:
    recipe, rng = made.recipe(3), np.random.default_rng(0)
    d2 = {name: rng.chisquare(5, 40) for name in "ab"}
    sites = {name: made.random(0, distances=values) for name, values in d2.items()}
    every = np.concatenate(list(d2.values()))
    contributions = made.contribute(sites, recipe)
    assert known_threshold(contributions) == pytest.approx(every.mean() + 3 * every.std())
    assert known_threshold(made.contribute({"a": made.random(0)}, recipe)) is None


def test_refusals(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    (hidden,) = made.contribute({"a": made.random(0)}, recipe, parts=("classes",))
    (one,) = made.contribute({"b": made.random(0)}, recipe)
    (wide,) = made.contribute({"c": made.random(0, images=np.ones((3, 9)))}, recipe)
    with pytest.raises(InputError, match="contribution of `a` has no image statistics"):
        site_map([hidden, one])
    with pytest.raises(InputError, match=r"features have widths \[4, 9\], expected one"):
        site_map([one, wide])
