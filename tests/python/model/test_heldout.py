from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.model.heldout import (
    RIDGES,
    all_weights,
    fold_constant,
    fold_errors,
    hold,
    judging_weights,
    site_errors,
)
from fedmed_edge.model.sums import read_sums


def test_error_from_sums_equals_error_from_rows(made: SimpleNamespace) -> None:
    recipe, site = made.recipe(3), made.random(3)
    (sums,) = read_sums(made.contribute({"a": site}, recipe), recipe)
    weights = np.array([0.5, 0.0, 2.0])
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.3, 5.0):
        head = scale * rng.standard_normal((12, 3))
        wanted = made.error(site.rows, site.labels, head, weights)
        np.testing.assert_allclose(hold(sums.total, weights).error(head), wanted, rtol=1e-9)


def test_leaving_a_site_out_equals_fitting_without_its_rows(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, shift=seed) for seed, name in enumerate("abc")}
    sums = read_sums(made.contribute(sites, recipe), recipe)
    got = site_errors(sums, dict.fromkeys("abc", 1.0), RIDGES)
    weights = all_weights(sums)
    np.testing.assert_allclose(weights, 1 / 60)
    for name, site in sites.items():
        rows = np.vstack([other.rows for one, other in sites.items() if one != name])
        labels = np.concatenate([other.labels for one, other in sites.items() if one != name])
        wanted = [
            made.error(site.rows, site.labels, made.head(rows, labels, 3, ridge), weights) for ridge in RIDGES
        ]
        np.testing.assert_allclose(got[name], wanted, rtol=1e-9)


def test_holding_a_fold_out_equals_fitting_without_its_rows(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    site = made.random(5)
    sums = read_sums(made.contribute({"a": site}, recipe), recipe)
    got = fold_errors(sums, {"a": 1.0}, RIDGES, all_weights(sums))
    fold = site.fold_of_row()
    for number in range(5):
        kept = fold != number
        wanted = [
            made.error(
                site.rows[~kept],
                site.labels[~kept],
                made.head(site.rows[kept], site.labels[kept], 3, ridge),
                all_weights(sums),
            )
            for ridge in RIDGES
        ]
        np.testing.assert_allclose(got[number], wanted, rtol=1e-9)


def test_a_class_that_no_other_site_has_does_not_judge(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    only = made.random(1)
    only.labels[:] = 2
    sums = read_sums(made.contribute({"a": made.random(0, classes=2), "b": only}, recipe), recipe)
    assert site_errors(sums, dict.fromkeys("ab", 1.0), [1e-2]) == {}
    assert set(fold_errors(sums, dict.fromkeys("ab", 1.0), [1e-2], all_weights(sums))) == {0, 1, 2, 3, 4}


def test_where_something_is_chosen_a_class_counts_as_many_patients_as_it_has(made: SimpleNamespace) -> None:
    recipe, site = made.recipe(3), made.random(0, rows=63)
    keep = (site.labels < 2) | (np.cumsum(site.labels == 2) <= 4)
    few = made.Site(site.rows[keep], site.labels[keep])
    (sums,) = read_sums(made.contribute({"a": few}, recipe), recipe)
    sums = replace(sums, patients=np.array([7, 21, 4]))
    judge = judging_weights([sums])
    np.testing.assert_allclose(judge, [1 / 3, 1.0, 1.0])
    assert fold_constant([sums], judge) == pytest.approx(7.0 + 21.0)  # the third class has no folds
    zeros = sum(hold(sums.fold(f), judge).error(np.zeros((12, 3))) for f in range(5))
    np.testing.assert_allclose(fold_constant([sums], judge), zeros)
    held = few.fold_of_row() == 1
    head = made.head(few.rows[~held], few.labels[~held], 3, 1e-2)
    got = fold_errors([sums], {"a": 1.0}, [1e-2], judge)
    np.testing.assert_allclose(got[1], [made.error(few.rows[held], few.labels[held], head, judge)], rtol=1e-9)
