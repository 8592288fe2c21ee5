from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.model.mix import class_mix, on_simplex
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
