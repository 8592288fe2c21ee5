from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize

from fedmed_edge.model import generator
from fedmed_edge.model.distance import site_map
from fedmed_edge.model.episodes import FARTHEST, Federation
from fedmed_edge.model.generator import Generated, federation_of, generate, minimise
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.model.sums import read_sums


def two_kinds(made: SimpleNamespace, count: int = 7) -> dict:
    """Sites of two scanners in turn, whose classes lie otherwise; within a kind some are further off."""
    sites = {}
    for seed, name in enumerate("abcdefgh"[:count]):
        site = made.random(seed, rows=90, shift=0.2 * seed)
        if seed % 2:
            site.rows[:, :-1] = -site.rows[:, :-1]
        site.images = site.rows[:, :4] + 4.0 * (seed % 2)
        sites[name] = site
    return sites


def federation(made: SimpleNamespace, sites: dict) -> Federation:
    recipe = made.recipe(3)
    contributions = made.contribute(sites, recipe)
    ridge = rebuild(contributions, recipe).ridge
    return federation_of(contributions, read_sums(contributions, recipe), site_map(contributions), ridge)


def bare(made: SimpleNamespace, site: object) -> object:
    return made.Site(site.rows, np.full(len(site.labels), -1), images=site.images)  # type: ignore[attr-defined]


def test_bfgs_ends_where_scipys_does() -> None:
    def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(scipy.optimize.rosen(x)), scipy.optimize.rosen_der(x)

    quadratic = np.diag([1.0, 5.0, 25.0])
    found = minimise(lambda x: (float((x - 1) @ quadratic @ (x - 1)), 2 * quadratic @ (x - 1)), np.zeros(3))
    np.testing.assert_allclose(found, 1.0, atol=0.01)
    start = np.array([0.6, 0.4])
    assert rosenbrock(minimise(rosenbrock, start))[0] < 1e-2 * rosenbrock(start)[0]


def test_it_learns_to_weigh_sites_of_the_same_kind(made: SimpleNamespace) -> None:
    sites = two_kinds(made)
    found = generate(federation(made, sites | {"g": bare(made, sites["g"])}), "g")
    assert isinstance(found, Generated) and found.parameters["distance"] < 0
    alike, unlike = ([found.weights[name] for name in names] for names in ("ace", "bdf"))
    assert min(alike) > 2 * max(unlike)
    assert np.mean([error for error, _ in found.errors.values()]) < 0.7
    assert set(found.errors) == set("abcdef") and {nought for _, nought in found.errors.values()} == {1.0}


def test_a_site_is_judged_by_its_own_folds_whose_labels_were_not_learned_from(made: SimpleNamespace) -> None:
    sites = two_kinds(made)
    found = generate(federation(made, sites), "g")
    assert isinstance(found, Generated) and list(found.errors) == [f"fold {k}" for k in range(5)]
    swapped = made.Site(sites["g"].rows, (sites["g"].labels + 1) % 3, images=sites["g"].images)
    # but for λ of the global model, which has seen all labels
    known = federation(made, sites)
    changed = replace(federation(made, sites | {"g": swapped}), ridge=known.ridge)
    other = generate(changed, "g")
    assert isinstance(other, Generated) and other.errors != found.errors
    assert other.parameters == found.parameters


def test_in_place_of_an_unlabelled_site_others_are_judged_whose_errors_were_not_learned_from(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = two_kinds(made)
    all_ = federation(made, sites | {"g": bare(made, sites["g"])})
    trained: list[list[object]] = []
    learn = generator.train

    def watched(episodes: list[list[object]], penalty: float) -> np.ndarray:
        trained.append([own[0] for own in episodes])
        return learn(episodes, penalty)  # type: ignore[arg-type]

    monkeypatch.setattr(generator, "train", watched)
    monkeypatch.setattr(generator, "GROUPS", 6)
    found = generate(all_, "g")
    assert isinstance(found, Generated) and set(found.errors) == set("abcdef")
    assert [len(own) for own in trained] == [6] + 6 * [5]
    left_out = [next(one for one in trained[0] if one not in own) for own in trained[1:]]
    assert left_out == trained[0]


def test_refine_keeps_the_generator_where_it_does_better(made: SimpleNamespace) -> None:
    """Two scanners that their styles tell apart, and no image feature does."""
    recipe, sites = made.recipe(3), two_kinds(made)
    for seed, site in enumerate(sites.values()):
        site.images = np.random.default_rng(seed).standard_normal((90, 4))
        style = 90.0 * (np.full((1, 3, 3), 2.0 * (seed % 2)) + 0.1 * site.images[:9, 0].reshape(1, 3, 3))
        site.more = {"style_count": 90.0, "style_sum": style, "style_square": style**2 / 90.0}
    unknown = bare(made, sites["g"])
    unknown.more = sites["g"].more  # type: ignore[attr-defined]
    contributions = made.contribute(sites | {"g": unknown}, recipe)
    model = refine(contributions, "g", recipe)
    told = model.figures["refine"]
    assert (model.kept, told["by"]) == ("refined", "generator")
    assert told["generator"]["gain"] > max(told["gain"], 0)
    assert "refined by the generator" in model.reason and "each left out" in model.reason
    assert model.ridge != rebuild(contributions, recipe).ridge
    assert (model.probabilities(sites["g"].rows).argmax(axis=1) == sites["g"].labels).mean() > 0.85
    assert model.content == refine(contributions[::-1], "g", recipe).content


def test_too_few_sites_to_learn_from(made: SimpleNamespace) -> None:
    sites = two_kinds(made, 4)
    found = generate(federation(made, sites | {"d": bare(made, sites["d"])}), "d")
    assert found == "3 other sites can be learned from, 4 are needed"
    recipe = made.recipe(3)
    model = refine(made.contribute(sites | {"d": bare(made, sites["d"])}, recipe), "d", recipe)
    assert "no generator: 3 other sites can be learned from, 4 are needed" in model.reason
    few = {name: two_kinds(made)[name] for name in "ab"}
    assert generate(federation(made, few), "a") == "1 other site can be learned from, 2 are needed"


def test_of_many_sites_the_nearest_are_learned_from(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "LEARNED_FROM", 5)
    monkeypatch.setattr(generator, "GROUPS", 2)
    sites = two_kinds(made)
    found = generate(federation(made, sites | {"g": bare(made, sites["g"])}), "g")
    assert isinstance(found, Generated)
    assert len(found.errors) == 5 and set("ace") < set(found.errors) and set(found.weights) == set("abcdef")


def test_a_site_beyond_all_that_was_learned_gets_weights_that_can_be_used(made: SimpleNamespace) -> None:
    sites = two_kinds(made)
    far = made.random(6, rows=90)
    far.images = far.rows[:, :4] + 1e4
    known = federation(made, sites | {"g": far})
    found = generate(known, "g")
    assert isinstance(found, Generated)
    assert np.isfinite(list(found.weights.values())).all() and min(found.weights.values()) > 0.0
    assert abs(np.log(found.ridge / known.ridge)) <= FARTHEST + 1e-9  # as its episodes were judged
    model = refine(made.contribute(sites | {"g": far}, made.recipe(3)), "g", made.recipe(3))
    assert np.isfinite(model.head).all()


def test_a_site_of_a_class_that_nobody_else_has_teaches_nothing(made: SimpleNamespace) -> None:
    recipe, sites = made.recipe(4), two_kinds(made)
    alone = made.Site(sites["b"].rows, np.full(90, 3), images=sites["b"].images)
    contributions = made.contribute(sites | {"b": alone, "g": bare(made, sites["g"])}, recipe)
    sums, ridge = read_sums(contributions, recipe), rebuild(contributions, recipe).ridge
    found = generate(federation_of(contributions, sums, site_map(contributions), ridge), "g")
    assert isinstance(found, Generated) and set(found.errors) == set("acdef")
