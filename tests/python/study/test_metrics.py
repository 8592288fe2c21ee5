import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import balanced_accuracy_score, f1_score

from fedmed_edge.study import metrics

CLASSES = 4
masks = arrays(np.uint8, (6, 5), elements=st.integers(0, CLASSES - 1))


@given(masks, masks)
def test_dice_is_the_mean_f1_of_the_foreground(prediction, truth):
    expected = np.mean(
        [f1_score(truth.ravel() == k, prediction.ravel() == k, zero_division=1.0) for k in range(1, CLASSES)]
    )
    assert metrics.dice(prediction, truth, CLASSES) == pytest.approx(expected)


@given(masks, masks)
def test_dice_does_not_care_which_is_the_truth(prediction, truth):
    assert metrics.dice(prediction, truth, CLASSES) == metrics.dice(truth, prediction, CLASSES)


def test_dice_of_two_empty_masks_is_one():
    empty = np.zeros((3, 3), np.uint8)
    assert metrics.dice(empty, empty, 2) == 1.0
    assert metrics.dice(empty, np.ones_like(empty), 2) == 0.0


def test_dice_refuses_other_shapes_and_one_class():
    with pytest.raises(ValueError, match=r"`prediction` has shape \(2,\), expected \(3,\)"):
        metrics.dice(np.zeros(2, int), np.zeros(3, int), 2)
    with pytest.raises(ValueError, match="`classes` has 1, expected at least 2"):
        metrics.dice(np.zeros(2, int), np.zeros(2, int), 1)


@given(arrays(np.int64, 12, elements=st.integers(0, 3)), arrays(np.int64, 12, elements=st.integers(0, 3)))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_balanced_accuracy_against_sklearn(prediction, truth):
    once = metrics.balanced_accuracy(prediction, truth, np.ones((1, len(truth))))
    assert once[0] == pytest.approx(balanced_accuracy_score(truth, prediction))


def test_weighted_balanced_accuracy_is_that_of_the_drawn_items():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    drawn = rng.integers(0, 40, (5, 40))
    weights = np.stack([np.bincount(row, minlength=40) for row in drawn]).astype(float)
    wanted = [balanced_accuracy_score(truth[row], prediction[row]) for row in drawn]
    assert metrics.balanced_accuracy(prediction, truth, weights) == pytest.approx(wanted)


def test_balanced_accuracy_refuses_nothing():
    with pytest.raises(ValueError, match="has 0 items, expected 0, not 0"):
        metrics.balanced_accuracy(np.array([], int), np.array([], int), np.ones((1, 0)))


def _calibration_by_hand(probabilities, labels, bins):
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if low < row.max() <= high
        ]
        if inside:
            confidence, correct = np.mean(inside, axis=0)
            error += len(inside) / len(labels) * abs(confidence - correct)
    return error


def test_calibration_error_by_hand():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.full(4, 0.5), 500)
    labels = rng.integers(0, 4, 500)
    got = metrics.expected_calibration_error(probabilities, labels)
    assert got == pytest.approx(_calibration_by_hand(probabilities, labels, 15), abs=1e-12)


def test_calibrated_posteriors_have_a_small_error():
    rng = np.random.default_rng(4)
    probabilities = rng.dirichlet(np.ones(3), 20_000)
    labels = np.array([rng.choice(3, p=row) for row in probabilities])
    assert metrics.expected_calibration_error(probabilities, labels) < 0.015
    assert metrics.expected_calibration_error(np.eye(3)[labels], labels) == 0.0


def test_calibration_refuses_other_lengths():
    with pytest.raises(
        ValueError, match=r"`labels` has shape \(3,\), expected one for each of \(2, 2\) rows"
    ):
        metrics.expected_calibration_error([[0.5, 0.5], [0.5, 0.5]], np.zeros(3, int))


def test_bootstrap_of_a_mean_agrees_with_its_standard_error():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    weights = metrics.resampling_weights([str(number) for number in range(400)], draws=4000)
    assert (weights.sum(axis=1) == 400).all()
    drawn = weights @ values / 400
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(400), rel=0.05)


def test_patients_are_drawn_whole_and_repeat_by_seed():
    groups = ["a"] * 3 + ["b"] * 2
    weights = metrics.resampling_weights(groups, seed=5)
    assert {tuple(row) for row in weights} == {(1, 1, 1, 1, 1), (2, 2, 2, 0, 0), (0, 0, 0, 2, 2)}
    assert (weights == metrics.resampling_weights(groups, seed=5)).all()
    assert (weights != metrics.resampling_weights(groups, seed=6)).any()


def _otsu_by_hand(image):
    """Every threshold between two grey levels, least variance inside the classes."""
    levels = np.unique(image)
    splits = [(levels[k] + levels[k + 1]) / 2 for k in range(len(levels) - 1)]

    def inner(split):
        low, high = image[image <= split], image[image > split]
        return low.size * low.var() + high.size * high.var()

    bright = image > min(splits, key=inner)
    return bright if bright.mean() <= 0.5 else ~bright


@given(st.integers(0, 10_000))
def test_otsu_against_every_threshold(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (7, 9))
    image[0, 0], image[0, 1] = 0, 255
    ours = metrics.otsu_threshold(image)
    expected = _otsu_by_hand(image)
    assert np.count_nonzero(ours != expected) <= 1, "bins of 255/256 may move one level"


def test_otsu_takes_the_smaller_side_of_either_polarity():
    image = np.zeros((3, 20, 20))
    image[:, 5:9, 5:9] = 200.0
    expected = image[0] > 0
    assert np.array_equal(metrics.otsu_threshold(image), expected)
    assert np.array_equal(metrics.otsu_threshold(255 - image), expected)


def test_otsu_of_one_value_has_no_foreground():
    assert not metrics.otsu_threshold(np.full((1, 4, 4), 7.0)).any()
