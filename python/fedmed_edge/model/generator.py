"""A learned generator of refined models: a site's pooled sums and style in, site weights and ridge out.

One log-linear layer, shared by all pairs of sites: log a_{s→j} = θ · x_{sj}, rows of j itself weigh exp κ,
and λ_j = λ · exp(φ · y_j). Nought is the global model; x holds d(s, j)², so the τ rule is one of its points.
There are as many episodes as sites, a handful: a network with more to learn learns them by heart. So this one
is held near the global model by a penalty, trained on other sites than it is judged at, and used only where
it does better there than the rule. Source: method §5.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedmed_edge.kernels import diagonal_positions
from fedmed_edge.model.distance import SiteMap
from fedmed_edge.model.episodes import Episode, Federation, look, moved_ridge
from fedmed_edge.model.heldout import hold, judging_weights
from fedmed_edge.model.mix import class_mix
from fedmed_edge.model.sums import SiteSums, class_weights
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import Array64, last_column
from fedmed_edge.words import counted

__all__ = ["FARTHEST_LOG", "Generated", "federation_of", "generate", "minimise", "train"]

PENALTIES = {True: 1e-2, False: 1e-1}
"""What a parameter of size 1 costs, as a share of the global model's held-out error: for a site with labels,
and for one without. How a head does at a scanner that it knows nothing of says less about the next one."""

INPUTS = ("distance", "style", "mean", "mix", "size", "own")
"""What x holds: d², style, mean row beside what the mix of j makes of it, mix, log rows; 1 for own rows."""

LEARNED_FROM = 8
"""Sites whose episodes are learned from: the nearest."""

FOLDS = 2
"""Folds of each of them that are held out in turn, at most."""

GROUPS = 4
"""Trainings that judge the generator where the site itself cannot."""

FARTHEST_LOG = 200.0
"""Most that |log a| comes to. A site far from all others would run over, or be left with nothing at all."""

_OWN = len(INPUTS) - 1
_PARAMETERS = len(INPUTS) + 2
_STEPS = 30


@dataclass(frozen=True, eq=False)
class Generated:
    """What the generator makes for a site, and how it did where it had not learned.

    Attributes:
        weights: a_{s→j} of every labelled site, j's own with them if it has labels.
        ridge: λ_j.
        parameters: (θ, κ, φ), by name.
        errors: Unit → held-out error, and that of the global weights beside it. Units are the folds of j, or
            where it has none other sites, by name; then both are shares of the global one.
    """

    weights: Mapping[str, float]
    ridge: float
    parameters: Mapping[str, float]
    errors: Mapping[str, tuple[float, float]] = field(repr=False)


def federation_of(
    contributions: Collection[Contribution], sites: Sequence[SiteSums], between: SiteMap, ridge: float
) -> Federation:
    """Labelled sums and unlabelled looks of all sites that have any rows."""
    looks = {one.header.site: found for one in contributions if (found := look(one)) is not None}
    return Federation([site for site in sites if site.blocks], between, looks, ridge)


def generate(federation: Federation, name: str) -> Generated | str:
    """Train on the episodes of other sites, generate for one, and judge.

    A site with folds is judged on them: none of its labels was learned from. For any other, the others are
    judged in its place, each by parameters that did not learn from its errors.

    Args:
        name: Of the site; it may have labelled or unlabelled images.

    Returns:
        What was generated, or in words why nothing was.
    """
    own = next((site for site in federation.sites if site.site == name), None)
    labels, others = own is not None, _nearest(federation, name)
    if name not in federation.looks:
        return "the site has handed over no sums of its rows"
    usable = [site for site in others if not labels or len(federation.site(site).folds) > 1]
    judged_itself = own is not None and len(own.folds) > 1
    least = (2 if labels else 3) + (0 if judged_itself else 1)
    if len(usable) < least:
        return f"{counted(len(usable), 'other site')} can be learned from, {least} are needed"
    unseen = federation.without(name)
    learned = {one: _episodes(unseen, one, labels=labels)[:FOLDS] for one in usable}
    learned = {one: own for one, own in learned.items() if _scale(own) > 0.0}
    if len(learned) < least:
        return f"{counted(len(learned), 'other site')} had errors to learn from, {least} are needed"
    parameters = train(list(learned.values()), PENALTIES[labels])
    if own is not None and judged_itself:
        errors = {
            f"fold {fold}": (one.error(parameters), one.error(np.zeros(_PARAMETERS)))
            for fold, one in zip(own.folds, _episodes(federation, name, labels=True), strict=True)
        }
    else:
        errors = _judged_elsewhere(learned, PENALTIES[labels])
    inputs, y = _inputs(federation, name, own=own)
    logs = np.clip(inputs @ parameters[: len(INPUTS)], -FARTHEST_LOG, FARTHEST_LOG)
    names = [site.site for site in federation.sites if site.site != name]
    weights = dict(zip(names, np.exp(logs).tolist(), strict=True))
    if labels:
        weights[name] = float(np.exp(parameters[_OWN]))
    return Generated(
        weights,
        moved_ridge(federation.ridge, float(y @ parameters[len(INPUTS) :])),
        dict(zip((*INPUTS, "ridge", "ridge by distance"), parameters.tolist(), strict=True)),
        errors,
    )


def _nearest(federation: Federation, name: str) -> list[str]:
    between = federation.between
    far = dict(zip(between.sites, between.distances[between.sites.index(name)].tolist(), strict=True))
    others = [site.site for site in federation.sites if site.site != name and site.site in federation.looks]
    return sorted(sorted(others, key=lambda one: (far[one], one))[:LEARNED_FROM])


def _judged_elsewhere(
    learned: Mapping[str, Sequence[Episode]], penalty: float
) -> dict[str, tuple[float, float]]:
    """Every site judged by parameters that did not learn from its errors, as τ is in the rule."""
    errors, names = {}, list(learned)
    for group in (names[first::GROUPS] for first in range(min(GROUPS, len(names)))):
        parameters = train([learned[one] for one in names if one not in group], penalty)
        for one in group:
            errors[one] = (sum(e.error(parameters) for e in learned[one]) / _scale(learned[one]), 1.0)
    return dict(sorted(errors.items()))


def _episodes(federation: Federation, name: str, *, labels: bool) -> list[Episode]:
    """Site `name` as if it had just come, its labels seen but for one fold, or not at all."""
    own = federation.site(name)
    others = [site.total for site in federation.sites if site.site != name]
    inputs, y = _inputs(federation, name, own=own if labels else None)
    judge = judging_weights([own])
    if not labels:
        known = np.isin(np.arange(own.classes), np.concatenate([part.present for part in others]))
        held = hold(own.total, np.where(known, judge, 0.0))
        return [Episode(others, inputs, y, held, federation.ridge)]
    inputs = np.vstack([inputs, np.eye(len(INPUTS))[_OWN]])
    return [
        Episode([*others, own.without(fold)], inputs, y, hold(own.fold(fold), judge), federation.ridge)
        for fold in own.folds
    ]


def _inputs(federation: Federation, name: str, *, own: SiteSums | None) -> tuple[Array64, Array64]:
    """Inputs x (S, inputs) of every other labelled site, and y (2,) of the site itself: 1, and how far it is.

    Args:
        own: Its labelled sums; None: it is known without its labels, and its mix of classes is solved for.
    """
    others = [site for site in federation.sites if site.site != name]
    between, mean = federation.between, federation.looks[name].mean
    if own is not None:
        mix = own.counts / own.counts.sum()
    else:
        mix = class_mix(others, dict.fromkeys((one.site for one in others), 1.0), federation.ridge, mean)
    totals = np.sum([site.counts for site in others], axis=0)
    pooled, spread = _class_means(others, totals), _spread(others)
    pairs = between.distances[np.triu_indices(len(between.sites), 1)]
    at = [between.sites.index(site.site) for site in others]
    x = np.zeros((len(others), len(INPUTS)))
    x[:, 0] = (between.distances[between.sites.index(name), at] / (np.median(pairs) or 1.0)) ** 2
    x[:, 1] = _style_distances(federation, name, [site.site for site in others])
    for row, site in zip(x, others, strict=True):
        means = pooled.copy()
        means[site.total.present] = site.total.sums / site.total.counts[:, None]
        row[2] = float(np.sum((mean - mix @ means) ** 2)) / spread
        row[3] = 1.0 - float(np.sqrt(mix * site.counts / site.counts.sum()).sum())
        row[4] = float(np.log(site.counts.sum()))
    x[:, 4] -= x[:, 4].mean()
    return x, np.array([1.0, float(x[:, 0].mean()) - 1.0])


def _class_means(sites: Sequence[SiteSums], totals: Array64) -> Array64:
    sums = np.zeros((len(totals), sites[0].width))
    for site in sites:
        sums[site.total.present] += site.total.sums
    return sums * class_weights(totals)[:, None]


def _spread(sites: Sequence[SiteSums]) -> float:
    """Mean squared distance of a row from the mean of all."""
    width = sites[0].width
    gram = np.sum([site.total.grams.sum(axis=0) for site in sites], axis=0)
    mean = gram[last_column(width)] / gram[-1]
    return float(gram[diagonal_positions(width)].sum() / gram[-1] - mean @ mean) or 1.0


def _style_distances(federation: Federation, name: str, others: Sequence[str]) -> Array64:
    """(S,) squared distances of styles over their mean between all sites; 0 where a style is missing."""
    styles = {one: found.style for one, found in federation.looks.items() if found.style is not None}
    if name not in styles or len(styles) < 2:
        return np.zeros(len(others))
    table = np.stack(list(styles.values()))
    scale = 2.0 * float(table.var(axis=0).sum()) * len(table) / (len(table) - 1) or 1.0
    return np.array(
        [float(np.sum((styles[name] - styles[one]) ** 2)) / scale if one in styles else 0.0 for one in others]
    )


def _scale(episodes: Sequence[Episode]) -> float:
    """Held-out error of the global weights: 0 where nothing is held out, or nothing is wrong."""
    return sum(one.error(np.zeros(_PARAMETERS)) for one in episodes)


def train(episodes: Sequence[Sequence[Episode]], penalty: float) -> Array64:
    """Parameters of the least mean held-out error; each site counts alike, each error as a share of nought's.

    Args:
        episodes: By site.
        penalty: As of `PENALTIES`.
    """
    nought = np.zeros(_PARAMETERS)
    scales = [_scale(own) * len(episodes) for own in episodes]

    def objective(parameters: Array64) -> tuple[float, Array64]:
        value, slope = penalty * float(parameters @ parameters), 2.0 * penalty * parameters
        for own, scale in zip(episodes, scales, strict=True):
            for one in own:
                loss, gradient = one.loss(parameters)
                value, slope = value + loss / scale, slope + gradient / scale
        return value, slope

    return minimise(objective, nought)


def minimise(objective: Callable[[Array64], tuple[float, Array64]], start: Array64) -> Array64:
    """BFGS with backtracking, at most 30 steps: the same numbers every time.

    Args:
        objective: Point → value and gradient.

    Example:
        >>> minimise(lambda x: (float((x - 3) @ (x - 3)), 2 * (x - 3)), np.zeros(2)).round(6)
        array([3., 3.])
    """
    point, (value, slope) = start, objective(start)
    inverse = np.eye(len(start)) / max(float(np.linalg.norm(slope)), 1.0)
    for _ in range(_STEPS):
        step, length = -inverse @ slope, 1.0
        there = point + step
        found, gradient = objective(there)
        while found > value + 1e-4 * length * float(slope @ step):
            length /= 2.0
            if length < 1e-3:
                return point
            there = point + length * step
            found, gradient = objective(there)
        moved, turned, gained = there - point, gradient - slope, value - found
        point, value, slope = there, found, gradient
        if gained < 1e-4 * abs(value):
            break
        curve = float(moved @ turned)
        if curve > 0.0:
            left = np.eye(len(start)) - np.outer(moved, turned) / curve
            inverse = left @ inverse @ left.T + np.outer(moved, moved) / curve
    return point
