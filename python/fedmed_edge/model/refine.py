"""One site's model: the stored sums again, sites like it weighing more. Source: method §5.

Two ways lead to the weights: the rule of τ and κ here, and the learned `generator`. Each is judged where it
has not been chosen or trained, and the better of both is taken: for a site with labels unless what is held
out is clearly against it, for one without only where that is for it. Else the global model stays.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.model.distance import SiteMap, site_map
from fedmed_edge.model.generator import FARTHEST_LOG, Generated, federation_of, generate
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.heldout import hold, judging_weights, normal_without
from fedmed_edge.model.mix import site_priors
from fedmed_edge.model.rebuild import Ridge, rebuild
from fedmed_edge.model.solve import on_one_thread
from fedmed_edge.model.sums import Part, SiteSums, in_order, normal_equations, read_sums
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import Array64

log = logging.getLogger(__name__)

REACHES = (float("inf"), 2.0, 1.0, 0.5)
"""τ that are tried, in medians of the distances between sites; the first is that of the global model."""

EMPHASES = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
"""κ that are tried; the first is that of the global model."""

USUAL = 4.0
"""κ that did well where a hospital joined with rows of every class (models/README.md)."""

LEAST_GAIN = 1e-3
"""Share of its held-out error that the global model must be beaten by, where nothing is usual."""

SLACK = 2.0
"""Standard errors by which few held-out patients must speak against what did well elsewhere."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Held-out errors of every τ and κ.

    Attributes:
        errors: (units, T, K) of one site by fold, or of several by site; [:, 0, 0] is the global model.
        unit: What was held out: `fold` or `site`.
        names: Of the units, as `Generated.errors` has them; none where it has no such units.
        doubts: (T, K) how far every τ and κ is from what is usual (`_doubts`), as a share of the global
            error; None where nothing is usual, as without labels.
    """

    errors: Array64 = field(repr=False)
    unit: str
    names: tuple[str, ...] = ()
    doubts: Array64 | None = field(default=None, repr=False)

    def best(self) -> tuple[int, int]:
        """Places of τ and κ of the least error and doubt together; of equal ones the first."""
        return self._least(self.errors)

    def judged(self) -> Array64:
        """(units, 2) error of the rule on every unit, τ and κ chosen by the others alone; the global one."""
        chosen = [
            (errors[self._least(np.delete(self.errors, unit, axis=0))], errors[0, 0])
            for unit, errors in enumerate(self.errors)
        ]
        return np.array(chosen).reshape(-1, 2)

    def refuse(self, gained: float, error: float) -> bool:
        """Whether held-out errors, of this gain and standard error, are against a refined model.

        Where one is usual they must say so clearly; where none is, they must be for it.
        """
        return gained < (LEAST_GAIN if self.doubts is None else -SLACK * error)

    def _least(self, errors: Array64) -> tuple[int, int]:
        share = _shares(errors.sum(axis=0))
        place = int((share if self.doubts is None else share + self.doubts).argmin())
        return place // errors.shape[2], place % errors.shape[2]


def _shares(errors: Array64) -> Array64:
    """(T, K) errors as shares of the global model's; as they are where it has none."""
    scale = float(errors[0, 0])
    return errors / scale if scale > 0.0 else errors


def _doubts(sites: Sequence[SiteSums], own: SiteSums) -> Array64:
    """(T, K) squared steps from τ = ∞ and the usual κ, over the site's patients, who could tell better.

    A step is the next τ, or twice κ. The usual κ is `USUAL` to the power of the share of all sites' classes
    that the site has: where it lacks some, its scanner would be taken for those that it has.
    """
    share = np.count_nonzero(own.counts) / np.count_nonzero(np.sum([site.counts for site in sites], axis=0))
    steps = np.arange(len(REACHES))[:, None] ** 2 + (np.log2(EMPHASES) - share * np.log2(USUAL)) ** 2
    doubts: Array64 = steps / max(int(own.patients.sum()), 1)
    return doubts


def gain(judged: Array64) -> tuple[float, float]:
    """By how much an error is lower than the global one, in the mean over units; and the standard error.

    Both are shares of the mean global error.

    Args:
        judged: (units, 2) error, and the global one.

    Example:
        >>> gain(np.array([[0.9, 1.0], [0.8, 1.0]]))
        (0.15, 0.05)
    """
    if len(judged) < 2 or (scale := float(judged[:, 1].mean())) <= 0.0:
        return 0.0, 0.0
    gains = judged[:, 1] - judged[:, 0]
    mean, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return round(mean / scale, 12), round(error / scale, 12)


@on_one_thread
def refine(
    contributions: Collection[Contribution],
    site: str,
    recipe: Recipe,
    *,
    trained_by: Collection[str] = (),
    ridge: Ridge = "auto",
) -> GlobalModel:
    """The model for one site: a_{s→j} = exp(−d(s, j)² / τ²), its own rows weighing κ.

    τ and κ are chosen by the squared error on j's own sums, held out by fold, a class counting as many
    patients as it has, and by what did well elsewhere, which counts the more the fewer patients j has
    (`_doubts`); where j has no folds they come from the other sites' folds, and without any from that alone;
    where j has no labels, τ comes from leaving each other site out while only the rest stands in for it. λ
    stays that of the global model. `generator` makes weights and λ otherwise, learned from the other sites'
    episodes.

    The generator is taken where it is better than the rule on what was held out, and either is kept unless
    the global model is clearly better there; for a site without labels it must itself be better. The rule is
    judged with τ and κ chosen by the other units alone, the generator trained without them. A site that
    handed over no image statistics, as with noise, counts as one at median distance. Where the recipe's
    priors are not `uniform`, a refined model takes the shares of the classes from the site (`site_priors`).

    Args:
        site: Name of j; it may have labelled or unlabelled images.
        trained_by: Sites whose images the backbone learned from, as the generation's header names them. Its
            features fit those images better than new ones, so that rows held out there are no news: such a
            site with labels keeps the global model, and its folds choose τ and κ for nobody else. The
            generator learns from them all the same, and for sites without labels it is left out as any other.
        ridge: λ of the global model, which the refined one shares.

    Raises:
        InputError: As `rebuild`; j has no contribution, or one without image statistics.

    Source: method §5.

    Example:
        >>> from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
        >>> from fedmed_edge.statistics.contribution import new_contribution
        >>> recipe = Recipe(name="r", kind="classification", classes=("low", "high"))
        >>> made = []
        >>> for site, shift in (("alpha", 0.0), ("beta", 0.5)):
        ...     plan = plan_folds({0: {"ann", "bob"}, 1: {"ann", "bob"}}, min_cohort=1)
        ...     sums = Accumulator(recipe.classes, row_dim=2, feature_dim=1, plan=plan)
        ...     for step, patient in enumerate(("ann", "bob")):
        ...         rows = np.array([[step + shift, 1], [step + 4 + shift, 1]], np.float32)
        ...         sums.add_rows(rows, np.array([0, 1], np.int32), patient)
        ...         sums.add_image(rows[0, :1])
        ...     settings = {"generation": "0" * 64, "recipe": recipe, "site": site, "min_cohort": 1}
        ...     made.append(new_contribution(sums.result(), sequence=1, **settings))
        >>> model = refine(made, "beta", recipe)
        >>> model.refined_for, model.kept, model.site_weights
        ('beta', 'refined', {'alpha': 1.0, 'beta': 4.0})
    """
    ordered = in_order(contributions, recipe)
    if site not in [one.header.site for one in ordered]:
        raise InputError(f"refine: site `{site}` has no contribution with statistics here")
    model = rebuild(ordered, recipe, ridge=ridge)
    sites = read_sums(ordered, recipe)
    between = _between_all(ordered, site)
    trials, chosen_by = _trials(sites, site, between, model.ridge, trained_by)
    if trials is None:
        return replace(model, refined_for=site, kept="global", reason=chosen_by)
    federation = federation_of(ordered, sites, between, model.ridge)
    way = _better(trials, generate(federation, site), between, site)
    figures = {**model.figures, "refine": _figures(trials, between, site) | way.figures}
    if way.weights is not None:
        priors = site_priors(federation, site) if recipe.priors != "uniform" else None
        ridge = way.ridge or model.ridge
        model = rebuild(ordered, recipe, ridge=ridge, site_weights=way.weights, priors=priors)
        figures["scores_from"] = model.figures["scores_from"]
    kept: Literal["global", "refined"] = "global" if way.weights is None else "refined"
    log.info("refined for one site: kept %s", kept)
    reason = f"{way.reason} ({chosen_by})"
    return replace(model, refined_for=site, kept=kept, reason=reason, figures=figures)


@dataclass(frozen=True, eq=False)
class Way:
    """What won: weights None is the global model, λ None the one of the global model."""

    weights: Mapping[str, float] | None
    ridge: float | None
    reason: str
    figures: dict[str, Any]


def _better(trials: Trials, generated: Generated | str, between: SiteMap, site: str) -> Way:
    """The better of rule and generator, or the global model, as `Trials.refuse` judges what was held out."""
    rule, judged = trials.judged(), np.empty((0, 2))
    if not isinstance(generated, str):
        both = [name for name in trials.names if name in generated.errors]
        if len(both) < 2:
            generated = "fewer than two of the sites that it was judged at choose here"
        else:
            rule = rule[[trials.names.index(name) for name in both]]
            judged = np.array([generated.errors[name] for name in both])
    (by_rule, error), (by_generator, spread) = gain(rule), gain(judged)
    figures: dict[str, Any] = {"by": "global", "gain": by_rule, "standard_error": error}
    told = f"held-out error changes by {_change(by_rule)} ± {_percent(error)} with the rule"
    if not len(rule):
        told = "nothing was held out"
    if isinstance(generated, str):
        told += f", no generator: {generated}"
    else:
        told += f", by {_change(by_generator)} ± {_percent(spread)} with the generator"
        if len(judged) < len(trials.names):
            told += f", both at {len(judged)} of the sites"
        parameters = dict(generated.parameters)
        figures["generator"] = {"gain": by_generator, "standard_error": spread, "parameters": parameters}
        if by_generator > by_rule and not trials.refuse(by_generator, spread):
            reason = f"{told}: refined by the generator"
            return Way(generated.weights, generated.ridge, reason, figures | {"by": "generator"})
    reach, emphasis = trials.best()
    if (reach, emphasis) != (0, 0) and not trials.refuse(by_rule, error):
        weights = site_weights(between, site, REACHES[reach], EMPHASES[emphasis])
        return Way(weights, None, f"{told}: refined by the rule", figures | {"by": "rule"})
    return Way(None, None, f"{told}: the global one stays", figures)


def _change(gain: float) -> str:
    """With its sign: below 0 is better than the global model."""
    return f"{round(-100 * gain, 2) + 0.0:+.2f} %"  # + 0.0: no change has no minus sign


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _between_all(ordered: Sequence[Contribution], site: str) -> SiteMap:
    """Distances between all sites; one without image statistics is at median distance from every other."""
    told = [one for one in ordered if one.header.site == site or "images" in one.header.parts]
    known, names = site_map(told), tuple(one.header.site for one in ordered)
    pairs = known.distances[np.triu_indices(len(known.sites), 1)]
    distances = np.full((len(names),) * 2, float(np.median(pairs)) if pairs.size else 0.0)
    at = [names.index(name) for name in known.sites]
    distances[np.ix_(at, at)] = known.distances
    np.fill_diagonal(distances, 0.0)
    return SiteMap(names, distances)


def site_weights(between: SiteMap, site: str, reach: float, emphasis: float) -> dict[str, float]:
    """a_{s→j} of every site for site j; log a is at least −`FARTHEST_LOG`.

    Args:
        reach: τ in medians of the distances between sites; infinite weighs all alike.
        emphasis: κ.

    Source: method §5.

    Example:
        >>> distances = np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> between = SiteMap(("a", "b"), distances)
        >>> {name: round(a, 3) for name, a in site_weights(between, "a", 1.0, 4.0).items()}
        {'a': 4.0, 'b': 0.368}
    """
    own = between.sites.index(site)
    pairs = between.distances[np.triu_indices(len(between.sites), 1)]
    scale = reach * float(np.median(pairs)) if pairs.size else 0.0
    weights = np.ones(len(between.sites))
    if 0.0 < scale < float("inf"):
        weights = np.exp(-np.minimum((between.distances[own] / scale) ** 2, FARTHEST_LOG))
    weights[own] = emphasis
    return dict(zip(between.sites, weights.tolist(), strict=True))


def _trials(
    sites: Sequence[SiteSums], name: str, between: SiteMap, ridge: float, trained_by: Collection[str]
) -> tuple[Trials | None, str]:
    """Held-out errors that choose for site `name`, or None, and in words what was held out or is lacking."""
    own = next(site for site in sites if site.site == name)
    labelled = [site for site in sites if site.blocks]
    if len(labelled) < 2 and own.blocks:
        return None, "no other site has labelled images"
    if own.blocks and name in trained_by:
        return None, "the backbone learned from the site's images, so that none of them can be held out"
    if own.blocks:
        return _labelled_trials(sites, own, between, ridge, trained_by)
    if len(labelled) < 3:
        return None, "the site has no labels, and fewer than three sites have any to choose by"
    errors, names = reach_trials(sites, labelled, between, ridge), tuple(one.site for one in labelled)
    return Trials(errors, "site", names), f"over {len(errors)} other sites, each left out"


def _labelled_trials(
    sites: Sequence[SiteSums], own: SiteSums, between: SiteMap, ridge: float, trained_by: Collection[str]
) -> tuple[Trials, str]:
    doubts = _doubts(sites, own)
    if len(own.folds) > 1:
        errors = fold_trials(sites, own, between, ridge)
        names = tuple(f"fold {fold}" for fold in own.folds)
        return Trials(errors, "fold", names, doubts), f"over {len(errors)} folds of the site"
    others = [site for site in sites if site is not own and len(site.folds) > 1]
    found = {
        one.site: fold_trials(sites, one, between, ridge) for one in others if one.site not in trained_by
    }
    if not found:
        nothing = np.zeros((0, len(REACHES), len(EMPHASES)))
        told = "the site has no folds to choose by, nor has any other that is new to the backbone"
        return Trials(nothing, "fold", doubts=doubts), told
    if len(found) == 1:
        (only,) = found.values()
        told = f"over {len(only)} folds of one other site"
        return Trials(only, "fold", doubts=doubts), told
    # Each site's error as a share of its own global one, so that a hard site does not choose for all.
    shares = np.stack([_shares(errors.sum(axis=0)) for errors in found.values()])
    return Trials(shares, "site", tuple(found), doubts), f"over the folds of {len(found)} other sites"


def fold_trials(sites: Sequence[SiteSums], own: SiteSums, between: SiteMap, ridge: float) -> Array64:
    """(folds, T, K) squared error on each fold of site `own`, for every τ and κ."""
    judge = judging_weights([own])
    held = [(own.without(fold), hold(own.fold(fold), judge)) for fold in own.folds]
    errors = np.zeros((len(held), len(REACHES), len(EMPHASES)))
    for row, reach in enumerate(REACHES):
        others = _pooled(sites, site_weights(between, own.site, reach, 1.0), own.site)
        for column, emphasis in enumerate(EMPHASES):
            for place, (kept, fold) in enumerate(held):
                parts = [(1.0, others), (emphasis, kept)]
                head = normal_equations(parts, own.classes, own.width).head(ridge)
                errors[place, row, column] = fold.error(head)
    return errors


def _pooled(sites: Sequence[SiteSums], weights: Mapping[str, float], without: str) -> Part:
    """Weighted sum of the Grams of all sites but one, class by class."""
    grams = np.zeros((sites[0].classes, sites[0].width * (sites[0].width + 1) // 2))
    others = [site for site in sites if site.site != without and site.blocks]
    for site in others:
        grams[site.total.present] += weights[site.site] * site.total.grams
    present = np.flatnonzero(grams[:, -1] > 0)
    shifts = [site.shifts for site in others if site.shifts is not None]
    return Part(present, grams[present], np.sum(shifts, axis=0) if shifts else None)


def reach_trials(
    sites: Sequence[SiteSums], labelled: Sequence[SiteSums], between: SiteMap, ridge: float
) -> Array64:
    """(sites, T, 1) error on each labelled site as a share of the global one, its own labels unseen."""
    errors = np.zeros((len(labelled), len(REACHES), 1))
    for place, site in enumerate(labelled):
        held = hold(site.total, judging_weights([site]))
        for row, reach in enumerate(REACHES):
            weights = site_weights(between, site.site, reach, 1.0)
            errors[place, row, 0] = held.error(normal_without(sites, weights, site.site).head(ridge))
    return np.stack([_shares(own) for own in errors])


def _figures(trials: Trials, between: SiteMap, site: str) -> dict[str, Any]:
    reach, emphasis = trials.best()
    own = between.sites.index(site)
    return {
        "tau": None if REACHES[reach] == float("inf") else REACHES[reach],
        "kappa": EMPHASES[emphasis],
        "unit": trials.unit,
        "units": len(trials.errors),
        "errors": _shares(trials.errors.sum(axis=0)).tolist() if len(trials.errors) else None,
        "distances": dict(zip(between.sites, between.distances[own].tolist(), strict=True)),
    }
