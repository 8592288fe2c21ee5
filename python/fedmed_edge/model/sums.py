"""Contributions as the sums that a fit needs: classes in the recipe's order, sites in order of name."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.model.solve import solve_ridge, solve_ridges
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import (
    REST,
    Array64,
    Counts,
    FeatureStatistics,
    last_column,
    width_of,
)
from fedmed_edge.statistics.privacy import released_deviation

__all__ = [
    "Normal",
    "Part",
    "SiteSums",
    "Weighted",
    "class_weights",
    "normal_equations",
    "read_sums",
    "site_sums",
]


@dataclass(frozen=True, eq=False)
class Part:
    """Packed Grams of the classes that some rows have.

    Attributes:
        present: (k,) their places in the recipe, rising.
        grams: (k, P) float64.
        shifts: (P,) packed Gram of the differences to shifted views, times ν, their number last; None where
            there are no views.
    """

    present: npt.NDArray[np.intp]
    grams: Array64 = field(repr=False)
    shifts: Array64 | None = field(default=None, repr=False)

    @property
    def counts(self) -> Array64:
        """(k,) rows of every present class."""
        return self.grams[:, -1]

    @property
    def sums(self) -> Array64:
        """(k, D) sums of the rows of every present class."""
        return self.grams[:, last_column(width_of(self.grams.shape[1]))]


Weighted = tuple[float, Part]
"""Some rows and the weight that each of them has in a fit."""


@dataclass(frozen=True, eq=False)
class SiteSums:
    """One site's class statistics, C classes in the recipe's order, rows of width D.

    Attributes:
        blocks: (fold, class) → packed Gram (P,); fold `REST` is never held out.
        patients: (C,) int64.
        noise: Standard deviation of the noise, as the site says (`privacy.released_deviation`); 0 without.
        shifts: As of `Part`: of all images of the site.
    """

    site: str
    classes: int
    width: int
    blocks: Mapping[tuple[int, int], Array64] = field(repr=False)
    patients: Counts
    noise: float = 0.0
    shifts: Array64 | None = field(default=None, repr=False)

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds that can be held out."""
        return tuple(sorted({fold for fold, _ in self.blocks if fold != REST}))

    @cached_property
    def total(self) -> Part:
        """All labelled rows."""
        return self._part(self.blocks)

    @cached_property
    def counts(self) -> Array64:
        """(C,) labelled rows of every class."""
        counts = np.zeros(self.classes)
        counts[self.total.present] = self.total.counts
        return counts

    def fold(self, number: int) -> Part:
        """The rows of one fold."""
        return self._part(key for key in self.blocks if key[0] == number)

    def without(self, number: int) -> Part:
        """All rows but those of one fold."""
        return self._part(key for key in self.blocks if key[0] != number)

    def _part(self, keys: Iterable[tuple[int, int]]) -> Part:
        ordered = sorted(keys, key=lambda key: (key[1], key[0]))
        present = sorted({index for _, index in ordered})
        grams = np.zeros((len(present), self.width * (self.width + 1) // 2))
        for key in ordered:
            grams[present.index(key[1])] += self.blocks[key]
        return Part(np.array(present, np.intp), grams, self.shifts)


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations of one fit: any number of ridges can be solved from them.

    Attributes:
        gram: (P,) Σ_s a_s Σ_k w_k class_grams, and the penalty of `shift_penalty`.
        targets: (D, C) Σ_s a_s Σ_k w_k class_sumsᵀ e_k.
        counts: (C,) Σ_s a_s N_{s,k}.
    """

    gram: Array64 = field(repr=False)
    targets: Array64 = field(repr=False)
    counts: Array64

    def head(self, ridge: float) -> Array64:
        """Head H (D, C) at ridge λ."""
        return solve_ridge(self.gram, self.targets, ridge)

    def heads(self, ridges: Sequence[float]) -> Array64:
        """Heads (R, D, C) at several ridges."""
        return solve_ridges(self.gram, self.targets, ridges)


def class_weights(counts: Array64) -> Array64:
    """w_k = 1 / count, 0 for a class without rows; (C,).

    Source: method §3.

    Example:
        >>> class_weights(np.array([4.0, 0.0]))
        array([0.25, 0.  ])
    """
    return np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)


def normal_equations(parts: Sequence[Weighted], classes: int, width: int) -> Normal:
    """Sum G and B over the parts, in their order; w_k over exactly these parts.

    Args:
        parts: Pairs of site weight a_s ≥ 0 and rows.
        classes: C.
        width: D.

    Source: method §3.
    """
    counts = np.zeros(classes)
    for weight, part in parts:
        counts[part.present] += weight * part.counts
    balance = class_weights(counts)
    gram, targets = np.zeros(width * (width + 1) // 2), np.zeros((width, classes))
    for weight, part in parts:
        share = weight * balance[part.present]
        gram += share @ part.grams
        targets[:, part.present] += (share[:, None] * part.sums).T
    penalty = shift_penalty(parts)
    if penalty is not None:
        gram += np.count_nonzero(balance) * penalty
    return Normal(gram, targets, counts)


def shift_penalty(parts: Sequence[Weighted]) -> Array64 | None:
    """(P,) ν V, V = Σ_s ΔᵀΔ / Σ_s M_s over the M_s differences of every site's rows to shifted views.

    Added once for each class of the fit, whose rows count as one together, it is ν times the squared change
    of a score from a row to its view: ν tr(Hᵀ V H) for a head H. It does not hang on the weights of sites
    above 0, since how scores should not change is no matter of whom they are for. None where no site has
    views.
    """
    held = [part.shifts for weight, part in parts if weight > 0 and part.shifts is not None]
    if not held:
        return None
    total: Array64 = np.sum(held, axis=0)
    count = float(total[-1])
    total[last_column(width_of(len(total)))] = 0.0
    return total / count


def read_sums(contributions: Collection[Contribution], recipe: Recipe) -> list[SiteSums]:
    """The class statistics of every contribution that has any part of them, in order of site name.

    A site with unlabelled images only is there too, without blocks; one that handed over no sums is not.

    Raises:
        InputError: Two contributions of one site, another recipe or generation among them, a class that the
            recipe does not have, rows of different width, or no contribution at all.
    """
    ordered = in_order(contributions, recipe)
    return [_aligned(contribution, recipe) for contribution in ordered]


def in_order(contributions: Collection[Contribution], recipe: Recipe) -> list[Contribution]:
    """Contributions that have statistics, checked against each other and sorted by site name.

    Raises:
        InputError: As `read_sums`.
    """
    ordered = sorted(
        (one for one in contributions if one.statistics is not None), key=lambda one: one.header.site
    )
    if not ordered:
        raise InputError("rebuild: there is no contribution with statistics, expected at least one")
    first = ordered[0]
    for before, one in pairwise(ordered):
        if before.header.site == one.header.site:
            raise InputError(f"rebuild: site `{one.header.site}` has two contributions, expected one")
    for one in ordered:
        _same(one, "recipe", one.header.recipe[:12], recipe.digest[:12])
        _same(one, "generation", one.header.generation[:12], first.header.generation[:12])
        _same(one, "row_dim", _width(one), _width(first))
    return ordered


def _same(contribution: Contribution, name: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise InputError(
            f"rebuild: contribution of `{contribution.header.site}`: `{name}` has {got}, expected {wanted}"
        )


def _width(contribution: Contribution) -> int:
    return contribution.statistics.row_dim if contribution.statistics is not None else 0


def _aligned(contribution: Contribution, recipe: Recipe) -> SiteSums:
    assert contribution.statistics is not None  # `in_order` left the others out
    header = contribution.header
    sums = site_sums(header.site, contribution.statistics, recipe, labelled="classes" in header.parts)
    if header.privacy is None:
        return sums
    return replace(sums, noise=released_deviation(header.privacy, header.kind, len(header.classes)))


def site_sums(site: str, statistics: FeatureStatistics, recipe: Recipe, *, labelled: bool = True) -> SiteSums:
    """One site's class statistics in the recipe's order of classes; `labelled=False` leaves out its blocks.

    Raises:
        InputError: A class that the recipe does not have.
    """
    unknown = [name for name in statistics.classes if name not in recipe.classes]
    if unknown:
        raise InputError(
            f"rebuild: contribution of `{site}`: class `{unknown[0]}` is not in the recipe `{recipe.name}`"
        )
    place = [recipe.classes.index(name) for name in statistics.classes]
    patients = np.zeros(len(recipe.classes), np.int64)
    patients[place] = statistics.patients
    blocks = {
        (fold, place[index]): block
        for (fold, index), block in statistics.blocks.items()
        if labelled and block[-1] > 0  # a block of no rows is no class
    }
    shifts = None
    if statistics.shift_gram[-1] and recipe.training.invariance:
        shifts = statistics.shift_gram * recipe.training.invariance
        shifts[-1] = statistics.shift_gram[-1]
    return SiteSums(site, len(recipe.classes), statistics.row_dim, blocks, patients, shifts=shifts)
