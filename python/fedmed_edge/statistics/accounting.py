"""How much noise a promise takes, and what several releases promise together.

Only Gaussian noise is accounted for, and for it both are exact: a release with noise multiplier m (its
standard deviation over the most that one patient can move the sums) is a test of N(0, 1) against N(1/m, 1),
and several releases together are one with 1/m² added up.

Source: Balle and Wang, ICML 2018 (the analytic Gaussian mechanism); Dong, Roth and Su, JRSS-B 2022, corollary
3.3 (composition).
"""

import math
from collections.abc import Collection

from fedmed_edge.errors import InputError

__all__ = ["composed_multiplier", "epsilon_of", "noise_multiplier"]


def noise_multiplier(epsilon: float, delta: float) -> float:
    """Least noise multiplier m whose release is (ε, δ)-differentially private.

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
    return float(get_sigma_gaussian(epsilon, delta))


def epsilon_of(multiplier: float, delta: float) -> float:
    """Least ε for which noise of a multiplier m is (ε, δ)-differentially private; 0 without a release.

    Raises:
        InputError: m or δ is none.

    Example:
        >>> round(epsilon_of(noise_multiplier(2.0, 1e-5), 1e-5), 6), epsilon_of(math.inf, 1e-5)
        (2.0, 0.0)
    """
    _check(delta)
    if not multiplier > 0.0:
        raise InputError(f"privacy: `noise` has {multiplier}, expected above 0")
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


def _check(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise InputError(f"privacy: `delta` has {delta}, expected above 0 and below 1")
