"""Squared error of a head on rows that it was not fitted on, exactly, from their sums alone.

Source: method §4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedmed_edge.kernels import held_out_losses, upper_triangle
from fedmed_edge.model.sums import Normal, Part, SiteSums, class_weights, normal_equations
from fedmed_edge.statistics.feature_statistics import Array64

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""λ that are tried."""

DEFAULT_RIDGE = 1e-2
"""λ where nothing can be held out."""


@dataclass(frozen=True, eq=False)
class Held:
    """Rows in the form that many heads can be scored on: error = constant − 2⟨cross, H⟩ + tr(HᵀGH).

    That is Σ_k w_k (N_k − 2 h_kᵀ·class_sums_k + Σ_c h_cᵀ class_grams_k h_c).

    Attributes:
        upper: (D, D) upper triangle of Σ_k w_k class_grams, zeros below.
        cross: (D, C).
        constant: Σ_k w_k N_k, which is also the error of a head of zeros.
    """

    upper: Array64 = field(repr=False)
    cross: Array64 = field(repr=False)
    constant: float

    def error(self, head: Array64) -> float:
        """Σ_k w_k Σ ‖zH − e_k‖² over the rows, for a head (D, C) that has not seen them."""
        return float(self.errors(head[None])[0])

    def errors(self, heads: Array64) -> Array64:
        """(R,) the same of several heads (R, D, C)."""
        return held_out_losses(heads, self.upper, self.cross, self.constant)

    @property
    def strange(self) -> float:
        """Error above which rows are like nothing that the head has seen: twice that of sure wrong answers.

        A row that is answered as another class altogether is off by 2. One whose features run off the scale
        can be off by any factor, and one fold with it would choose λ and the temperature for all sites.
        """
        return 4.0 * self.constant


def hold(part: Part, weights: Array64) -> Held:
    """Prepare rows for scoring.

    Args:
        weights: (C,) w_k of every class; 0 leaves a class out.

    Example:
        >>> rows = Part(np.array([1]), np.array([[8.0, 4.0, 2.0]]))  # twice the row (2, 1), of class 1 of 2
        >>> hold(rows, np.array([0.0, 1.0])).error(np.array([[0.0, 0.25], [0.0, 0.0]]))
        0.5
    """
    share = weights[part.present]
    gram = share @ part.grams
    width = part.sums.shape[1]
    cross = np.zeros((width, len(weights)))
    cross[:, part.present] = (share[:, None] * part.sums).T
    return Held(upper_triangle(gram), cross, float(share @ part.counts))


def all_weights(sites: Sequence[SiteSums]) -> Array64:
    """(C,) w_k over all sites, each row counting once whatever weight its site has in a fit."""
    return class_weights(np.sum([site.counts for site in sites], axis=0))


def judging_weights(sites: Sequence[SiteSums]) -> Array64:
    """(C,) what a held-out row of every class counts where λ, τ and κ are chosen: patients / rows.

    With w_k a class of four images would decide as much as one of hundreds, and with the noise of four: on
    blood cells basophils alone drove λ to 1, at a cost of 0.1 balanced accuracy.
    """
    patients = np.sum([site.patients for site in sites], axis=0)
    rows = np.sum([site.counts for site in sites], axis=0)
    weights: Array64 = class_weights(rows) * patients
    return weights


def fold_constant(sites: Sequence[SiteSums], judge: Array64) -> float:
    """Error of a head of zeros on everything that can be held out, a row of class k counting judge_k."""
    total = 0.0
    for site in sites:
        for fold in site.folds:
            part = site.fold(fold)
            total += float(judge[part.present] @ part.counts)
    return total


def normal_without(sites: Sequence[SiteSums], weights: Mapping[str, float], *without: str) -> Normal:
    """Normal equations of the head that has not seen the sites in `without`; nor any of weight 0."""
    parts = [
        (weights[site.site], site.total)
        for site in sites
        if site.site not in without and site.blocks and weights[site.site] > 0
    ]
    return normal_equations(parts, sites[0].classes, sites[0].width)


def normal_without_fold(sites: Sequence[SiteSums], weights: Mapping[str, float], fold: int) -> Normal:
    """Normal equations of the head that has not seen one fold of any site."""
    parts = [
        (weights[site.site], site.without(fold) if fold in site.folds else site.total)
        for site in sites
        if site.blocks and weights[site.site] > 0
    ]
    return normal_equations(parts, sites[0].classes, sites[0].width)


def site_errors(
    sites: Sequence[SiteSums], weights: Mapping[str, float], ridges: Sequence[float]
) -> dict[str, Array64]:
    """Leave one site out: site → (R,) its error at every ridge under the head fitted without it.

    Rows of a class that no other site has are left out: nothing in the fit could know them. A site of which
    nothing is left is not in the answer.
    """
    every = all_weights(sites)
    errors = {}
    for site in sites:
        if not site.blocks:
            continue
        normal = normal_without(sites, weights, site.site)
        known = np.where(normal.counts > 0, every, 0.0)
        if not known[site.total.present].any():
            continue
        held = hold(site.total, known)
        errors[site.site] = held.errors(normal.heads(ridges))
    return errors


def fold_errors(
    sites: Sequence[SiteSums],
    weights: Mapping[str, float],
    ridges: Sequence[float],
    judge: Array64,
    *,
    bounded: bool = False,
) -> dict[int, Array64]:
    """Hold one fold of every site out at once: fold → (R,) error at every ridge; empty without folds.

    Args:
        judge: (C,) what a held-out row of every class counts.
        bounded: A site's fold counts at most `Held.strange`.
    """
    errors = {}
    for fold in sorted({fold for site in sites for fold in site.folds}):
        normal = normal_without_fold(sites, weights, fold)
        heads = normal.heads(ridges)
        total = np.zeros(len(ridges))
        for site in sites:
            if fold in site.folds:
                held = hold(site.fold(fold), judge)
                found = held.errors(heads)
                total += np.minimum(found, held.strange) if bounded else found
        errors[fold] = total
    return errors
