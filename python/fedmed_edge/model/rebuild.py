"""Stored contributions → global model: a pure function, exact, with every site switched off.

The head equals, to rounding, the one fitted with all sites' images in one place, whatever the split over
sites and the order. Source: method §3; AFL (arXiv 2405.16240), Fed3R (ICML 2024).
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import diagonal_positions
from fedmed_edge.model.distance import known_threshold
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.heldout import (
    DEFAULT_RIDGE,
    RIDGES,
    all_weights,
    fold_constant,
    fold_errors,
    hold,
    judging_weights,
    normal_without,
    normal_without_fold,
    site_errors,
)
from fedmed_edge.model.posterior import (
    Moments,
    Posterior,
    ScoreGaussians,
    class_priors,
    dice_priors,
    fit_posterior,
    gaussians,
)
from fedmed_edge.model.solve import on_one_thread, solve_ridge
from fedmed_edge.model.sums import Normal, Part, SiteSums, class_weights, in_order, read_sums
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.calibration import best_temperature
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import Array64, pack

log = logging.getLogger(__name__)

LARGEST_RIDGE = 1e6
"""Greatest λ that may be given: a million times the mean eigenvalue leaves nothing of a head."""

Mask = npt.NDArray[np.bool_]
Ridge = float | Literal["auto", "sites"]
"""λ, or what shall choose it; `choose_ridge` says how."""


@on_one_thread
def rebuild(
    contributions: Collection[Contribution],
    recipe: Recipe,
    *,
    ridge: Ridge = "auto",
    site_weights: Mapping[str, float] | None = None,
    priors: Array64 | None = None,
) -> GlobalModel:
    """Rebuild the global model from stored contributions.

    The same contributions in any order give the same bytes on one build and CPU type; a site that has been
    taken out leaves no trace.

    Args:
        contributions: One a site, of one generation and of this recipe. Those without statistics are passed
            over; those of unlabelled images count in the known-image threshold alone.
        ridge: λ; `auto` chooses it for the hospitals in the federation, by folds held out, `sites` for one
            that has not been seen, by leaving one site out (`choose_ridge`).
        site_weights: a_s by site name, 1 where a site is not named.
        priors: (C,) how often every class is met; None: as the contributions say (`class_priors`).

    Raises:
        InputError: Nothing is labelled, the contributions do not belong together, or a weight or the ridge is
            negative.

    Source: method §3.

    Example:
        >>> from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
        >>> from fedmed_edge.statistics.contribution import new_contribution
        >>> recipe = Recipe(name="r", kind="classification", classes=("low", "high"))
        >>> rows = np.array([[0, 1], [4, 1], [1, 1], [5, 1]], np.float32)
        >>> plan = plan_folds({0: {"ann", "bob"}, 1: {"ann", "bob"}}, min_cohort=1)
        >>> sums = Accumulator(recipe.classes, row_dim=2, feature_dim=1, plan=plan)
        >>> sums.add_rows(rows[:2], np.array([0, 1], np.int32), "ann")
        >>> sums.add_rows(rows[2:], np.array([0, 1], np.int32), "bob")
        >>> one = new_contribution(
        ...     sums.result(), generation="0" * 64, recipe=recipe, site="alpha", sequence=1, min_cohort=1
        ... )
        >>> model = rebuild([one], recipe)
        >>> model.probabilities(rows).argmax(axis=1).tolist(), model.sites
        ([0, 1, 0, 1], ('alpha',))
    """
    ordered = in_order(contributions, recipe)
    sites = read_sums(ordered, recipe)
    weights = _site_weights(sites, site_weights or {})
    evidence = _validation_counts(ordered)
    temperature = best_temperature(np.sum(evidence, axis=0)) if evidence else None
    made = fit(sites, weights, recipe, ridge=ridge, temperature=temperature, priors=priors)
    choice = made.choice
    log.debug("rebuilt from %d sites, ridge %g by %s", len(sites), choice.ridge, choice.by)
    return GlobalModel(
        recipe=recipe,
        generation=ordered[0].header.generation,
        head=made.head,
        ridge=choice.ridge,
        posterior=made.posterior,
        known_threshold=known_threshold(ordered),
        sites=tuple(site.site for site in sites),
        contributions=tuple(one.id for one in ordered),
        site_weights=weights,
        figures={
            "ridge_by": choice.by,
            "ridge_errors": {f"{value:g}": error for value, error in choice.errors.items()},
            "scores_from": dict(zip(recipe.classes, made.measured, strict=True)),
            "temperature_from": "validation counts" if evidence else "gaussians",
            "absent": [name for name, n in zip(recipe.classes, made.counts, strict=True) if n == 0],
            "rows": {
                name: float(n)
                for name, n in zip(recipe.classes, np.sum([s.counts for s in sites], axis=0), strict=True)
            },
        },
    )


@dataclass(frozen=True)
class RidgeChoice:
    """λ and what chose it.

    Attributes:
        by: `sites` left out one by one, `folds` held out, `default` where neither can be, or `given`.
        errors: λ → held-out squared error, as a share of that of a head of zeros.
    """

    ridge: float
    by: Literal["sites", "folds", "default", "given"]
    errors: dict[float, float]


@dataclass(frozen=True, eq=False)
class Fit:
    """A head and its posterior, solved from sums.

    Attributes:
        head: (D, C).
        counts: (C,) rows of every class in the fit, by the weights of their sites.
        measured: What the scores of every class were measured on (`score_gaussians`).
    """

    head: Array64 = field(repr=False)
    choice: RidgeChoice
    posterior: Posterior = field(repr=False)
    counts: Array64
    measured: list[str]


@on_one_thread
def fit(
    sites: Sequence[SiteSums],
    weights: Mapping[str, float],
    recipe: Recipe,
    *,
    ridge: Ridge = "auto",
    temperature: float | None = None,
    priors: Array64 | None = None,
) -> Fit:
    """Choose λ, solve the head, fit its posterior.

    Args:
        weights: a_s of every site.
        temperature: None: as `fit_posterior`.
        priors: (C,) as of `rebuild`; a class that no site has gets none.

    Raises:
        InputError: No site has a labelled image, or the ridge is negative.
    """
    choice = _ridge(sites, weights, ridge)
    normal = normal_without(sites, weights)
    if not normal.counts.any():
        raise InputError(
            "rebuild: no contribution has a labelled image", hint="ask a site with labels to contribute"
        )
    if priors is None:
        priors = class_priors(recipe, normal.counts)
    else:
        priors = np.where(normal.counts > 0, priors, 0.0) / priors[normal.counts > 0].sum()
    scores, measured = score_gaussians(sites, weights, normal, choice.ridge, priors)
    # Noise moves the mean scores that two classes' threshold would be put between.
    patients = int(sum(int(site.patients.sum()) for site in sites if not site.noise))
    if recipe.priors == "dice":
        priors = dice_priors(scores, priors, patients)
    posterior = fit_posterior(scores, priors, patients, temperature)
    return Fit(normal.head(choice.ridge), choice, posterior, normal.counts, measured)


def choose_ridge(
    sites: Sequence[SiteSums], weights: Mapping[str, float], by: Literal["auto", "sites"] = "auto"
) -> RidgeChoice:
    """λ from `RIDGES` of the least held-out squared error; the larger of two equal ones.

    `auto`: one fold of all sites is held out at once, a class counting as many patients as it has. Sites are
    not left out for it: a shift between scanners makes that error explode, whatever the answers are, and
    picks the largest λ. `sites`: labelled sites left out one by one, classes balanced; folds where no site
    can be. λ is `DEFAULT_RIDGE` where nothing can be held out.

    Source: method §4.
    """
    if by == "sites":
        errors = site_errors(sites, weights, RIDGES)
        if errors:
            return _least("sites", errors.values(), float(np.count_nonzero(all_weights(sites))))
    judge = judging_weights(sites)
    held = fold_errors(sites, weights, RIDGES, judge, bounded=True)
    if not held:
        return RidgeChoice(DEFAULT_RIDGE, "default", {})
    return _least("folds", held.values(), fold_constant(sites, judge))


def _least(by: Literal["sites", "folds"], errors: Collection[Array64], scale: float) -> RidgeChoice:
    total = np.sum(list(errors), axis=0) / max(scale, np.finfo(np.float64).tiny)
    best = max(ridge for ridge, error in zip(RIDGES, total, strict=True) if error == total.min())
    return RidgeChoice(best, by, dict(zip(RIDGES, total.tolist(), strict=True)))


def score_gaussians(
    sites: Sequence[SiteSums],
    weights: Mapping[str, float],
    normal: Normal,
    ridge: float,
    priors: Array64,
) -> tuple[ScoreGaussians, list[str]]:
    """Gaussians of the scores as rows that the head has not seen would have them.

    Every class with folds anywhere is measured on them: fold f of all sites under the head fitted without it,
    but for a site's fold that is strange to that head (`Held.strange`).
    A class that is too small for folds everywhere is measured in-sample and stretched by its mean leverage
    (`gaussians`). Leaving sites out is no substitute here: under a head that has never seen a scanner the
    scores of its images can be reversed, and a posterior from them answers wrongly for known scanners too.
    Leverage counts rows as independent; where they are pixels of few images it corrects too little.

    Returns:
        The Gaussians; for every class `folds`, `leverage` or `absent`.

    Source: method §3.
    """
    classes, told = len(normal.counts), list(_told_by_folds(sites, weights, ridge))
    in_folds, counts = np.zeros(classes, bool), np.zeros(classes)
    for _, site, fold in told:
        part = site.fold(fold)
        in_folds[part.present] = True
        counts[part.present] += weights[site.site] * part.counts
    for site in sites:
        counts += np.where(in_folds, 0.0, weights[site.site] * site.counts)
    moments = Moments.zeros(counts, priors)
    for head, site, fold in told:
        moments.add(head, site.fold(fold), weights[site.site])
    gap = np.ones(classes)
    seen = (normal.counts > 0) & ~in_folds
    if seen.any():
        head = normal.head(ridge)
        for site in sites:
            moments.add(head, _only(site.total, seen), weights[site.site])
        gap = np.where(seen, 1.0 - mean_leverage(sites, weights, normal, ridge, seen), 1.0)
    words = np.where(in_folds, "folds", np.where(seen, "leverage", "absent"))
    return gaussians(moments, priors, gap), [str(word) for word in words]


def mean_leverage(
    sites: Sequence[SiteSums],
    weights: Mapping[str, float],
    normal: Normal,
    ridge: float,
    wanted: Mask,
) -> Array64:
    """(C,) mean leverage a_s w_k zᵀ(G + λ)⁻¹z, in [0, 1), of the rows of each wanted class; else 0."""
    width = sites[0].width
    inverse = pack(solve_ridge(normal.gram, np.eye(width), ridge))
    inverse *= 2.0
    inverse[diagonal_positions(width)] /= 2.0
    balance = class_weights(normal.counts)
    leverage = np.zeros(len(balance))
    for site in sites:
        part = _only(site.total, wanted)
        leverage[part.present] += (weights[site.site] * balance[part.present]) ** 2 * (part.grams @ inverse)
    return leverage


def _only(part: Part, wanted: Mask) -> Part:
    kept = wanted[part.present]
    return Part(part.present[kept], part.grams[kept])


def _told_by_folds(
    sites: Sequence[SiteSums], weights: Mapping[str, float], ridge: float
) -> Iterator[tuple[Array64, SiteSums, int]]:
    """The head that has not seen a fold, a site and the fold, where its rows are not strange to the head."""
    judge = judging_weights(sites)
    for fold in sorted({fold for site in sites for fold in site.folds}):
        head = normal_without_fold(sites, weights, fold).head(ridge)
        for site in sites:
            if weights[site.site] <= 0 or fold not in site.folds:
                continue
            held = hold(site.fold(fold), judge)
            if held.error(head) <= held.strange:
                yield head, site, fold


def _validation_counts(contributions: Collection[Contribution]) -> list[Array64]:
    return [
        one.statistics.calibration
        for one in contributions
        if "calibration" in one.header.parts
        and one.statistics is not None
        and one.statistics.calibration is not None
    ]


def _site_weights(sites: Sequence[SiteSums], given: Mapping[str, float]) -> dict[str, float]:
    names = [site.site for site in sites]
    for name, weight in given.items():
        if name not in names:
            raise InputError(f"rebuild: `site_weights` names `{name}`, which has no contribution here")
        if not 0.0 <= weight < float("inf"):
            raise InputError(f"rebuild: weight of `{name}` has {weight}, expected 0 or more")
    return {name: float(given.get(name, 1.0)) for name in names}


def _ridge(sites: Sequence[SiteSums], weights: Mapping[str, float], ridge: Ridge) -> RidgeChoice:
    if ridge == "auto" or ridge == "sites":
        return choose_ridge(sites, weights, ridge)
    if isinstance(ridge, str) or not 0.0 <= ridge <= LARGEST_RIDGE:
        raise InputError(f"rebuild: `ridge` has {ridge}, expected 0 to {LARGEST_RIDGE:g}, auto or sites")
    return RidgeChoice(float(ridge), "given", {})
