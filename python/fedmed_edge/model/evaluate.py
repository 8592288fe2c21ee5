"""What the stored sums tell about a federation, with no image and no site online. Source: method §4."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedmed_edge.model.distance import SiteMap, site_map
from fedmed_edge.model.heldout import (
    Held,
    all_weights,
    fold_constant,
    fold_errors,
    hold,
    normal_without,
)
from fedmed_edge.model.posterior import Moments, Posterior, expected_recall, gaussians
from fedmed_edge.model.rebuild import Ridge, rebuild
from fedmed_edge.model.solve import on_one_thread
from fedmed_edge.model.sums import SiteSums, in_order, read_sums
from fedmed_edge.model.suspects import stand_out
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import Array64

__all__ = ["Evaluation", "SiteEvaluation", "evaluate"]


@dataclass(frozen=True)
class SiteEvaluation:
    """One site, judged by heads that have not seen it.

    Attributes:
        images: Images in its image statistics.
        rows: Labelled rows.
        error: Exact squared error of the head fitted without it, Σ_k w_k Σ ‖zH − e_k‖²; None without labels.
        relative_error: The same as a share of the error of a head of zeros: 0 is perfect, 1 knows nothing.
        expected_recall: Mean over its classes of the share that would be answered rightly, were scores
            Gaussian: a proxy for balanced accuracy at a hospital like this one that has not contributed.
        worth: By how much the other sites' held-out errors would rise, in sum, were this site not there;
            negative where it harms them.
        mean_distance: Mean squared Mahalanobis distance of its images to the generation's reference.
    """

    images: int
    rows: int
    error: float | None
    relative_error: float | None
    expected_recall: float | None
    worth: float | None
    mean_distance: float | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` finds.

    Attributes:
        sites: By site name, in order.
        model: Digest of the global model that `rebuild` makes of the same contributions and ridge.
        ridge: λ of all fits.
        fold_error: Relative error over the folds of all sites, each held out at once: how the global model
            does at hospitals that it knows; None without folds.
        site_map: Distances, map and tree of the sites that have image statistics; None where none has.
        known_threshold: As in the model.
        stands_out: Sites whose sums are unlike all others', and how (`suspects.stand_out`).
    """

    sites: Mapping[str, SiteEvaluation]
    model: str
    ridge: float
    fold_error: float | None
    site_map: SiteMap | None = field(repr=False)
    known_threshold: float | None
    stands_out: Mapping[str, str] = field(default_factory=dict)


@on_one_thread
def evaluate(contributions: Collection[Contribution], recipe: Recipe, *, ridge: Ridge = "auto") -> Evaluation:
    """Leave every site out, weigh what it is worth to the others, and measure how far sites are apart.

    S sites cost about S²/2 solves.

    Args:
        contributions: One a site, as for `rebuild`.
        ridge: λ, as for `rebuild`.

    Raises:
        InputError: As `rebuild`.

    Source: method §4.

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
        >>> found = evaluate(made, recipe)
        >>> list(found.sites), found.sites["alpha"].relative_error < 0.5
        (['alpha', 'beta'], True)
    """
    ordered = in_order(contributions, recipe)
    sites = read_sums(ordered, recipe)
    model = rebuild(ordered, recipe, ridge=ridge)
    weights = dict.fromkeys(model.sites, 1.0)
    every, labelled = all_weights(sites), [site for site in sites if site.blocks]
    left_out = labelled if len(labelled) > 1 else []
    held = {site.site: hold(site.total, every) for site in left_out}
    heads = {name: normal_without(sites, weights, name).head(model.ridge) for name in held}
    worth = _worth(sites, weights, model.ridge, heads, held)
    folds = fold_errors(sites, weights, [model.ridge], every)
    judged = {
        site.site: _judge(
            one, site, heads.get(site.site), held.get(site.site), worth.get(site.site), model.posterior
        )
        for one, site in zip(ordered, sites, strict=True)
    }
    return Evaluation(
        sites=judged,
        model=model.digest,
        ridge=model.ridge,
        fold_error=float(np.sum(list(folds.values())) / fold_constant(sites, every)) if folds else None,
        site_map=_map_or_none(ordered),
        known_threshold=model.known_threshold,
        stands_out=stand_out(sites),
    )


def _worth(
    sites: Sequence[SiteSums],
    weights: Mapping[str, float],
    ridge: float,
    heads: Mapping[str, Array64],
    held: Mapping[str, Held],
) -> dict[str, float]:
    names = list(held)
    worth = dict.fromkeys(names, 0.0)
    for place, one in enumerate(names):
        for two in names[place + 1 :]:
            head = normal_without(sites, weights, one, two).head(ridge)
            worth[one] += held[two].error(head) - held[two].error(heads[two])
            worth[two] += held[one].error(head) - held[one].error(heads[one])
    return worth


def _judge(
    contribution: Contribution,
    site: SiteSums,
    head: Array64 | None,
    held: Held | None,
    worth: float | None,
    posterior: Posterior,
) -> SiteEvaluation:
    statistics = contribution.statistics
    assert statistics is not None  # `in_order` left the others out
    distances = statistics.distance_moments
    error = relative = recall = None
    if head is not None and held is not None:
        error = held.error(head)
        relative, recall = error / held.constant, _recall(site, head, posterior)
    return SiteEvaluation(
        images=statistics.images,
        rows=int(site.counts.sum()),
        error=error,
        relative_error=relative,
        expected_recall=recall,
        worth=worth,
        mean_distance=float(distances[1] / distances[0]) if distances[0] > 0 else None,
    )


def _recall(site: SiteSums, head: Array64, posterior: Posterior) -> float:
    moments = Moments.zeros(site.counts, posterior.priors)
    moments.add(head, site.total, 1.0)
    scores = gaussians(moments, posterior.priors, np.ones(site.classes))
    return float(np.nanmean(expected_recall(posterior, scores)))


def _map_or_none(ordered: Collection[Contribution]) -> SiteMap | None:
    seen = [one for one in ordered if "images" in one.header.parts]
    return site_map(seen) if seen else None
