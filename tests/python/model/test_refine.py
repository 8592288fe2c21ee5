from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.model.distance import SiteMap, site_map
from fedmed_edge.model.generator import Generated
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import (
    EMPHASES,
    REACHES,
    USUAL,
    Trials,
    _better,
    _doubts,
    fold_trials,
    gain,
    refine,
    site_weights,
)
from fedmed_edge.model.sums import read_sums


def odd_one_out(made: SimpleNamespace, **fields: object) -> dict:
    """Three alike and one, `z`, whose classes lie elsewhere and whose images look different."""
    sites = {name: made.random(seed, rows=90, **fields) for seed, name in enumerate("abc")}
    odd = made.random(9, rows=90, **fields)
    odd.rows[:, :-1] = 2.0 * odd.rows[:, -2::-1]
    odd.images = odd.rows[:, :4] + 5.0
    return sites | {"z": odd}


def test_weights_follow_their_formula() -> None:
    distances = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
    between = SiteMap(("a", "b", "c"), distances)
    found = site_weights(between, "b", 0.5, 8.0)  # the median is 2, so tau is 1
    assert found == pytest.approx({"a": np.exp(-1), "b": 8.0, "c": np.exp(-9)})
    assert site_weights(between, "b", float("inf"), 1.0) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_an_odd_site_gets_a_model_of_its_own(made: SimpleNamespace) -> None:
    recipe, sites = made.recipe(3), odd_one_out(made)
    contributions = made.contribute(sites, recipe)
    model, plain = refine(contributions, "z", recipe), rebuild(contributions, recipe)
    assert (model.refined_for, model.kept) == ("z", "refined")
    assert model.site_weights["z"] > 1 > model.site_weights["a"]
    assert "over 5 folds of the site" in model.reason
    assert model.ridge == plain.ridge and model.figures["ridge_by"] == "folds"
    fresh = made.random(10, rows=300)
    fresh.rows[:, :-1] = 2.0 * fresh.rows[:, -2::-1]
    right = [(m.probabilities(fresh.rows).argmax(axis=1) == fresh.labels).mean() for m in (model, plain)]
    assert right[0] > right[1] + 0.05


def test_what_the_backbone_learned_from_chooses_for_nobody(made: SimpleNamespace) -> None:
    recipe, sites = made.recipe(3), odd_one_out(made)
    contributions = made.contribute(sites, recipe)
    model, plain = refine(contributions, "z", recipe, trained_by=("a", "z")), rebuild(contributions, recipe)
    assert model.kept == "global" and np.array_equal(model.head, plain.head)
    assert "the backbone learned from the site's images" in model.reason
    assert refine(contributions, "z", recipe, trained_by=("a", "b")).kept == "refined"

    sites["z"].folds = 0
    few = made.contribute(sites, recipe)
    two = refine(few, "z", recipe, trained_by=("a",))  # the generator, too, is judged by these alone
    assert "with the generator" in two.reason and "over the folds of 2 other sites" in two.reason
    one = refine(few, "z", recipe, trained_by=("a", "b"))
    assert "no generator: fewer than two of the sites that it was judged at choose here" in one.reason
    assert "over 5 folds of one other site" in one.reason
    none = refine(few, "z", recipe, trained_by=("a", "b", "c"))
    assert "nothing was held out" in none.reason
    assert "nor has any other that is new to the backbone" in none.reason
    assert none.kept == "refined" and none.site_weights == {"a": 1.0, "b": 1.0, "c": 1.0, "z": USUAL}


def test_trials_equal_heads_fitted_on_rows(made: SimpleNamespace) -> None:
    recipe, sites = made.recipe(3), odd_one_out(made)
    contributions = made.contribute(sites, recipe)
    sums, between = read_sums(contributions, recipe), site_map(contributions)
    errors = fold_trials(sums, sums[3], between, 1e-2)
    weights = site_weights(between, "z", REACHES[2], EMPHASES[3])
    fold = sites["z"].fold_of_row()
    kept = {**sites, "z": made.Site(sites["z"].rows[fold != 4], sites["z"].labels[fold != 4])}
    head = made.head(
        np.vstack([site.rows for site in kept.values()]),
        np.concatenate([site.labels for site in kept.values()]),
        3,
        1e-2,
        np.concatenate([np.full(len(site.labels), weights[name]) for name, site in kept.items()]),
    )
    held = sites["z"].rows[fold == 4] @ head - np.eye(3)[sites["z"].labels[fold == 4]]
    assert errors[4, 2, 3] == pytest.approx(np.sum(held**2), rel=1e-9)  # a patient a row


def test_where_no_weight_is_better_the_global_model_stays(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made.recipe(3)
    contributions = made.contribute({name: made.random(seed) for seed, name in enumerate("abc")}, recipe)
    none_better = 1.0 + np.arange(24.0).reshape(1, 4, 6).repeat(5, axis=0)
    monkeypatch.setattr("fedmed_edge.model.refine.fold_trials", lambda *_: none_better)
    monkeypatch.setattr("fedmed_edge.model.refine.generate", lambda *_: "it is left out here")
    model, plain = refine(contributions, "a", recipe), rebuild(contributions, recipe)
    assert (model.refined_for, model.kept) == ("a", "global")
    np.testing.assert_array_equal(model.head, plain.head)
    assert model.content != plain.content


def test_a_site_without_folds_is_chosen_for_by_the_others(made: SimpleNamespace) -> None:
    recipe, sites = made.recipe(3), odd_one_out(made)
    sites["z"].folds = 0
    model = refine(made.contribute(sites, recipe), "z", recipe)
    assert "over the folds of 3 other sites" in model.reason
    for name in "bc":
        sites[name].folds = 0
    assert "over 5 folds of one other site" in refine(made.contribute(sites, recipe), "z", recipe).reason
    sites["a"].folds = 0
    model = refine(made.contribute(sites, recipe), "z", recipe)
    assert model.reason.startswith("nothing was held out") and model.figures["refine"]["errors"] is None
    assert model.site_weights == {"a": 1.0, "b": 1.0, "c": 1.0, "z": USUAL}


@pytest.mark.parametrize("nothing", [0.0, -1e-17])
@pytest.mark.parametrize("folds", [0, 5])
def test_a_global_model_without_error_is_divided_by_nowhere(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, nothing: float, folds: int
) -> None:
    errors = np.full((5, len(REACHES), len(EMPHASES)), 0.1)
    errors[:, 0, 0] = nothing  # below 0 by rounding
    monkeypatch.setattr("fedmed_edge.model.refine.fold_trials", lambda *_: errors)
    monkeypatch.setattr("fedmed_edge.model.refine.generate", lambda *_: "it is left out here")
    recipe, sites = made.recipe(3), odd_one_out(made)
    sites["z"].folds = folds
    told = refine(made.contribute(sites, recipe), "z", recipe).figures["refine"]
    assert np.isfinite(told["errors"]).all() and np.isfinite(told["gain"])
    assert np.argmin(told["errors"]) == 0 == REACHES.index(told["tau"] or np.inf)


def test_an_unlabelled_site_gets_a_model_by_distance_alone(made: SimpleNamespace) -> None:
    """Two kinds of scanner, three sites each: what one kind's images show misleads the other."""
    recipe, sites = made.recipe(3), {}
    for seed, name in enumerate("abcdef"):
        site = made.random(seed, rows=90)
        if seed % 2:
            site.rows[:, :-1] = -site.rows[:, :-1]
        site.images = site.rows[:, :4] + 8.0 * (seed % 2)
        sites[name] = site
    bare = made.Site(sites["f"].rows, np.full(90, -1), images=sites["f"].images)
    model = refine(made.contribute(sites | {"f": bare}, recipe), "f", recipe)
    assert model.kept == "refined" and "5 other sites" in model.reason
    assert model.site_weights["b"] > 0.5 > 0.1 > model.site_weights["a"]
    right = (model.probabilities(sites["f"].rows).argmax(axis=1) == sites["f"].labels).mean()
    assert right > 0.9


@pytest.mark.parametrize("far", [13.4, 1e5])  # exp(−d² / τ²) has no finite inverse, or is 0
def test_a_site_far_from_all_others_gets_a_model(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, far: float
) -> None:
    monkeypatch.setattr("fedmed_edge.model.refine.generate", lambda *_: "it is left out here")
    distances = np.abs(np.subtract.outer(np.arange(7) % 2, np.arange(7) % 2)).astype(float)
    distances[6], distances[:, 6] = far, far
    distances[6, 6] = 0.0
    between = SiteMap(tuple("abcdefz"), distances)
    monkeypatch.setattr("fedmed_edge.model.refine._between_all", lambda *_: between)
    recipe, sites = made.recipe(3), {name: made.random(seed) for seed, name in enumerate("abcdef")}
    for name in "bdf":
        sites[name].rows[:, :-1] *= -1.0
    contributions = made.contribute(sites | {"z": made.Site(sites["a"].rows, np.full(60, -1))}, recipe)
    model, plain = refine(contributions, "z", recipe), rebuild(contributions, recipe)
    assert model.figures["refine"]["tau"] == 0.5 and model.kept == "refined"
    np.testing.assert_allclose(model.head, plain.head, atol=1e-9)  # all others are equally far
    assert all(0 < weight < 1e-50 for name, weight in model.site_weights.items() if name != "z")


def test_nothing_to_choose_by(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    alone = refine(made.contribute({"a": made.random(0)}, recipe), "a", recipe)
    assert (alone.kept, alone.reason) == ("global", "no other site has labelled images")
    bare = made.random(1)
    bare.labels[:] = -1
    model = refine(made.contribute({"a": made.random(0), "b": bare}, recipe), "b", recipe)
    assert model.kept == "global" and "fewer than three sites" in model.reason


def test_gain_needs_more_than_one_unit() -> None:
    errors = np.ones((1, 2, 2))
    errors[0, 1, 1] = 0.5
    trials = Trials(errors, "fold")
    assert trials.best() == (1, 1) and gain(trials.judged()) == (0.0, 0.0)


def test_a_rule_is_judged_by_units_that_did_not_choose_it() -> None:
    errors = np.ones((3, 2, 2))
    errors[:, 1, 1] = 0.6, 0.9, 1.4  # chosen by the first two, bad for the third
    errors[:, 0, 1] = 1.2, 0.95, 0.8
    wanted = [[0.95 + 0.25, 1.0], [1.0, 1.0], [1.4, 1.0]]
    for unit, (error, _) in enumerate(wanted):
        left = np.delete(errors, unit, axis=0).sum(axis=0)
        assert errors[unit].ravel()[left.argmin()] == error
    np.testing.assert_allclose(Trials(errors, "fold").judged(), wanted)
    assert gain(np.array(wanted))[0] == pytest.approx(1.0 - np.mean([1.2, 1.0, 1.4]))


@pytest.mark.parametrize(
    ("by_generator", "wanted", "gained"),
    [(0.4, "generator", 0.5), (0.5, "rule", 0.5), (0.8, "rule", 0.5), (1.1, "rule", 0.5)],
)
def test_rule_generator_and_global_model_are_judged_on_the_same_units(
    by_generator: float, wanted: str, gained: float
) -> None:
    """The rule does well on the two sites that the generator is judged on, and badly on all the others."""

    class Judged(Trials):
        def judged(self) -> np.ndarray:
            return np.array([[1.6, 1.0]] * 4 + [[0.5, 1.0]] * 2)

    names, errors = tuple("abcdef"), np.ones((6, len(REACHES), len(EMPHASES)))
    errors[:, 1, 1] = 0.9
    trials = Judged(errors, "site", names)
    between = SiteMap((*names, "z"), np.ones((7, 7)))
    generated = Generated({"a": 1.0}, 0.1, {}, dict.fromkeys("ef", (by_generator, 1.0)))
    way = _better(trials, generated, between, "z")
    assert (way.figures["by"], way.figures["gain"]) == (wanted, gained)
    assert "held-out error changes by -50.00 % ± 0.00 % with the rule, by " in way.reason
    assert "with the generator, both at 2 of the sites: refined" in way.reason
    known = replace(trials, doubts=np.zeros((len(REACHES), len(EMPHASES))))
    assert _better(known, generated, between, "z").figures["by"] == wanted  # they say so without any doubt
    alone = _better(trials, "too few", between, "z")
    assert (alone.figures["by"], alone.weights) == ("global", None) and alone.figures["gain"] < 0
    assert "changes by +23.33 % ± " in alone.reason
    same = Trials(np.ones((3, len(REACHES), len(EMPHASES))), "fold")
    assert "changes by +0.00 % ± 0.00 %" in _better(same, "too few", between, "z").reason


def test_of_equal_errors_the_global_weights_are_taken() -> None:
    errors = np.ones((3, len(REACHES), len(EMPHASES)))
    assert Trials(errors, "fold").best() == (0, 0)
    errors[:, 1, 4] = 0.9, 0.91, 0.9
    assert Trials(errors, "fold").best() == (1, 4)


def test_few_patients_do_not_choose_against_what_is_usual(made: SimpleNamespace) -> None:
    recipe = made.recipe(4)
    contributions = made.contribute(
        {name: made.random(seed, classes=4) for seed, name in enumerate("ab")}, recipe
    )
    sums = read_sums(contributions, recipe)
    errors = np.ones((5, len(REACHES), len(EMPHASES)))
    errors[:, 1, 4] = 0.9
    for patients, wanted in ((4, (0, EMPHASES.index(USUAL))), (400, (1, 4))):
        own = replace(sums[0], patients=np.full(4, patients // 4))
        assert Trials(errors, "fold", doubts=_doubts(sums, own)).best() == wanted
    lacking = {key: block for key, block in sums[0].blocks.items() if key[1] in (0, 2)}
    half = _doubts(sums, replace(sums[0], blocks=lacking))
    assert EMPHASES[half[0].argmin()] == 2.0  # as it has half of the classes: the root of 4
    assert (np.diff(half[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("gained", "error", "usual", "unusual"),
    [
        (0.01, 0.02, False, False),
        (0.0, 0.0, False, True),
        (-0.03, 0.02, False, True),
        (-0.05, 0.02, True, True),
    ],
)
def test_held_out_errors_must_be_clear_where_refining_is_usual(
    gained: float, error: float, usual: bool, unusual: bool
) -> None:
    none = np.ones((1, 1, 1))
    assert Trials(none, "fold", doubts=np.zeros((1, 1))).refuse(gained, error) is usual
    assert Trials(none, "site").refuse(gained, error) is unusual


def test_an_unknown_site_is_refused(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    with pytest.raises(InputError, match="site `q` has no contribution with statistics here"):
        refine(made.contribute({"a": made.random(0)}, recipe), "q", recipe)


def test_refining_twice_gives_the_same_bytes(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    contributions = made.contribute(odd_one_out(made), recipe)
    assert refine(contributions, "z", recipe).content == refine(contributions[::-1], "z", recipe).content


def test_a_site_without_image_statistics_is_at_median_distance(made: SimpleNamespace) -> None:
    recipe, sites = made.recipe(3), odd_one_out(made)
    told = made.contribute({name: site for name, site in sites.items() if name != "b"}, recipe)
    hidden = made.contribute({"b": sites["b"]}, recipe, parts=("classes",))
    model = refine([*told, *hidden], "z", recipe)
    distances = model.figures["refine"]["distances"]
    pairs = site_map(told).distances[np.triu_indices(3, 1)]
    assert distances["b"] == pytest.approx(np.median(pairs)) and distances["z"] == 0.0
    assert model.kept == "refined"
    with pytest.raises(InputError, match="contribution of `b` has no image statistics"):
        refine([*told, *hidden], "b", recipe)
