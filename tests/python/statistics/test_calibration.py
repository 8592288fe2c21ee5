"""Binned counts: additive, and right against a plain count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.calibration import (
    BINS,
    COLUMNS,
    TEMPERATURES,
    best_temperature,
    bin_counts,
    expected_calibration_error,
)


def answers(seed: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(rows, 3)) * 2
    labels = np.array([random.choice(3, p=p) for p in softmax(scores, axis=1)])
    return scores, labels


def test_counts_are_the_loss_and_the_bins_at_every_temperature() -> None:
    scores, labels = answers(0)
    counts = bin_counts(softmax(scores, axis=1), labels)
    assert counts.shape == (len(TEMPERATURES), COLUMNS)
    for row, temperature in zip(counts, TEMPERATURES, strict=True):
        p = softmax(scores / temperature, axis=1)
        assert row[0] == pytest.approx(log_loss(labels, p, labels=[0, 1, 2], normalize=False), rel=1e-9)
        confidence, correct = p.max(1), p.argmax(1) == labels
        place = np.digitize(confidence, np.arange(1, BINS) / BINS)
        error = sum(
            abs(confidence[place == b].mean() - correct[place == b].mean()) * (place == b).mean()
            for b in range(BINS)
            if (place == b).any()
        )
        assert expected_calibration_error(counts, temperature) == pytest.approx(error, rel=1e-9)


@given(st.integers(0, 50), st.integers(1, 199))
def test_counts_add(seed: int, cut: int) -> None:
    scores, labels = answers(seed)
    p = softmax(scores, axis=1)
    parts = bin_counts(p[:cut], labels[:cut]) + bin_counts(p[cut:], labels[cut:])
    np.testing.assert_allclose(parts, bin_counts(p, labels), rtol=1e-10, atol=1e-10)


def test_the_temperature_undoes_overconfidence() -> None:
    scores, labels = answers(3, rows=3000)
    counts = bin_counts(softmax(scores * 4, axis=1), labels)
    assert best_temperature(counts) == pytest.approx(4, rel=0.2)
    assert expected_calibration_error(counts, best_temperature(counts)) < 0.05
    assert expected_calibration_error(counts) > 0.1


def test_no_counts_leave_the_temperature_at_one() -> None:
    empty = np.zeros((len(TEMPERATURES), COLUMNS))
    assert best_temperature(empty) == 1.0
    assert expected_calibration_error(empty) == 0.0


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"`labels` has shape \(2,\), expected \(1,\)"):
        bin_counts(np.ones((1, 2)), np.zeros(2, np.int64))
