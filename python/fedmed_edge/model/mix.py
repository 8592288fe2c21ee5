"""The class mix of a site without labels, from the mean of its images; its priors. Source: method §5."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedmed_edge.model.episodes import Federation
from fedmed_edge.model.heldout import normal_without
from fedmed_edge.model.posterior import LEAST_VARIANCE, ScoreGaussians
from fedmed_edge.model.rebuild import score_gaussians
from fedmed_edge.model.sums import SiteSums
from fedmed_edge.statistics.feature_statistics import Array64

__all__ = ["class_mix", "on_simplex", "site_priors", "solve_mix"]

BELIEFS = tuple(step / 10 for step in range(10))
"""Shares of a solved mix in the priors that are tried; the rest is the mix of the other sites."""

OWN_ROWS = 20.0
"""Own rows at which a site's counted mix is half of its priors."""


def class_mix(
    sites: Sequence[SiteSums], weights: Mapping[str, float], ridge: float, mean: Array64
) -> Array64:
    """π (C,) with Σ_k π_k μ_k nearest to the mean row of a site, seen through the head of the others.

    The site's mean score is compared with those of the classes on rows that the head has not seen
    (`score_gaussians`): on its own rows a head is surer than it will be at the site, and the mix would come
    out too even. A class that no site has gets 0.

    Args:
        sites: Labelled sums of other sites.
        weights: a_s of them.
        ridge: λ of the head.
        mean: (D,) mean lifted row of the site, ending in 1.

    Source: method §5; Lipton, Wang and Smola, ICML 2018 (the same with hard answers).
    """
    normal = normal_without(sites, weights)
    priors = (normal.counts > 0) / max(int(np.count_nonzero(normal.counts)), 1)
    scores, _ = score_gaussians(sites, weights, normal, ridge, priors)
    return solve_mix(scores, priors, mean @ normal.head(ridge))


def site_priors(federation: Federation, name: str) -> Array64:
    """Class priors (C,) of one site, for a recipe whose priors are not `uniform`.

    With labels its own counts, brought nearer to the other sites' where there are few. Without, the solved
    mix and theirs; how much of the solved one is believed is what foretells the labelled sites' own mixes
    best, each taken for one without labels.

    Source: method §5.
    """
    own = next((site.counts for site in federation.sites if site.site == name), None)
    others = federation.without(name)
    pooled = _shares(np.sum([site.counts for site in others.sites], axis=0)) if others.sites else None
    if own is not None:
        return _shares(own if pooled is None else own + OWN_ROWS * pooled)
    assert pooled is not None  # without labels anywhere nothing is rebuilt
    share = _belief(others)
    if share == 0.0 or name not in federation.looks:
        return pooled
    return (1.0 - share) * pooled + share * _solved(others, name)


def _belief(federation: Federation) -> float:
    """The first of `BELIEFS` with the least cross-entropy to the labelled sites' mixes."""
    known = [site.site for site in federation.sites if site.site in federation.looks]
    if len(known) < 3:
        return 0.0
    losses = np.zeros(len(BELIEFS))
    for name in known:
        others = federation.without(name)
        pooled = _shares(np.sum([site.counts for site in others.sites], axis=0))
        told = np.outer(1.0 - np.array(BELIEFS), pooled) + np.outer(BELIEFS, _solved(others, name))
        losses -= np.log(np.maximum(told, 1e-6)) @ _shares(federation.site(name).counts)
    return BELIEFS[int(losses.argmin())]


def _solved(others: Federation, name: str) -> Array64:
    even = dict.fromkeys((site.site for site in others.sites), 1.0)
    return class_mix(others.sites, even, others.ridge, others.looks[name].mean)


def _shares(counts: Array64) -> Array64:
    out: Array64 = counts / counts.sum()
    return out


def solve_mix(scores: ScoreGaussians, priors: Array64, mean: Array64) -> Array64:
    """π (C,), not negative, of sum 1, with Σ_k π_k · (mean score of class k) nearest to a mean score (C,).

    Nearness is measured by the scores' own covariance within a class and between classes.

    Args:
        priors: (C,) weights of the classes in that covariance; 0 for a class without rows.

    Example:
        >>> apart = ScoreGaussians(np.eye(2), np.tile(0.1 * np.eye(2), (2, 1, 1)), np.array([5.0, 5.0]))
        >>> solve_mix(apart, np.full(2, 0.5), np.array([0.75, 0.25])).round(6)
        array([0.75, 0.25])
    """
    present = np.flatnonzero(priors > 0)
    means = scores.mean[np.ix_(present, present)]
    centred = means - priors[present] @ means
    spread = scores.shared(priors)[np.ix_(present, present)] + (priors[present] * centred.T) @ centred
    spread += max(0.01 * float(np.trace(spread)) / len(present), LEAST_VARIANCE) * np.eye(len(present))
    metric = np.linalg.solve(spread, means.T)
    mix = np.zeros(len(priors))
    mix[present] = on_simplex(means @ metric, mean[present] @ metric)
    return mix


def on_simplex(square: Array64, linear: Array64) -> Array64:
    """π (C,) ≥ 0 of sum 1 that makes ½ πᵀQπ − πᵀb least, by an active set.

    Args:
        square: (C, C) Q, positive semidefinite.
        linear: (C,) b.

    Source: Lawson and Hanson 1974, chapter 23, with the constraint of the sum.

    Example:
        >>> on_simplex(np.eye(3), np.array([0.9, 0.3, -1.0])).round(6)
        array([0.8, 0.2, 0. ])
    """
    size = len(linear)
    square = square + 1e-12 * max(float(np.trace(square)) / size, 1.0) * np.eye(size)
    start = int((linear - 0.5 * np.diag(square)).argmax())
    free, mix = np.zeros(size, bool), np.eye(size)[start]
    free[start] = True
    for _ in range(10 * size):
        slope = linear - square @ mix
        gap = np.where(free, -np.inf, slope - slope @ mix)  # what a little more of a class would gain
        if free.all() or gap.max() <= 1e-10 * max(1.0, float(np.abs(slope).max())):
            break
        free[int(gap.argmax())] = True
        while True:
            wanted = _equal(square, linear, free)
            if (wanted[free] >= 0).all():
                break
            falling = free & (wanted < 0)
            step = float(np.min(mix[falling] / (mix[falling] - wanted[falling])))
            mix = mix + step * (wanted - mix)
            free &= mix > 1e-14
            mix = np.where(free, mix, 0.0)
        mix = wanted
    out: Array64 = mix / mix.sum()
    return out


def _equal(square: Array64, linear: Array64, free: npt.NDArray[np.bool_]) -> Array64:
    """The least over the free classes alone, under the sum alone; 0 elsewhere."""
    sides = np.stack([linear[free], np.ones(free.sum())], axis=1)
    inverse = np.linalg.solve(square[np.ix_(free, free)], sides)
    level = (1.0 - inverse[:, 0].sum()) / inverse[:, 1].sum()
    out = np.zeros(len(linear))
    out[free] = inverse[:, 0] + level * inverse[:, 1]
    return out
