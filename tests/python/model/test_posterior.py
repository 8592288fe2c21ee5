import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fedmed_edge.model.posterior import (
    MANY_CLASSES,
    OFFSET_PATIENTS,
    Moments,
    ScoreGaussians,
    class_priors,
    dice_priors,
    expected_recall,
    fit_posterior,
    gaussians,
    softmax,
)
from fedmed_edge.model.sums import Part
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.feature_statistics import pack


def moments_of(scores: np.ndarray, labels: np.ndarray, classes: int) -> Moments:
    counts = np.bincount(labels, minlength=classes).astype(float)
    moments = Moments.zeros(counts, class_priors_of(counts))
    present = np.flatnonzero(counts)
    rows = [np.hstack([scores[labels == k], np.ones((int(counts[k]), 1))]) for k in present]
    head = np.vstack([np.eye(classes), np.zeros((1, classes))])
    moments.add(head, Part(present, np.stack([pack(own.T @ own) for own in rows])), 1.0)
    return moments


def class_priors_of(counts: np.ndarray) -> np.ndarray:
    return (counts > 0) / (counts > 0).sum()


def cloud(seed: int, classes: int, rows: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    return 3.0 * np.eye(classes)[labels] + spread * rng.standard_normal((rows, classes)), labels


def test_moments_are_those_of_the_scores() -> None:
    scores, labels = cloud(0, 3, 90)
    found = gaussians(moments_of(scores, labels, 3), np.full(3, 1 / 3), np.ones(3))
    for k in range(3):
        np.testing.assert_allclose(found.mean[k], scores[labels == k].mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(found.spread[k], np.cov(scores[labels == k].T, bias=True), rtol=1e-9)


def test_many_classes_are_pooled_alike() -> None:
    classes = MANY_CLASSES + 1
    scores, labels = cloud(1, classes, 3 * classes)
    priors = np.full(classes, 1 / classes)
    found = gaussians(moments_of(scores, labels, classes), priors, np.ones(classes))
    wanted = np.mean([np.cov(scores[labels == k].T, bias=True) for k in range(classes)], axis=0)
    assert found.spread.shape == (1, classes, classes)
    np.testing.assert_allclose(found.shared(priors), wanted, atol=1e-9)


@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(3, 7),
    rows=st.integers(14, 60),
    spread=st.floats(0.05, 20.0),
)
def test_under_even_priors_the_largest_score_wins(seed: int, classes: int, rows: int, spread: float) -> None:
    """However few rows there are, and even where held-out scores run against their classes."""
    scores, labels = cloud(seed, classes, rows, spread)
    scores *= np.random.default_rng(seed).choice([-1.0, 1.0])
    priors = np.full(classes, 1 / classes)
    found = gaussians(moments_of(scores, labels, classes), priors, np.ones(classes))
    posterior = fit_posterior(found, priors, rows)
    fresh = 3.0 * np.random.default_rng(seed + 1).standard_normal((100, classes))
    logits = fresh @ posterior.weight + posterior.bias
    np.testing.assert_array_equal(logits.argmax(axis=1), fresh.argmax(axis=1))


def test_two_classes_of_many_patients_equal_linear_discriminant_analysis() -> None:
    scores, labels = cloud(2, 2, 3000)
    scores = scores - (scores.sum(axis=1, keepdims=True) - 1.0) / 2.0 + np.array([0.4, -0.4])
    priors = np.array([0.2, 0.8])
    found = gaussians(moments_of(scores, labels, 2), priors, np.ones(2))
    posterior = fit_posterior(found, priors, 10**9, temperature=1.0)
    model = LinearDiscriminantAnalysis(solver="lsqr", priors=priors).fit(scores[:, :1], labels)
    wanted = model.predict_proba(scores[:, :1])
    np.testing.assert_allclose(posterior.probabilities(scores), wanted, atol=5e-3)
    few = fit_posterior(found, priors, OFFSET_PATIENTS, temperature=1.0)
    prior = np.log(priors) - np.log(priors).mean()
    np.testing.assert_allclose(few.bias - prior, (posterior.bias - prior) / 2, rtol=1e-6)


def test_three_classes_equal_their_formula() -> None:
    scores, labels = cloud(3, 3, 3000)  # means 3 e_k and variance 1
    priors = np.array([0.2, 0.3, 0.5])
    found = gaussians(moments_of(scores, labels, 3), priors, np.ones(3))
    got = fit_posterior(found, priors, 3000, temperature=1.0).probabilities(scores)
    np.testing.assert_allclose(got, softmax(3.0 * scores + np.log(priors)), atol=0.03)


def test_classes_without_order_are_answered_unsurely() -> None:
    rng = np.random.default_rng(0)
    scores, labels = 0.3 * rng.standard_normal((60, 3)), np.arange(60) % 3
    priors = np.full(3, 1 / 3)
    found = gaussians(moments_of(scores, labels, 3), priors, np.ones(3))
    assert fit_posterior(found, priors, 60).probabilities(scores).max() < 0.6


def test_scores_that_add_up_to_one_do_not_break_it() -> None:
    scores, labels = cloud(3, 3, 300)
    scores = scores - (scores.sum(axis=1, keepdims=True) - 1.0) / 3.0
    found = gaussians(moments_of(scores, labels, 3), np.full(3, 1 / 3), np.ones(3))
    posterior = fit_posterior(found, np.full(3, 1 / 3), 300)
    assert np.abs(posterior.weight).max() < 1e3
    assert (posterior.probabilities(scores).argmax(axis=1) == labels).mean() > 0.95


def test_a_class_that_no_site_has_comes_out_zero() -> None:
    scores, labels = cloud(4, 2, 60)
    scores = np.hstack([scores, np.zeros((60, 1))])
    found = gaussians(moments_of(scores, labels, 3), np.array([0.5, 0.5, 0.0]), np.ones(3))
    posterior = fit_posterior(found, np.array([0.5, 0.5, 0.0]), 60)
    assert (posterior.weight[:, 2] == 0).all()
    far = 1e3 * np.random.default_rng(0).standard_normal((500, 3))
    assert posterior.probabilities(far)[:, 2].max() == 0.0


def test_a_single_class_is_certain() -> None:
    scores, _ = cloud(5, 2, 20)
    found = gaussians(moments_of(scores, np.zeros(20, int), 2), np.array([1.0, 0.0]), np.ones(2))
    posterior = fit_posterior(found, np.array([1.0, 0.0]), 20)
    np.testing.assert_array_equal(posterior.probabilities(scores), [[1.0, 0.0]] * 20)


def test_temperature_rises_where_one_class_is_wider_than_the_shared_covariance() -> None:
    mean = np.array([[0.0, 0.0], [-4.0, 4.0]])
    alike = ScoreGaussians(mean, np.stack([np.eye(2)] * 2), np.ones(2))
    unlike = ScoreGaussians(mean, np.stack([np.diag([0.02, 1.0]), np.diag([1.98, 1.0])]), np.ones(2))
    priors = np.full(2, 0.5)
    even = fit_posterior(alike, priors, 10**9).temperature
    assert 1.0 <= even <= 1.5  # the largest that loses little
    assert fit_posterior(unlike, priors, 10**9).temperature > even


def test_expected_recall_is_that_of_drawn_scores() -> None:
    scores, labels = cloud(6, 3, 6000)
    found = gaussians(moments_of(scores, labels, 3), np.full(3, 1 / 3), np.ones(3))
    posterior = fit_posterior(found, np.full(3, 1 / 3), 6000)
    answers = posterior.probabilities(scores).argmax(axis=1)
    real = [(answers[labels == k] == k).mean() for k in range(3)]
    np.testing.assert_allclose(expected_recall(posterior, found), real, atol=0.03)


def test_stretching_undoes_leverage() -> None:
    scores, labels = cloud(7, 2, 40, spread=0.1)
    moments = moments_of(scores, labels, 2)
    wide = gaussians(moments, np.full(2, 0.5), np.full(2, 0.5))
    narrow = gaussians(moments_of(scores, labels, 2), np.full(2, 0.5), np.ones(2))
    np.testing.assert_allclose(wide.spread, 4.0 * narrow.spread)
    np.testing.assert_allclose(np.eye(2) - wide.mean, 2.0 * (np.eye(2) - narrow.mean))


@pytest.mark.parametrize(("rule", "wanted"), [("uniform", [0.5, 0.5, 0.0]), ("counted", [0.25, 0.75, 0.0])])
def test_priors(rule: str, wanted: list[float]) -> None:
    recipe = Recipe(name="r", kind="classification", classes=("a", "b", "c"), priors=rule)
    np.testing.assert_array_equal(class_priors(recipe, np.array([1.0, 3.0, 0.0])), wanted)


@pytest.mark.parametrize(("share", "apart"), [(0.03, 2.0), (0.1, 1.0), (0.3, 4.0)])
def test_dice_priors_find_the_masks_of_greatest_dice(share: float, apart: float) -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random(200_000) < share).astype(int)
    scores = np.eye(2)[truth] + rng.standard_normal((len(truth), 2)) / apart
    found = ScoreGaussians(np.eye(2), np.stack([np.eye(2) / apart**2] * 2), np.bincount(truth).astype(float))
    shares = np.array([1.0 - share, share])

    def dice(priors: np.ndarray) -> float:
        mask = fit_posterior(found, priors, 1000).probabilities(scores)[:, 1] > 0.5
        return float(2.0 * (mask & (truth == 1)).sum() / (mask.sum() + truth.sum()))

    tried = [dice(np.array([1.0 - rare, rare])) for rare in np.linspace(0.01, 0.5, 50)]
    assert dice(dice_priors(found, shares, 1000)) > max(tried) - 0.01
    assert dice(dice_priors(found, shares, 1000)) > dice(shares) - 0.001


def test_dice_priors_keep_what_cannot_be_tempered() -> None:
    alone = ScoreGaussians(np.eye(2), np.stack([np.eye(2)] * 2), np.array([9.0, 0.0]))
    np.testing.assert_array_equal(dice_priors(alone, np.array([1.0, 0.0]), 9), [1.0, 0.0])


def test_softmax_of_large_logits() -> None:
    np.testing.assert_array_equal(softmax(np.array([[1e4, -1e4]])), [[1.0, 0.0]])
