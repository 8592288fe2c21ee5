"""Noise and ε against published values, against the mechanism's own δ, and against another accountant."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.accounting import composed_multiplier, epsilon_of, noise_multiplier

pytest.importorskip("dp_accounting")


def delta_of(epsilon: float, multiplier: float) -> float:
    """Balle and Wang 2018, theorem 8: the δ of Gaussian noise, by its definition."""
    half, step = 0.5 / multiplier, epsilon * multiplier
    return float(norm.cdf(half - step) - np.exp(epsilon) * norm.cdf(-half - step))


def published_calibration(epsilon: float, delta: float) -> float:
    """Balle and Wang 2018, algorithm 1, for a sensitivity of 1."""
    root = math.sqrt(epsilon)

    def b(sign: int, v: float) -> float:
        inside = (math.sqrt(v), -math.sqrt(v + 2)) if sign > 0 else (-math.sqrt(v), -math.sqrt(v + 2))
        return float(norm.cdf(root * inside[0]) - math.exp(epsilon) * norm.cdf(root * inside[1]))

    if delta >= b(1, 0.0):
        v = brentq(lambda v: b(1, v) - delta, 0, 1e6)
        alpha = math.sqrt(1 + v / 2) - math.sqrt(v / 2)
    else:
        v = brentq(lambda v: b(-1, v) - delta, 0, 1e6, xtol=1e-14)
        alpha = math.sqrt(1 + v / 2) + math.sqrt(v / 2)
    return alpha / math.sqrt(2 * epsilon)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-8])
def test_the_noise_is_that_of_the_published_algorithm(epsilon: float, delta: float) -> None:
    assert noise_multiplier(epsilon, delta) == pytest.approx(published_calibration(epsilon, delta), rel=1e-6)


def test_the_noise_is_that_of_the_published_code() -> None:
    # calibrateAnalyticGaussianMechanism(1, 1e-5, 1) of the authors
    assert noise_multiplier(1.0, 1e-5) == pytest.approx(3.730631634816464, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 16.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_noise_gives_just_this_delta_and_epsilon_back(epsilon: float, delta: float) -> None:
    multiplier = noise_multiplier(epsilon, delta)
    assert delta_of(epsilon, multiplier) == pytest.approx(delta, rel=1e-6)
    assert epsilon_of(multiplier, delta) == pytest.approx(epsilon, rel=1e-6)
    # the classical Gaussian mechanism, which holds up to ε = 1 alone, asks for more
    if epsilon <= 1:
        assert multiplier < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_composition_is_that_of_an_accountant_which_knows_no_closed_form() -> None:
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    multipliers = [4.0, 7.0, 5.5, 4.0]
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for multiplier in multipliers:
        accountant.compose(GaussianDpEvent(multiplier))
    ours = epsilon_of(composed_multiplier(multipliers), 1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-2)
    assert ours <= accountant.get_epsilon(1e-5)


def test_nothing_spends_nothing() -> None:
    assert epsilon_of(composed_multiplier([]), 1e-5) == 0.0


def test_what_is_no_promise_is_refused() -> None:
    for epsilon, delta, message in ((0, 1e-5, "`epsilon` has 0"), (1, 1, "`delta` has 1")):
        with pytest.raises(InputError, match=f"privacy: {message}"):
            noise_multiplier(epsilon, delta)
    with pytest.raises(InputError, match="privacy: `noise` has 0"):
        epsilon_of(0.0, 1e-5)
