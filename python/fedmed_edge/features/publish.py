"""From trained weights to a generation: a draft first, completed by what the sites measured under it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import Weights
from fedmed_edge.generation import ROW_DIM_CAP, Architecture, Generation, GenerationHeader, shrink
from fedmed_edge.recipe import Recipe, parse_settings
from fedmed_edge.statistics.feature_statistics import FeatureStatistics, packed_length, unpack

__all__ = ["CONTRIBUTION_CAP", "complete_generation", "draft_generation"]

log = logging.getLogger(__name__)

CONTRIBUTION_CAP = 1 << 30
FOLDS = 5

# a channel that hardly moves is centred, not blown up
_FLAT = 1e-6

# what is left of a variance of 0 where it is a difference of squares
_ROUNDING = 1e-14

Float64 = npt.NDArray[np.float64]


def draft_generation(
    made: Architecture, backbone_weights: Weights, *, trained_by: Sequence[str] = (), seed: int = 0
) -> Generation:
    """A generation that leaves features as they are: no standardisation, no projection, no lift.

    Needs torch, to export the encoder.

    Args:
        made: Gives the backbone, its input and its kind: a recipe, or the header of the generation before.
        backbone_weights: Tensors by name, as `backbones.state_of` gives them.
        trained_by: Sites whose data the backbone learned from.
        seed: Seed that the lift will be drawn from.

    Raises:
        InputError: The weights are not those of this backbone, or it cannot be exported.
    """
    from fedmed_edge.features.backbones import backbone_of, set_state, state_of
    from fedmed_edge.features.encoder_export import export_encoder

    backbone = backbone_of(made)
    set_state(backbone, backbone_weights, "backbone")
    raw = sum(backbone.widths)
    values = {
        "kind": made.kind,
        "channels": made.channels,
        "size": made.size,
        "backbone": made.backbone,
        "widths": backbone.widths,
        "lift_dim": 0,
        "seed": seed,
        "trained_by": tuple(sorted(set(trained_by))),
    }
    header = parse_settings(GenerationHeader, values, "generation")
    return Generation(
        header=header,
        weights=dict(sorted(state_of(backbone).items())),
        encoder=export_encoder(backbone, made),
        mean=np.zeros(raw, np.float32),
        deviation=np.ones(raw, np.float32),
        projection=None,
        lift_weight=np.zeros((raw, 0), np.float32),
        lift_bias=np.zeros(0, np.float32),
        reference_mean=None,
        reference_covariance=None,
    )


def complete_generation(
    draft: Generation,
    recipe: Recipe,
    statistics: Mapping[str, FeatureStatistics],
    *,
    others: Sequence[Mapping[str, FeatureStatistics]] = (),
    seed: int | None = None,
) -> Generation:
    """Give a draft its standardisation, projection, lift and reference Gaussian; without torch.

    Mean and deviation are those of the rows that are lifted, over all sites; several tasks weigh alike in
    them, whether their rows are images or pixels, and every image in the Gaussian. Features wider than
    `recipe.lift.feature_dim` are projected on their first principal axes; the lift is drawn from the seed and
    narrowed so that D ≤ 1,024. The reference covariance is shrunk by 0.1 towards its mean diagonal.

    Args:
        statistics: Site → what it measured under the draft; give the sites that trained the backbone. The
            name "" stands for images that are of no site.
        others: The same of other tasks that share the draft.
        seed: Of the lift; default the draft's.

    Raises:
        InputError: The statistics are of another draft, hold no rows, or contributions under this generation
            could pass 1 GiB.
    """
    tasks = [_sum_of(draft, one) for one in (statistics, *others)]
    mean, covariance = _moments(unpack(_balanced([one.gram() for one in tasks])), "rows")
    images = sum(one.images for one in tasks)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    deviation[deviation <= _FLAT * np.maximum(1.0, np.abs(mean))] = 1.0
    projection = _projection(covariance / np.outer(deviation, deviation), recipe.lift.feature_dim)
    features = len(mean) if projection is None else projection.shape[1]
    lift_dim = min(recipe.lift.lift_dim, ROW_DIM_CAP - 1 - features)
    _refuse_large(recipe, lift_dim + features + 1)
    seed = draft.header.seed if seed is None else seed
    told = draft.header.model_dump() | {
        "lift_dim": lift_dim,
        "seed": seed,
        "measured_at": tuple(sorted(set().union(statistics, *others) - {""})),
        "reference_images": images,
    }
    header = parse_settings(GenerationHeader, told, "generation")
    random = np.random.Generator(np.random.PCG64(seed))
    lift_weight = random.standard_normal((features, lift_dim)) / np.sqrt(features)
    lift_bias = random.standard_normal(lift_dim)
    image_gram = sum((one.image_gram for one in tasks[1:]), start=tasks[0].image_gram)
    reference_mean, reference_covariance = _reference(image_gram, mean, deviation, projection)
    generation = replace(
        draft,
        header=header,
        mean=mean.astype(np.float32),
        deviation=deviation.astype(np.float32),
        projection=None if projection is None else projection.astype(np.float32),
        lift_weight=lift_weight.astype(np.float32),
        lift_bias=lift_bias.astype(np.float32),
        reference_mean=reference_mean,
        reference_covariance=reference_covariance,
    )
    log.info(
        "generation %s: %d raw, %d features, %d lifted, from %d images",
        generation.digest[:12],
        len(mean),
        features,
        lift_dim,
        images,
    )
    return generation


def _sum_of(draft: Generation, statistics: Mapping[str, FeatureStatistics]) -> FeatureStatistics:
    if not draft.draft:
        raise InputError("generation: has its standardisation already, expected a draft")
    if not statistics:
        raise InputError("generation: no site's statistics, expected at least one")
    for site, one in statistics.items():
        if one.row_dim != draft.row_dim:
            raise InputError(f"generation: `row_dim` of `{site}` has {one.row_dim}, expected {draft.row_dim}")
    first, *more = (statistics[site] for site in sorted(statistics))
    return sum(more, start=first)


def _balanced(grams: Sequence[Float64]) -> Float64:
    """Packed Grams [f, 1] of several tasks as one, in which each task has as many rows as any other."""
    if len(grams) == 1:
        return grams[0]
    rows = sum(float(gram[-1]) for gram in grams) / len(grams)
    total: Float64 = np.sum([gram * (rows / max(1.0, gram[-1])) for gram in grams], axis=0)
    return total


def _moments(gram: Float64, what: str) -> tuple[Float64, Float64]:
    """Mean and covariance of rows [f, 1] from their Gram."""
    count = gram[-1, -1]
    if count < 2:
        raise InputError(f"generation: `{what}` has {count:g}, expected at least 2")
    mean = gram[:-1, -1] / count
    covariance = gram[:-1, :-1] / count - np.outer(mean, mean)
    return mean, (covariance + covariance.T) / 2


def _projection(correlation: Float64, wanted: int) -> Float64 | None:
    """First `wanted` principal axes (F0, F) of the standardised features, signs fixed; None: all are kept."""
    if len(correlation) <= wanted:
        return None
    axes = np.linalg.eigh(correlation)[1][:, ::-1][:, :wanted]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(wanted)]))


def _reference(
    image_gram: Float64, mean: Float64, deviation: Float64, projection: Float64 | None
) -> tuple[Float64, Float64]:
    """Gaussian of the images' pooled features, brought from raw to standardised and projected ones."""
    raw_mean, raw_covariance = _moments(unpack(image_gram), "images")
    centre = (raw_mean - mean) / deviation
    still = np.diag(raw_covariance) <= _ROUNDING * raw_mean**2
    raw_covariance[still] = raw_covariance[:, still] = 0.0
    covariance = raw_covariance / np.outer(deviation, deviation)
    if projection is not None:
        centre, covariance = centre @ projection, projection.T @ covariance @ projection
    return centre, shrink((covariance + covariance.T) / 2)


def _refuse_large(recipe: Recipe, row_dim: int) -> None:
    size = 8 * packed_length(row_dim) * ((FOLDS + 1) * len(recipe.classes) + 1)
    if size > CONTRIBUTION_CAP:
        raise InputError(
            f"generation: a contribution of {len(recipe.classes)} classes could have {size / 2**30:.1f} GiB, "
            "expected at most 1 GiB",
            hint="choose a narrower lift: smaller `lift_dim` and `feature_dim` in the recipe's [lift]",
        )
