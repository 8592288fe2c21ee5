from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.model.sums import class_weights, normal_equations, read_sums
from fedmed_edge.statistics.feature_statistics import unpack


def test_normal_equations_equal_their_definition(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {"b": made.random(1), "a": made.random(2, rows=40)}
    sums = read_sums(made.contribute(sites, recipe), recipe)
    assert [one.site for one in sums] == ["a", "b"]
    normal = normal_equations([(0.5, sums[0].total), (2.0, sums[1].total)], 3, 12)
    rows = np.vstack([sites["a"].rows, sites["b"].rows])
    labels = np.concatenate([sites["a"].labels, sites["b"].labels])
    weight = np.repeat([0.5, 2.0], [40, 60])
    counts = np.array([weight[labels == k].sum() for k in range(3)])
    share = (weight / counts[labels])[:, None]
    np.testing.assert_allclose(normal.counts, counts)
    np.testing.assert_allclose(unpack(normal.gram), (rows * share).T @ rows, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(normal.targets, (rows * share).T @ np.eye(3)[labels], rtol=1e-12, atol=1e-12)


def test_parts_of_a_site_add_up(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    (site,) = read_sums(made.contribute({"a": made.random(1)}, recipe), recipe)
    assert site.folds == (0, 1, 2, 3, 4)
    np.testing.assert_allclose(site.fold(2).grams + site.without(2).grams, site.total.grams, rtol=1e-12)


def test_classes_align_by_name(made: SimpleNamespace) -> None:
    full = made.recipe(3)
    (one,) = made.contribute({"a": made.random(1)}, full)
    statistics = made.statistics(made.random(1, classes=2), ("c2", "c0"))
    object.__setattr__(one, "statistics", statistics)
    (site,) = read_sums([one], full)
    np.testing.assert_array_equal(site.counts, [30, 0, 30])
    np.testing.assert_array_equal(site.total.grams[0], statistics.class_gram(1))


def test_a_part_that_may_not_leave_does_not_count(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    (one,) = made.contribute({"a": made.random(1)}, recipe, parts=("images",))
    (site,) = read_sums([one], recipe)
    assert not site.blocks


def test_class_weights_of_nothing_are_zero() -> None:
    np.testing.assert_array_equal(class_weights(np.array([0.0, 2.0])), [0.0, 0.5])


def test_refusals(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    (one,) = made.contribute({"a": made.random(1)}, recipe)
    (other,) = made.contribute({"b": made.random(1)}, recipe, generation="1" * 64)
    (wide,) = made.contribute({"b": made.random(1, width=13)}, recipe)
    (foreign,) = made.contribute({"b": made.random(1)}, made.recipe(3, name="else"))
    with pytest.raises(InputError, match="no contribution with statistics, expected at least one"):
        read_sums([], recipe)
    with pytest.raises(InputError, match="site `a` has two contributions, expected one"):
        read_sums([one, one], recipe)
    with pytest.raises(InputError, match="contribution of `b`: `generation` has 111111111111, expected 000"):
        read_sums([one, other], recipe)
    with pytest.raises(InputError, match="contribution of `b`: `row_dim` has 13, expected 12"):
        read_sums([one, wide], recipe)
    with pytest.raises(InputError, match=f"`recipe` has {foreign.header.recipe[:12]}, expected"):
        read_sums([one, foreign], recipe)
    object.__setattr__(one, "statistics", made.statistics(made.random(1), ("c0", "c1", "odd")))
    with pytest.raises(InputError, match="class `odd` is not in the recipe `r`"):
        read_sums([one], recipe)
