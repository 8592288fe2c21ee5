"""Noise and ε against published values, against the mechanism's own δ, and against another accountant."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.accounting import (
    Steps,
    composed_multiplier,
    epsilon_of,
    noise_multiplier,
    step_multiplier,
)

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


# --- trainings -------------------------------------------------------------------------------------------

MNIST = Steps(1.1, 256 / 60_000, 60 * 60_000 // 256)
"""Of the DP-SGD tutorial of TensorFlow Privacy: batches of 256 for 60 epochs."""


def sampled_delta(epsilon: float, multiplier: float, sampling: float) -> float:
    """δ of one step by its definition: of a patient who comes, and of one who goes."""

    def densities(x: Any) -> tuple[Any, Any]:
        without = norm.pdf(x, 0, multiplier)
        return without, (1 - sampling) * without + sampling * norm.pdf(x, 1, multiplier)

    x = np.linspace(-12 * multiplier, 1 + 12 * multiplier, 400_001)
    one, other = densities(x)
    ways = (one - np.exp(epsilon) * other, other - np.exp(epsilon) * one)
    return max(float(np.trapezoid(np.maximum(way, 0), x)) for way in ways)


def moments_epsilon(noise: Steps, delta: float) -> float:
    """Mironov, Talwar and Zhang 2019, section 3.3, for whole orders; converted as in Mironov 2017."""
    found = []
    for order in range(2, 65):
        k = np.arange(order + 1)
        terms = (
            [math.log(math.comb(order, int(i))) for i in k]
            + (order - k) * math.log1p(-noise.sampling)
            + k * math.log(noise.sampling)
            + k * (k - 1) / (2 * noise.multiplier**2)
        )
        divergence = logsumexp(terms) / (order - 1)
        found.append(noise.steps * divergence - math.log(delta) / (order - 1))
    return float(min(found))


def convolved_epsilon(noise: Steps, delta: float) -> float:
    """Losses of a patient who is there, put into narrow bins and convolved, with no care for rounding."""
    width, count = 2e-4, 1 << 18
    x = np.linspace(-12 * noise.multiplier, 1 + 14 * noise.multiplier, 2_000_001)
    loss = np.log1p(noise.sampling * np.expm1((2 * x - 1) / (2 * noise.multiplier**2)))
    middle = (x[1:] + x[:-1]) / 2
    mass = np.diff(
        (1 - noise.sampling) * norm.cdf(x, 0, noise.multiplier)
        + noise.sampling * norm.cdf(x, 1, noise.multiplier)
    )
    place = np.rint(np.interp(middle, x, loss) / width).astype(int) % count
    once = np.bincount(place, weights=mass, minlength=count)
    many = np.fft.irfft(np.fft.rfft(once) ** noise.steps, count)
    losses = width * np.where(np.arange(count) < count // 2, np.arange(count), np.arange(count) - count)

    def delta_of(epsilon: float) -> float:
        over = losses > epsilon
        return float((many[over] * -np.expm1(epsilon - losses[over])).sum())

    return float(brentq(lambda epsilon: delta_of(epsilon) - delta, 0.01, 25))


@pytest.mark.parametrize("noise", [MNIST, Steps(1.29, 0.1, 300), Steps(2.0, 0.3, 50)])
def test_what_a_training_spends_is_what_other_accountants_say(noise: Steps) -> None:
    ours = epsilon_of(math.inf, 1e-5, [noise])
    assert ours == pytest.approx(convolved_epsilon(noise, 1e-5), rel=5e-3)
    assert ours < moments_epsilon(noise, 1e-5) < 1.4 * ours


def test_of_the_least_delta_a_training_keeps_its_promise_too() -> None:
    noise = Steps(step_multiplier(8.0, 1e-12, sampling=0.1, steps=300), 0.1, 300)
    assert convolved_epsilon(noise, 1e-12) == pytest.approx(8.0, rel=5e-3)
    assert moments_epsilon(noise, 1e-12) > 8.0


def test_the_tutorials_figure_is_met_from_below() -> None:
    # its README states 3.01, by the accountant of moments, which that of losses undercuts
    assert moments_epsilon(MNIST, 1e-5) == pytest.approx(3.01, abs=0.005)
    assert 2.3 < epsilon_of(math.inf, 1e-5, [MNIST]) < 3.01


@pytest.mark.parametrize(("multiplier", "sampling"), [(0.6, 0.1), (1.5, 0.5), (3.0, 0.01)])
def test_of_one_step_the_definition_holds(multiplier: float, sampling: float) -> None:
    epsilon = epsilon_of(math.inf, 1e-4, [Steps(multiplier, sampling, 1)])
    assert sampled_delta(epsilon, multiplier, sampling) <= 1e-4 * (1 + 1e-3)
    assert sampled_delta(epsilon - 0.02, multiplier, sampling) > 1e-4


@pytest.mark.parametrize(("epsilon", "sampling", "steps"), [(8.0, 0.1, 300), (1.0, 0.05, 40), (3.0, 0.5, 7)])
def test_the_noise_of_a_training_gives_its_epsilon_back(epsilon: float, sampling: float, steps: int) -> None:
    multiplier = step_multiplier(epsilon, 1e-5, sampling=sampling, steps=steps)
    got = epsilon_of(math.inf, 1e-5, [Steps(multiplier, sampling, steps)])
    assert 0.999 * epsilon < got <= epsilon
    assert step_multiplier(epsilon, 1e-5, sampling=sampling, steps=2 * steps) > multiplier
    # who is in every step hides behind nobody
    assert multiplier < noise_multiplier(epsilon, 1e-5) * math.sqrt(steps)


def test_steps_with_everybody_are_releases() -> None:
    wanted = epsilon_of(composed_multiplier([5.0] * 9 + [4.0]), 1e-5)
    together = epsilon_of(4.0, 1e-5, [Steps(5.0, 1.0, 9)])
    assert wanted <= together == pytest.approx(wanted, rel=1e-3)


def test_beside_a_training_there_is_less_room() -> None:
    training = Steps(step_multiplier(2.0, 1e-5, sampling=0.1, steps=100), 0.1, 100)
    room = noise_multiplier(3.0, 1e-5, [training])
    assert 2.99 < epsilon_of(room, 1e-5, [training]) <= 3.0
    assert noise_multiplier(1.0, 1e-5) > room > noise_multiplier(3.0, 1e-5)
    assert noise_multiplier(2.0, 1e-5, [training]) > 50  # what is left of 2 is next to nothing
    assert noise_multiplier(1.5, 1e-5, [training]) == math.inf


def test_nothing_spends_nothing() -> None:
    assert epsilon_of(composed_multiplier([]), 1e-5) == 0.0


def test_what_is_no_promise_is_refused() -> None:
    for epsilon, delta, message in ((0, 1e-5, "`epsilon` has 0"), (1, 1, "`delta` has 1")):
        with pytest.raises(InputError, match=f"privacy: {message}"):
            noise_multiplier(epsilon, delta)
    with pytest.raises(InputError, match="privacy: `noise` has 0"):
        epsilon_of(0.0, 1e-5)
