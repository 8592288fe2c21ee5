import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits import run_python
from sklearn.datasets import load_breast_cancer, load_digits

from fedmed_edge.errors import InputError
from fedmed_edge.model.rebuild import choose_ridge, fit, rebuild
from fedmed_edge.model.sums import read_sums, site_sums
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.calibration import TEMPERATURES, bin_counts
from fedmed_edge.statistics.feature_statistics import pack


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("ridge", [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("width", [12, 200])
def test_head_equals_the_one_fitted_in_one_place(made: SimpleNamespace, ridge: float, width: int) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, width=width, shift=seed) for seed, name in enumerate("abc")}
    model = rebuild(made.contribute(sites, recipe), recipe, ridge=ridge)
    rows = np.vstack([site.rows for site in sites.values()])
    labels = np.concatenate([site.labels for site in sites.values()])
    assert relative(model.head, made.head(rows, labels, 3, ridge)) <= 1e-9


@given(
    seed=st.integers(0, 1000),
    split=st.lists(st.integers(0, 3), min_size=60, max_size=60),
    order=st.permutations(range(4)),
    folds=st.sampled_from([0, 2, 5]),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
)
def test_any_split_and_any_order_give_the_same_head(
    made: SimpleNamespace, seed: int, split: list[int], order: list[int], folds: int, ridge: float
) -> None:
    recipe, whole, place = made.recipe(3), made.random(seed, width=20), np.array(split)
    sites = {
        f"s{number}": made.Site(whole.rows[place == number], whole.labels[place == number], folds=folds)
        for number in order
        if (place == number).any()
    }
    model = rebuild(made.contribute(sites, recipe), recipe, ridge=ridge)
    assert relative(model.head, made.head(whole.rows, whole.labels, 3, ridge)) <= 1e-9


def test_one_strange_fold_spoils_the_answers_for_nobody(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed, rows=90) for seed, name in enumerate("abc")}
    fresh = made.random(9, rows=300)
    for site in (*sites.values(), fresh):  # a faint feature that tells the classes apart
        site.rows[:, 0] = 0.05 * (site.labels - 1)
    strange = sites["c"].fold_of_row() == 3
    sites["c"].rows[strange, 0] = 500 * np.random.default_rng(0).standard_normal(strange.sum())
    model = rebuild(made.contribute(sites, recipe), recipe)
    of_truth = model.probabilities(fresh.rows)[np.arange(300), fresh.labels]
    assert of_truth.mean() > 0.9
    assert set(model.figures["scores_from"].values()) == {"folds"}


def test_site_weights_weigh_rows_and_class_weights_see_them(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {"a": made.random(0, rows=30), "b": made.random(1, rows=45, classes=2), "c": made.random(2)}
    given_ = {"a": 0.25, "b": 3.0}
    model = rebuild(made.contribute(sites, recipe), recipe, ridge=1e-2, site_weights=given_)
    rows = np.vstack([site.rows for site in sites.values()])
    labels = np.concatenate([site.labels for site in sites.values()])
    weight = np.repeat([0.25, 3.0, 1.0], [30, 45, 60])
    assert relative(model.head, made.head(rows, labels, 3, 1e-2, weight)) <= 1e-9
    assert model.site_weights == {"a": 0.25, "b": 3.0, "c": 1.0}


def test_scores_of_shifted_views_are_held_to_those_of_the_images(made: SimpleNamespace) -> None:
    recipe, invariance, ridge = made.recipe(3, training={"maps": 1.0, "invariance": 0.7}), 0.7, 1e-2
    sites = {name: made.random(seed) for seed, name in enumerate("ab")}
    differences = {
        name: np.random.default_rng(seed).normal(size=(20 + 30 * seed, 11)) for seed, name in enumerate("ab")
    }
    for name, site in sites.items():
        rows = np.hstack([differences[name], np.ones((len(differences[name]), 1))])
        site.more["shift_gram"] = pack(rows.T @ rows)
    head = rebuild(made.contribute(sites, recipe), recipe, ridge=ridge, site_weights={"b": 2.0}).head

    rows = np.vstack([site.rows for site in sites.values()])
    labels = np.concatenate([site.labels for site in sites.values()])
    weight = np.repeat([1.0, 2.0], 60)
    share = weight / np.array([weight[labels == k].sum() for k in range(3)])[labels]
    moved = np.vstack(list(differences.values()))
    penalty = np.zeros((12, 12))
    penalty[:-1, :-1] = 3 * invariance * moved.T @ moved / len(moved)
    gram = (rows * share[:, None]).T @ rows + penalty
    gram += ridge * np.trace(gram) / 12 * np.eye(12)
    assert relative(head, np.linalg.solve(gram, (rows * share[:, None]).T @ np.eye(3)[labels])) <= 1e-9

    def change(head: np.ndarray) -> float:
        return float(((moved @ head[:-1]) ** 2).mean())

    plain = made.recipe(3)
    without = rebuild(made.contribute(sites, plain), plain, ridge=ridge, site_weights={"b": 2.0}).head
    assert change(head) < 0.9 * change(without)


def test_a_site_of_weight_nothing_is_not_in_the_head(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(seed) for seed, name in enumerate("ab")}
    model = rebuild(made.contribute(sites, recipe), recipe, ridge=1e-2, site_weights={"b": 0.0})
    assert relative(model.head, made.head(sites["a"].rows, sites["a"].labels, 3, 1e-2)) <= 1e-9


def test_order_of_contributions_does_not_change_a_byte(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    contributions = made.contribute({name: made.random(i) for i, name in enumerate("abcd")}, recipe)
    assert rebuild(contributions, recipe).content == rebuild(contributions[::-1], recipe).content


def test_a_withdrawn_site_leaves_no_trace(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(i) for i, name in enumerate("abc")}
    never = {name: sites[name] for name in "ac"}
    everyone = made.contribute(sites, recipe, sequence=7)
    rest = [one for one in everyone if one.header.site != "b"]
    assert rebuild(rest, recipe).content == rebuild(made.contribute(never, recipe), recipe).content
    assert rebuild(everyone, recipe).content != rebuild(rest, recipe).content


PROGRAM = """
import hashlib, sys
import numpy as np
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import new_contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, pack
recipe = Recipe(name="r", kind="classification", classes=("a", "b", "c"))
made = []
for seed in range(3):
    rng = np.random.default_rng(seed)
    blocks = {}
    for fold in range(5):
        for index in range(3):
            rows = rng.integers(-8, 9, (20, 300)).astype(float) + index
            rows[:, -1] = 1.0
            blocks[fold, index] = pack(np.einsum("ni,nj->ij", rows, rows))
    sums = FeatureStatistics(recipe.classes, 300, 3, 5, blocks, patients=np.full(3, 100))
    made.append(new_contribution(sums, generation="0" * 64, recipe=recipe, site=f"s{seed}", sequence=1))
print(rebuild(made, recipe).digest)
"""


def test_thread_count_does_not_change_a_byte() -> None:
    digests = set()
    for threads in ("1", "2", "5"):
        setting = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        digests.add(run_python(PROGRAM, environment=os.environ | setting))
    assert len(digests) == 1


def test_what_chooses_the_ridge(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    two = made.contribute({name: made.random(i) for i, name in enumerate("ab")}, recipe)
    bare = made.contribute({name: made.random(i, folds=0) for i, name in enumerate("ab")}, recipe)
    for ridge, wanted, without_folds, alone in (
        ("auto", "folds", "default", "folds"),
        ("sites", "sites", "sites", "folds"),
    ):
        assert rebuild(two, recipe, ridge=ridge).figures["ridge_by"] == wanted
        assert rebuild(bare, recipe, ridge=ridge).figures["ridge_by"] == without_folds
        assert rebuild(two[:1], recipe, ridge=ridge).figures["ridge_by"] == alone
        one = rebuild(bare[:1], recipe, ridge=ridge)
        assert (one.figures["ridge_by"], one.ridge) == ("default", 1e-2)
    given_ = rebuild(two, recipe, ridge=0.5)
    assert (given_.figures["ridge_by"], given_.ridge) == ("given", 0.5)


def test_where_there_is_nothing_to_learn_the_largest_ridge_is_taken(made: SimpleNamespace) -> None:
    recipe, hard = made.recipe(3), made.random(0, width=60)
    hard.rows[:, :-1] = np.random.default_rng(0).standard_normal((60, 59))
    noise = read_sums(made.contribute({"a": hard}, recipe), recipe)
    assert choose_ridge(noise, {"a": 1.0}).ridge == 1.0


def test_a_rare_class_has_little_say_in_the_ridge(made: SimpleNamespace) -> None:
    """Five images of a class under `sites` and `folds` say as much as a hundred of another one."""
    recipe, site = made.recipe(3), made.random(0, rows=300, width=60)
    keep = (site.labels < 2) | (np.cumsum(site.labels == 2) <= 5)
    site = made.Site(site.rows[keep], site.labels[keep])
    sums = read_sums(made.contribute({"a": site}, recipe), recipe)
    fold, total = site.fold_of_row(), 0.0
    for number in range(5):
        held = fold == number
        head = made.head(site.rows[~held], site.labels[~held], 3, 1e-1)
        total += np.sum((site.rows[held] @ head - np.eye(3)[site.labels[held]]) ** 2)
    assert choose_ridge(sums, {"a": 1.0}).errors[1e-1] == pytest.approx(total / 205, rel=1e-9)


def test_ridge_is_the_one_of_least_error(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    sites = {name: made.random(i, rows=30, width=60) for i, name in enumerate("abc")}
    sums = read_sums(made.contribute(sites, recipe), recipe)
    choice = choose_ridge(sums, dict.fromkeys("abc", 1.0), "sites")
    assert choice.errors[choice.ridge] == min(choice.errors.values())
    assert choice.ridge > 1e-5  # more columns than rows
    assert 0.0 < choice.errors[choice.ridge] < 1.0


def test_an_absent_class_is_named_and_never_answered(made: SimpleNamespace) -> None:
    recipe = made.recipe(4)
    site = made.random(0)
    model = rebuild(made.contribute({"a": site}, recipe), recipe)
    assert model.figures["absent"] == ["c3"]
    assert model.figures["scores_from"] == {"c0": "folds", "c1": "folds", "c2": "folds", "c3": "absent"}
    assert not model.head[:, 3].any()
    assert not model.probabilities(site.rows)[:, 3].any()


def test_a_class_too_small_for_folds_is_measured_by_leverage(made: SimpleNamespace) -> None:
    recipe, site = made.recipe(3), made.random(0, rows=63)
    keep = (site.labels < 2) | (np.cumsum(site.labels == 2) <= 4)
    model = rebuild(made.contribute({"a": made.Site(site.rows[keep], site.labels[keep])}, recipe), recipe)
    assert model.figures["scores_from"] == {"c0": "folds", "c1": "folds", "c2": "leverage"}


def test_unlabelled_sites_count_in_the_threshold_alone(made: SimpleNamespace) -> None:
    recipe = made.recipe(3)
    labelled, bare = made.random(0), made.random(1)
    bare.labels[:] = -1
    labelled.distances, bare.distances = np.array([1.0, 2.0, 3.0]), np.array([10.0])
    model = rebuild(made.contribute({"a": labelled, "b": bare}, recipe), recipe, ridge=1e-2)
    alone = rebuild(made.contribute({"a": labelled}, recipe), recipe, ridge=1e-2)
    np.testing.assert_array_equal(model.head, alone.head)
    everything = np.array([1.0, 2.0, 3.0, 10.0])
    assert model.known_threshold == pytest.approx(everything.mean() + 3 * everything.std())
    assert model.sites == ("a", "b")


def test_temperature_comes_from_validation_counts_where_there_are_some(made: SimpleNamespace) -> None:
    recipe, site = made.recipe(3), made.random(0)
    rng = np.random.default_rng(0)
    sure = np.full((200, 3), 0.01) + 0.97 * np.eye(3)[rng.integers(0, 3, 200)]
    site.more["calibration"] = bin_counts(sure, rng.integers(0, 3, 200))
    model = rebuild(made.contribute({"a": site}, recipe), recipe)
    assert model.posterior.temperature == TEMPERATURES[-1]
    assert model.figures["temperature_from"] == "validation counts"


def test_refusals(made: SimpleNamespace) -> None:
    recipe, bare = made.recipe(3), made.random(0)
    contributions = made.contribute({"a": made.random(0)}, recipe)
    bare.labels[:] = -1
    with pytest.raises(InputError, match="no contribution has a labelled image"):
        rebuild(made.contribute({"a": bare}, recipe), recipe)
    with pytest.raises(InputError, match="`site_weights` names `z`, which has no contribution"):
        rebuild(contributions, recipe, site_weights={"z": 1.0})
    with pytest.raises(InputError, match="weight of `a` has -1, expected 0 or more"):
        rebuild(contributions, recipe, site_weights={"a": -1})
    for ridge in (-1, 1e308, "lots"):
        with pytest.raises(InputError, match=re.escape(f"`ridge` has {ridge}, expected 0 to 1e+06")):
            rebuild(contributions, recipe, ridge=ridge)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].sum() - confidence[place == b].sum()) for b in range(bins)]
    return float(np.sum(gaps) / len(labels))


def lifted(features: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean, deviation = features[train].mean(axis=0), features[train].std(axis=0) + 1e-6
    f = (features - mean) / deviation
    relu = np.maximum(
        f @ rng.standard_normal((f.shape[1], 256)) / np.sqrt(f.shape[1]) + rng.standard_normal(256), 0
    )
    return np.hstack([relu, f, np.ones((len(f), 1))])


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer])
@pytest.mark.parametrize("folds", [0, 5])
@pytest.mark.parametrize(("rows", "ridge"), [(300, "auto"), (120, 1e-3)])
def test_posteriors_are_calibrated(
    made: SimpleNamespace, load: object, folds: int, rows: int, ridge: float | str
) -> None:
    """Also where the lift is wider than the rows are many, and in-sample scores are all but perfect."""
    features, labels = load(return_X_y=True)  # type: ignore[operator]
    classes, errors, gains = int(labels.max()) + 1, [], []
    recipe = made.recipe(classes)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(labels))
        train, test = order[:rows], order[rows:]
        z = lifted(features, train, seed)
        sites = {
            name: made.Site(z[part], labels[part], folds=folds)
            for name, part in zip("ab", np.split(train, 2), strict=True)
        }
        model = rebuild(made.contribute(sites, recipe), recipe, ridge=ridge)
        probabilities = model.probabilities(z[test])
        errors.append(calibration_error(probabilities, labels[test]))
        least_squares = (z[test] @ model.head).argmax(axis=1)
        gains.append(
            np.mean(probabilities.argmax(axis=1) == labels[test]) - np.mean(least_squares == labels[test])
        )
    assert np.mean(errors) <= 0.10
    assert np.mean(gains) >= (-0.005 if classes == 2 else 0.0)


def test_where_sums_have_noise_two_classes_are_told_apart_at_equal_scores(made: SimpleNamespace) -> None:
    """Noise moves both means of the scores, and a threshold between them would follow it."""
    recipe = Recipe(name="pair", kind="classification", classes=("a", "b"))
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], [30, 10])
    rows = np.hstack([random.standard_normal((40, 3)) + labels[:, None], np.ones((40, 1))])
    sums = site_sums("one", made.statistics(made.Site(rows, labels, folds=0), recipe.classes), recipe)
    exact, noisy = (fit([replace(sums, noise=noise)], {"one": 1.0}, recipe) for noise in (False, True))
    np.testing.assert_array_equal(exact.head, noisy.head)
    assert noisy.posterior.bias[0] == noisy.posterior.bias[1] != exact.posterior.bias[0]
    answers = noisy.posterior.probabilities(rows @ noisy.head)
    np.testing.assert_array_equal(answers.argmax(axis=1), (rows @ noisy.head).argmax(axis=1))
