"""How much noise a promise takes, and what several releases promise together.

Releases of Gaussian noise are accounted for exactly: one with noise multiplier m (its standard deviation over
the most that one patient can move the sums) is a test of N(0, 1) against N(1/m, 1), and several releases
together are one with 1/m² added up. A training adds such noise in every step to sums over patients who were
drawn for it; what its steps tell, and a training beside releases, is bounded from above by numerical
composition of privacy losses.

Source: Balle and Wang, ICML 2018 (the analytic Gaussian mechanism); Dong, Roth and Su, JRSS-B 2022, corollary
3.3 (composition); Koskela et al., AISTATS 2020, and Doroshenko et al., PETS 2022 (privacy losses).
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from fedmed_edge.errors import InputError

__all__ = ["Steps", "composed_multiplier", "epsilon_of", "noise_multiplier", "step_multiplier"]

_LEAST: Final = 0.25
"""No training has a smaller multiplier, whatever its ε: the losses would fill the memory."""


@dataclass(frozen=True)
class Steps:
    """Noise of a training.

    Attributes:
        multiplier: Of the noise of one step.
        sampling: Probability with which a patient is in a step, apart from all others and all other steps.
        steps: How many there are.
    """

    multiplier: float
    sampling: float
    steps: int


def noise_multiplier(epsilon: float, delta: float, beside: Collection[Steps] = ()) -> float:
    """Least noise multiplier m whose release is (ε, δ)-differentially private.

    Args:
        beside: Trainings that have been: the release and they together are private. Where they alone are
            not, no noise is enough, and m is inf.

    Raises:
        InputError: ε or δ is none.

    Example:
        >>> round(noise_multiplier(1.0, 1e-5), 2)
        3.73
    """
    from dp_accounting.gaussian_mechanism import get_sigma_gaussian

    _check(delta)
    if not 0.0 < epsilon < math.inf:
        raise InputError(f"privacy: `epsilon` has {epsilon}, expected above 0")
    alone = float(get_sigma_gaussian(epsilon, delta))
    if not beside:
        return alone
    interval = _interval(beside)
    spent = _losses(beside, interval)
    if spent.get_epsilon_for_delta(delta) >= epsilon:
        return math.inf

    def fits(multiplier: float) -> bool:
        together = spent.compose(_losses([Steps(multiplier, 1.0, 1)], interval))
        return bool(together.get_epsilon_for_delta(delta) <= epsilon)

    return _least_of(fits, alone)


def step_multiplier(epsilon: float, delta: float, *, sampling: float, steps: int) -> float:
    """Least noise multiplier of the steps of a training that is (ε, δ)-differentially private, or 0.25.

    Raises:
        InputError: ε or δ is none.

    Example:
        >>> round(step_multiplier(8.0, 1e-5, sampling=0.1, steps=300), 2)
        1.29
    """
    start = noise_multiplier(epsilon, delta)
    return _least_of(
        lambda m: epsilon_of(math.inf, delta, [Steps(m, sampling, steps)]) <= epsilon, max(_LEAST, start)
    )


def epsilon_of(multiplier: float, delta: float, beside: Collection[Steps] = ()) -> float:
    """Least ε for which noise of a multiplier m is (ε, δ)-differentially private; 0 without a release.

    Args:
        multiplier: Of one release; inf for none.
        beside: Trainings: then ε is of these and the release together, and an upper bound.

    Raises:
        InputError: m or δ is none.

    Example:
        >>> round(epsilon_of(noise_multiplier(2.0, 1e-5), 1e-5), 6), epsilon_of(math.inf, 1e-5)
        (2.0, 0.0)
    """
    _check(delta)
    if not multiplier > 0.0:
        raise InputError(f"privacy: `noise` has {multiplier}, expected above 0")
    if beside:
        release = [] if math.isinf(multiplier) else [Steps(multiplier, 1.0, 1)]
        noises = [*beside, *release]
        return float(_losses(noises, _interval(noises)).get_epsilon_for_delta(delta))
    if math.isinf(multiplier):
        return 0.0
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    return float(get_epsilon_gaussian(multiplier, delta))


def composed_multiplier(multipliers: Collection[float]) -> float:
    """Multiplier of the one release that tells as much as all of these together; inf for none.

    Example:
        >>> composed_multiplier([2.0, 2.0, 2.0, 2.0])
        1.0
    """
    told = math.fsum(multiplier**-2 for multiplier in multipliers)
    return told**-0.5 if told else math.inf


def _interval(noises: Collection[Steps]) -> float:
    """Privacy losses are rounded up to multiples of it, which no figure of interest shows."""
    return 1e-3 * max(1.0, *(0.5 / one.multiplier**2 for one in noises))


def _losses(noises: Collection[Steps], interval: float) -> Any:
    """Distribution of the privacy loss of all together."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    first, *others = (
        from_gaussian_mechanism(
            one.multiplier, value_discretization_interval=interval, sampling_prob=one.sampling
        ).self_compose(one.steps)
        for one in noises
    )
    for other in others:
        first = first.compose(other)
    return first


def _least_of(enough: Callable[[float], bool], start: float) -> float:
    """The least multiplier that is enough, to 1e-4 of it, and never less; not below `_LEAST`."""
    low = high = start
    while not enough(high):
        low, high = high, 2 * high
    while low > _LEAST and enough(low):
        low, high = max(_LEAST, low / 2), low
    if low == _LEAST and enough(low):
        return low
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise InputError(f"privacy: `delta` has {delta}, expected above 0 and below 1")
