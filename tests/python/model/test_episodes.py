from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.model.distance import site_map
from fedmed_edge.model.episodes import Episode, Federation, look
from fedmed_edge.model.generator import federation_of
from fedmed_edge.model.heldout import hold
from fedmed_edge.model.sums import read_sums


def federation(made: SimpleNamespace, **fields: object) -> tuple[dict, Federation]:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, shift=0.5 * seed, **fields) for seed, name in enumerate("abcd")}
    contributions = made.contribute(sites, recipe)
    sums = read_sums(contributions, recipe)
    return sites, federation_of(contributions, sums, site_map(contributions), 1e-2)


def episode(all_: Federation, seed: int = 0) -> tuple[Episode, np.ndarray]:
    """Three sites and most of the fourth, whose first fold is held out; and some parameters."""
    rng, last = np.random.default_rng(seed), all_.sites[3]
    seen = [*(site.total for site in all_.sites[:3]), last.without(0)]
    held = hold(last.fold(0), np.array([1.0, 0.5, 2.0]))
    one = Episode(seen, rng.standard_normal((4, 5)), rng.standard_normal(2), held, all_.ridge)
    return one, 0.3 * rng.standard_normal(7)


def test_an_error_is_that_of_a_head_fitted_on_rows(made: SimpleNamespace) -> None:
    sites, all_ = federation(made)
    one, parameters = episode(all_)
    weights, ridge = np.exp(one.inputs @ parameters[:5]), 1e-2 * np.exp(one.own @ parameters[5:])
    out = (sites["d"].fold_of_row() == 0, sites["d"].rows, sites["d"].labels)
    kept = [*(sites[name] for name in "abc"), made.Site(out[1][~out[0]], out[2][~out[0]])]
    head = made.head(
        np.vstack([site.rows for site in kept]),
        np.concatenate([site.labels for site in kept]),
        3,
        ridge,
        np.concatenate([np.full(len(site.labels), a) for site, a in zip(kept, weights, strict=True)]),
    )
    residual = out[1][out[0]] @ head - np.eye(3)[out[2][out[0]]]
    wanted = np.array([1.0, 0.5, 2.0])[out[2][out[0]]] @ np.sum(residual**2, axis=1)
    assert one.error(parameters) == pytest.approx(wanted, rel=1e-9)
    assert one.loss(parameters)[0] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_is_that_of_the_error(made: SimpleNamespace, seed: int) -> None:
    one, parameters = episode(federation(made)[1], seed)
    step = 1e-5 * np.eye(7)
    wanted = [(one.error(parameters + d) - one.error(parameters - d)) / 2e-5 for d in step]
    np.testing.assert_allclose(one.loss(parameters)[1], wanted, rtol=1e-5, atol=1e-6)


def test_a_step_far_too_long_has_an_error_and_a_gradient(made: SimpleNamespace) -> None:
    one, parameters = episode(federation(made)[1])
    for far in (1e3, -1e3):
        value, gradient = one.loss(far * parameters)
        assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[5:].any()
        assert value == pytest.approx(one.error(2.0 * far * parameters), rel=1e-4)


def test_a_look_needs_no_labels(made: SimpleNamespace) -> None:
    recipe, site = made.recipe(3), made.random(0)
    (known,) = made.contribute({"a": site}, recipe)
    (bare,) = made.contribute({"a": made.Site(site.rows, np.full(60, -1))}, recipe)
    for one in (known, bare):
        found = look(one)
        assert found is not None and found.style is None
        np.testing.assert_allclose(found.mean, site.rows.mean(axis=0), atol=1e-12)
    (images,) = made.contribute({"a": site}, recipe, parts=("images",))
    assert look(images) is None
    assert look(replace(known, statistics=None)) is None
