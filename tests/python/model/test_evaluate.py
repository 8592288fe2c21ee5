from types import SimpleNamespace

import numpy as np
import pytest
import scipy.cluster.hierarchy
import scipy.linalg
from scipy.spatial.distance import squareform

from fedmed_edge.model.evaluate import evaluate
from fedmed_edge.model.rebuild import rebuild


def without(made: SimpleNamespace, sites: dict, *names: str) -> np.ndarray:
    kept = [site for name, site in sites.items() if name not in names]
    rows = np.vstack([site.rows for site in kept])
    return made.head(rows, np.concatenate([site.labels for site in kept]), 3, 1e-2)


def test_errors_and_worth_equal_their_definitions(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, shift=seed) for seed, name in enumerate("abc")}
    found = evaluate(made.contribute(sites, recipe), recipe, ridge=1e-2)
    weights = np.full(3, 1 / 60)
    for name, site in sites.items():
        error = made.error(site.rows, site.labels, without(made, sites, name), weights)
        one = found.sites[name]
        assert one.error == pytest.approx(error, rel=1e-9)
        assert one.relative_error == pytest.approx(error, rel=1e-9)  # a third of the rows of three classes
        assert (one.rows, one.images) == (60, 60)
        worth = sum(
            made.error(other.rows, other.labels, without(made, sites, name, to), weights)
            - made.error(other.rows, other.labels, without(made, sites, to), weights)
            for to, other in sites.items()
            if to != name
        )
        assert one.worth == pytest.approx(worth, rel=1e-9, abs=1e-9 * error)
    assert found.site_map is not None and found.site_map.sites == ("a", "b", "c")
    assert found.known_threshold is None and found.ridge == 1e-2
    assert found.model == rebuild(made.contribute(sites, recipe), recipe, ridge=1e-2).digest


def test_the_error_over_folds_equals_its_definition(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, shift=seed) for seed, name in enumerate("abc")}
    sites["c"].folds = 0  # never held out
    found = evaluate(made.contribute(sites, recipe), recipe, ridge=1e-2)
    error = known = 0.0
    for fold in range(5):
        out = {name: site.fold_of_row() == fold for name, site in sites.items()}
        kept = {
            name: made.Site(site.rows[~out[name]], site.labels[~out[name]]) for name, site in sites.items()
        }
        head = without(made, kept)
        for name, site in sites.items():
            held = site.labels[out[name]]
            error += made.error(site.rows[out[name]], held, head, np.full(3, 1 / 60))
            known += len(held) / 60
    assert found.fold_error == pytest.approx(error / known, rel=1e-9)


def test_the_map_and_the_threshold_are_those_of_the_image_features(made: SimpleNamespace) -> None:
    """From the images themselves: mean, shrunk covariance, matrix square roots; distances of every image."""
    recipe, rng = made.recipe(3), np.random.default_rng(0)
    sites = {
        name: made.random(seed, images=rng.standard_normal((40, 4)) + seed) for seed, name in enumerate("abc")
    }
    for site in sites.values():
        site.distances = np.sum(site.images**2, axis=1)
    found = evaluate(made.contribute(sites, recipe), recipe)
    gaussians = []
    for site in sites.values():
        covariance = np.cov(site.images.T, bias=True)
        gaussians.append(
            (site.images.mean(axis=0), 0.9 * covariance + 0.1 * np.trace(covariance) / 4 * np.eye(4))
        )
    wanted = np.zeros((3, 3))
    for i, (mean, one) in enumerate(gaussians):
        for k, (other_mean, other) in enumerate(gaussians):
            cross = np.real(scipy.linalg.sqrtm(one @ other)).trace()
            square = np.sum((mean - other_mean) ** 2) + np.trace(one + other) - 2 * cross
            wanted[i, k] = np.sqrt(max(square, 0.0)) if i != k else 0.0
    assert found.site_map is not None
    np.testing.assert_allclose(found.site_map.distances, wanted, rtol=1e-9)
    linkage = scipy.cluster.hierarchy.linkage(squareform(wanted, checks=False), "average")
    np.testing.assert_allclose([merge[2] for merge in found.site_map.merges], linkage[:, 2], rtol=1e-9)
    every = np.concatenate([site.distances for site in sites.values()])
    assert found.known_threshold == pytest.approx(every.mean() + 3 * every.std(), rel=1e-9)


def test_expected_recall_foretells_the_one_on_rows(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, rows=600, width=6) for seed, name in enumerate("abc")}
    contributions = made.contribute(sites, recipe)
    found = evaluate(contributions, recipe)
    model = rebuild(contributions[1:], recipe)
    answers = model.probabilities(sites["a"].rows).argmax(axis=1)
    real = np.mean([(answers[sites["a"].labels == k] == k).mean() for k in range(3)])
    assert found.sites["a"].expected_recall == pytest.approx(real, abs=0.04)


def test_a_harmful_site_is_worth_less_than_nothing(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed) for seed, name in enumerate("abc")}
    sites["b"].labels[:] = (sites["b"].labels + 1) % 3
    found = evaluate(made.contribute(sites, recipe), recipe)
    worth = {name: one.worth for name, one in found.sites.items()}
    assert worth["b"] < 0 < worth["a"]


def test_one_site_is_judged_by_its_folds_alone(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    found = evaluate(made.contribute({"a": made.random(0)}, recipe), recipe)
    one = found.sites["a"]
    assert one.error is None and one.worth is None and one.expected_recall is None
    assert found.fold_error is not None and 0 < found.fold_error < 1


def test_unlabelled_sites_have_a_place_but_no_error(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed) for seed, name in enumerate("abc")}
    sites["c"].labels[:] = -1
    sites["c"].distances = np.array([2.0, 4.0])
    found = evaluate(made.contribute(sites, recipe), recipe)
    one = found.sites["c"]
    assert one.error is None and one.worth is None and one.mean_distance == 3.0
    assert found.site_map is not None and "c" in found.site_map.sites


def test_without_image_statistics_there_is_no_map(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    contributions = made.contribute({"a": made.random(0), "b": made.random(1)}, recipe, parts=("classes",))
    assert evaluate(contributions, recipe).site_map is None
    (told,) = made.contribute({"c": made.random(2)}, recipe)
    found = evaluate([*contributions, told], recipe)
    assert found.site_map is not None and found.site_map.sites == ("c",)
