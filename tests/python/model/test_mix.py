from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.model.distance import site_map
from fedmed_edge.model.episodes import Federation
from fedmed_edge.model.generator import federation_of
from fedmed_edge.model.mix import class_mix, on_simplex, site_priors
from fedmed_edge.model.refine import refine
from fedmed_edge.model.sums import read_sums


@given(seed=st.integers(0, 10_000), classes=st.integers(1, 9), rows=st.integers(1, 12))
def test_the_least_on_the_simplex_equals_scipy(seed: int, classes: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((rows, classes)), 2.0 * rng.standard_normal(rows)
    found = on_simplex(left.T @ left, right @ left)
    assert found.min() >= 0.0 and found.sum() == pytest.approx(1.0, abs=1e-12)
    heavy = 1e5  # the sum is 1 where it costs so much to be anything else
    wanted, _ = scipy.optimize.nnls(np.vstack([left, np.full(classes, heavy)]), np.append(right, heavy))
    errors = [float(np.sum((left @ mix - right) ** 2)) for mix in (found, wanted / wanted.sum())]
    assert errors[0] <= errors[1] * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("mix", [(0.7, 0.2, 0.1), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)])
def test_a_mix_is_found_from_the_mean_row(made: SimpleNamespace, mix: tuple[float, ...]) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, rows=150) for seed, name in enumerate("abc")}
    sums = read_sums(made.contribute(sites, recipe), recipe)
    other = made.random(7, rows=900)
    count = 300
    rows = np.vstack([other.rows[other.labels == k][: round(count * share)] for k, share in enumerate(mix)])
    found = class_mix(sums, dict.fromkeys("abc", 1.0), 1e-2, rows.mean(axis=0))
    np.testing.assert_allclose(found, mix, atol=0.08)


def test_a_class_that_no_site_has_is_none_of_the_mix(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, rows=90, classes=2) for seed, name in enumerate("ab")}
    sums = read_sums(made.contribute(sites, recipe), recipe)
    found = class_mix(sums, dict.fromkeys("ab", 1.0), 1e-2, made.random(5).rows.mean(axis=0))
    assert found[2] == 0.0 and found.sum() == pytest.approx(1.0)


def skewed(made: SimpleNamespace, seed: int, shares: tuple[float, ...]) -> object:
    """A site of about 120 rows of this mix."""
    site = made.random(seed, rows=360)
    kept = np.concatenate([np.flatnonzero(site.labels == k)[: round(120 * s)] for k, s in enumerate(shares)])
    return made.Site(site.rows[np.sort(kept)], site.labels[np.sort(kept)])


MIXES = {"a": (0.6, 0.2, 0.2), "b": (0.2, 0.6, 0.2), "c": (0.3, 0.2, 0.5), "d": (0.1, 0.1, 0.8)}


def federation(made: SimpleNamespace, sites: dict) -> Federation:
    contributions = made.contribute(sites, made.recipe(3))
    sums = read_sums(contributions, made.recipe(3))
    return federation_of(contributions, sums, site_map(contributions), 1e-2)


def test_priors_of_a_site_are_its_own_mix(made: SimpleNamespace) -> None:
    sites = {name: skewed(made, seed, mix) for seed, (name, mix) in enumerate(MIXES.items())}
    known = site_priors(federation(made, sites), "d")
    others = np.mean([MIXES[name] for name in "abc"], axis=0)
    np.testing.assert_allclose(known, (120 * np.array(MIXES["d"]) + 20 * others) / 140, atol=0.01)
    bare = made.Site(sites["d"].rows, np.full(len(sites["d"].rows), -1))  # type: ignore[attr-defined]
    solved = site_priors(federation(made, sites | {"d": bare}), "d")
    np.testing.assert_allclose(solved, MIXES["d"], atol=0.12)
    few = {name: site for name, site in sites.items() if name in "ab"}  # nothing tells how far to believe it
    assert site_priors(federation(made, few | {"d": bare}), "d") == pytest.approx([0.4, 0.4, 0.2], abs=0.01)


def test_a_refined_model_has_the_priors_of_its_site_where_the_recipe_counts(made: SimpleNamespace) -> None:
    sites = {name: skewed(made, seed, mix) for seed, (name, mix) in enumerate(MIXES.items())}
    sites["d"].rows[:, :-1] = 2.0 * sites["d"].rows[:, -2::-1]  # type: ignore[attr-defined]
    for rule, wanted in (("uniform", [1 / 3] * 3), ("counted", None)):
        recipe = made.recipe(3, priors=rule)
        contributions = made.contribute(sites, recipe)
        model = refine(contributions, "d", recipe)
        assert model.kept == "refined"
        wanted = wanted or site_priors(federation(made, sites), "d")
        np.testing.assert_allclose(model.posterior.priors, wanted, atol=1e-9)
