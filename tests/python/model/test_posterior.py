import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fedmed_edge.model.posterior import (
    MANY_CLASSES,
    Moments,
    ScoreGaussians,
    class_priors,
    expected_recall,
    fit_posterior,
    gaussians,
    oas_shrinkage,
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


def test_shrinkage_is_that_of_scikit_learn_where_there_are_many_classes() -> None:
    rows = np.random.default_rng(0).standard_normal((90, 60)) * np.arange(1, 61)
    got = oas_shrinkage(np.cov(rows.T, bias=True), 90)
    assert got == pytest.approx(OAS().fit(rows).shrinkage_, rel=0.05)  # which leaves out the 2 / C terms


def test_shrinkage_brings_a_small_covariance_nearer_to_the_true_one() -> None:
    true = np.diag([1.0, 2.0, 3.0, 6.0])
    plain = shrunk = 0.0
    for seed in range(50):
        rows = np.random.default_rng(seed).standard_normal((8, 4)) @ np.sqrt(true)
        found = rows.T @ rows / 8
        share = oas_shrinkage(found, 8)
        mixed = (1 - share) * found + share * np.trace(found) / 4 * np.eye(4)
        plain += float(np.sum((found - true) ** 2))
        shrunk += float(np.sum((mixed - true) ** 2))
    assert shrunk < 0.7 * plain


@given(scale=st.floats(1e-6, 1e6), samples=st.integers(1, 1000))
def test_shrinkage_is_a_share_whatever_the_scale(scale: float, samples: int) -> None:
    covariance = np.diag([1.0, 2.0, 5.0])
    got = oas_shrinkage(scale * covariance, samples)
    assert 0.0 < got <= 1.0
    assert got == pytest.approx(oas_shrinkage(covariance, samples))


def test_posterior_equals_linear_discriminant_analysis() -> None:
    scores, labels = cloud(2, 3, 3000)
    priors = np.array([0.2, 0.3, 0.5])
    found = gaussians(moments_of(scores, labels, 3), priors, np.ones(3))
    posterior = fit_posterior(found, priors, 10**9, temperature=1.0)
    model = LinearDiscriminantAnalysis(solver="lsqr", priors=priors).fit(scores, labels)
    np.testing.assert_allclose(
        posterior.probabilities(scores), model.predict_proba(scores), atol=5e-3
    )  # both covariances are those of the classes, each with its own shrinkage of 0.001 and 0


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
    mean = np.array([[0.0, 0.0], [4.0, 0.0]])
    alike = ScoreGaussians(mean, np.stack([np.eye(2)] * 2), np.ones(2, bool))
    unlike = ScoreGaussians(mean, np.stack([np.diag([0.02, 1.0]), np.diag([1.98, 1.0])]), np.ones(2, bool))
    priors = np.full(2, 0.5)
    even = fit_posterior(alike, priors, 10**9).temperature
    assert even == pytest.approx(1.0, rel=0.2)
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


def test_softmax_of_large_logits() -> None:
    np.testing.assert_array_equal(softmax(np.array([[1e4, -1e4]])), [[1.0, 0.0]])
