"""What a hospital computes: train a backbone, make a contribution within the site's policy.

In: a `Dataset`, a `Generation`, the site's settings. Out: a backbone file, a `Contribution` to sign.
"""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmed_edge import __version__
from fedmed_edge.config import ROWS_A_COLUMN, Part, Policy, SiteConfig
from fedmed_edge.errors import InputError, TrustError, Withheld
from fedmed_edge.features.encoder import require_fit
from fedmed_edge.features.extract import RowSample, extract, extract_clipped, extract_with_sample
from fedmed_edge.features.held_out import head_error, network_error
from fedmed_edge.features.patients import Leaving, Patients
from fedmed_edge.features.weights import Error, Weights, read_backbone, write_backbone
from fedmed_edge.generation import Architecture, Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.own_sums import own_model
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.calibration import bin_counts
from fedmed_edge.statistics.contribution import (
    Contribution,
    Evidence,
    Privacy,
    new_contribution,
    tensors_digest,
)
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.statistics.header import Program
from fedmed_edge.statistics.privacy import ClippedAccumulator, private_statistics
from fedmed_edge.statistics.style import Style

log = logging.getLogger(__name__)

NORMS = "norms.backbone"
"""Name of the file, in a site's folder, of norm layers that stay there."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainedBackbone:
    """A backbone trained at one site: weights by name, images behind it, seconds, last loss, errors."""

    recipe: Recipe
    architecture: Architecture
    site: str
    weights: Weights = field(repr=False)
    images: int
    seconds: float
    loss: float
    errors: Mapping[Error, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the backbone file, whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        write_backbone(
            path,
            self.weights,
            self.recipe,
            architecture=self.architecture,
            trained_by=(self.site,),
            images=self.images,
            errors=self.errors,
        )


def train_backbone(
    dataset: Dataset,
    start: Generation | None,
    *,
    epochs: float,
    site: str,
    styles: Sequence[Style] = (),
    how: Training | None = None,
    held_out: Dataset | None = None,
    norms: Path | None = None,
    rounds_of: Generation | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> TrainedBackbone:
    """Train a backbone on the labelled images of a data set. Needs torch and MONAI.

    Args:
        dataset: Give `dataset.train`.
        start: Generation whose backbone it starts from, which may be another than the recipe asks for; None
            starts the recipe's from random weights.
        epochs: Passes over the labelled images.
        styles: Of other sites, towards which images are moved as well.
        how: Shifts and what else holds the training; default the recipe's `training`.
        held_out: The site's test images. On them the trained network is asked, and, where `start` is no
            draft, a head that is solved on its features.
        norms: File of this site's norm layers, read and written where training has `local_norms`.
        rounds_of: Generation that rounds began with, whose norm layers alone go on; default `start`.

    Raises:
        InputError: No labelled image, or the recipe's images do not fit the generation.
        DeviceError: The asked device is not here.
    """
    from fedmed_edge.features.backbones import set_state, state_of
    from fedmed_edge.features.local_norms import keep_norms, kept_norms
    from fedmed_edge.features.training import build_network, train

    if start is not None:
        require_fit(start, dataset.recipe)
    architecture: Architecture = dataset.recipe if start is None else start.header
    network = build_network(dataset.recipe, seed=seed, architecture=architecture)
    if start is not None:
        set_state(network.backbone, start.weights, f"generation {start.digest[:12]}")
    how = how or dataset.recipe.training
    begun = rounds_of or start
    own = norms if how.local_norms and begun is not None else None  # to random weights they mean nothing
    digest = tensors_digest(begun.weights).hex() if begun is not None else ""
    if own is not None:
        kept = kept_norms(own, network.backbone, digest)
        set_state(network.backbone, {**state_of(network.backbone), **kept})
    result = train(
        network, dataset, epochs=epochs, styles=styles, how=how, seed=seed, device=device, progress=progress
    )
    if own is not None:
        keep_norms(own, network.backbone, dataset.recipe, digest)
    errors: dict[Error, float] = {}
    if held_out is not None and len(held_out.labelled):
        try:
            errors = _errors(network, start, dataset, held_out, device)
        except InputError as error:  # what was trained is not lost for a test image that cannot be read
            log.warning("warning: how wrong it is on held-out images was not measured: %s", error)
    return TrainedBackbone(
        dataset.recipe,
        architecture,
        site,
        state_of(network.backbone),
        len(dataset.labelled),
        result.seconds,
        float(result.losses[-1]),
        errors,
    )


def _errors(
    network: Any, start: Generation | None, dataset: Dataset, held_out: Dataset, device: str
) -> dict[Error, float]:
    """What tells whether a generation has grown too old for the site; of one that has no rows yet, half."""
    errors: dict[Error, float] = {"tuned_error": network_error(network, held_out, device=device)}
    if start is None or start.draft:
        return errors
    sums = extract(start, dataset.labelled, min_cohort=1, device=device)
    if len({index for _, index in sums.blocks}) > 1:
        errors["head_error"] = head_error(start, own_model(sums, dataset.recipe), held_out, device=device)
    return errors


@dataclass(frozen=True)
class Prepared:
    """A contribution but for its sequence and its noise.

    Attributes:
        leaving: What is written down before it is signed.
    """

    leaving: Leaving
    _make: Callable[[], Contribution] = field(repr=False)

    def contribution(self, sequence: int = 1) -> Contribution:
        """The contribution, not yet signed.

        Where the policy asks for noise it is drawn here, anew each time: the budget is to be spent before.

        Raises:
            Withheld: No class stands out of the noise.
        """
        made = self._make()
        return replace(made, header=made.header.model_copy(update={"sequence": sequence}))


def make_contribution(
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    *,
    sequence: int = 1,
    progress: Progress | None = None,
) -> Contribution:
    """The sums that a hospital hands over, to be looked at: `prepare` is for what is to be signed.

    Raises:
        InputError: As `prepare`.
        Withheld: As `prepare`, or no class stands out of the noise.
        DeviceError: As `prepare`.
    """
    return prepare(dataset, generation, config, progress=progress).contribution(sequence)


def prepare(
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    *,
    patients: Patients | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The sums over a site's training images, of which only what `config.policy` allows goes.

    Test images are counted and otherwise not read.

    Args:
        dataset: The site's whole data set.
        patients: Who is in it; without, the contribution tells of nobody and is not to be signed.

    Raises:
        InputError: An image cannot be used or changed meanwhile, no class reaches `min_cohort`, or nothing is
            left to hand over.
        Withheld: The policy refuses: rows too wide for the site's images, or too few patients for the noise.
        DeviceError: The asked device did not come up.
    """
    policy = config.policy
    if policy.epsilon is not None:
        return _prepare_noisy(dataset, generation, config, progress)
    sums, sample = extract_with_sample(
        generation,
        dataset.train,
        site=config.site,
        min_cohort=policy.min_cohort,
        device=config.device,
        progress=progress,
    )
    _check_width(sums, policy)
    if not generation.draft:
        counts = calibration_counts(sums, sample, dataset.recipe)
        sums = sums if counts is None else replace(sums, calibration=counts)
    made = _contribution(sums, dataset, generation, config, _evidence(dataset, sums))
    cohort: tuple[str, ...] = ()
    if patients is not None:
        patients.refuse_changed()
        cohort = patients.cohort(made.header.parts, sample.patients)
    leaving = _leaving(dataset, generation, made.header.parts)
    return Prepared(leaving.model_copy(update={"cohort": cohort}), lambda: made)


def prepare_weights(
    dataset: Dataset, generation: Generation, config: SiteConfig, weights_file: Path
) -> Prepared:
    """The weights of a backbone that was trained from the generation, as their difference from it.

    Raises:
        InputError: The file cannot be read, or nothing is left to hand over.
        Withheld: Too few patients; or the policy asks for noise, which the weights do not have.
        TrustError: The weights are not of this generation's backbone.
    """
    policy = config.policy
    if policy.epsilon is not None:
        raise Withheld(
            "contribution: weights leave without noise, and `epsilon` in the policy asks for it",
            hint="sums can leave with noise: contribute without --weights",
        )
    _check_cohort(dataset.train, policy)
    evidence = _evidence(dataset, None)
    if len({item.patient for item in dataset.test.labelled}) >= policy.min_cohort:
        told = read_backbone(weights_file).header.errors
        # more digits would tell, over many contributions, how single test images are answered
        evidence = evidence.model_copy(update={"metrics": {k: round(v, 2) for k, v in told.items()}})
    difference = _difference(weights_file, generation)
    made = _contribution(None, dataset, generation, config, evidence, difference)
    return Prepared(_leaving(dataset, generation, ("weights",)), lambda: made)


def _contribution(
    sums: FeatureStatistics | None,
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    evidence: Evidence,
    weights: dict[str, npt.NDArray[np.generic]] | None = None,
) -> Contribution:
    """What of it the policy lets out, without noise."""
    policy = config.policy
    return new_contribution(
        sums,
        generation=generation.digest,
        recipe=dataset.recipe,
        site=config.site,
        sequence=1,
        min_cohort=policy.min_cohort,
        parts=policy.parts,
        weights=weights,
        evidence=evidence,
        share_style=policy.share_style,
    )


def expected(
    dataset: Dataset, generation: Generation, policy: Policy, patients: Patients | None = None
) -> Leaving:
    """What a contribution of sums would tell, as far as that is known before an image is encoded.

    Raises:
        Withheld: Too few patients for noise.
    """
    if policy.epsilon is not None:
        _check_cohort(dataset.train, policy, "noise over")
        return _leaving(dataset, generation, ("classes",), noise_multiplier(policy.epsilon, policy.delta))
    parts = tuple(part for part in policy.parts if part != "weights")
    cohort = () if patients is None else patients.cohort(parts)
    return _leaving(dataset, generation, parts).model_copy(update={"cohort": cohort})


def _leaving(
    dataset: Dataset, generation: Generation, parts: Sequence[Part], noise: float | None = None
) -> Leaving:
    return Leaving(
        generation=generation.digest,
        backbone=tensors_digest(generation.weights).hex(),
        task=dataset.recipe.name,
        parts=tuple(parts),
        width=generation.row_dim if dataset.recipe.kind == "classification" else None,
        noise=noise,
    )


def _prepare_noisy(
    dataset: Dataset, generation: Generation, config: SiteConfig, progress: Progress | None
) -> Prepared:
    """Class Grams with noise and nothing exact beside them: no counts, no figures, no other part."""
    policy = config.policy
    assert policy.epsilon is not None  # `prepare` looked
    if "classes" not in policy.parts:
        raise InputError(
            f"contribution: none of the parts {', '.join(policy.parts) or '(none)'} leaves with noise",
            hint="`parts` in the policy of fedmed.toml says what may leave; with noise `classes` alone does",
        )
    _check_cohort(dataset.train, policy, "noise over")
    clipped, scale = extract_clipped(
        generation, dataset.train, clip=policy.clip, device=config.device, progress=progress
    )
    if policy.delta * clipped.patients**2 > 1.0:
        log.warning("warning: `delta` has %g, wise is at most 1/n² for n patients", policy.delta)
    noise = noise_multiplier(policy.epsilon, policy.delta)
    draw = partial(_draw, dataset.recipe, generation, config, clipped, scale, noise)
    return Prepared(_leaving(dataset, generation, ("classes",), noise), draw)


def _draw(
    recipe: Recipe,
    generation: Generation,
    config: SiteConfig,
    clipped: ClippedAccumulator,
    scale: npt.NDArray[np.float64],
    noise: float,
) -> Contribution:
    policy = config.policy
    assert policy.epsilon is not None  # else there is no noise to draw
    sums = private_statistics(
        clipped, scale, multiplier=noise, min_cohort=policy.min_cohort, feature_dim=generation.feature_dim
    )
    return new_contribution(
        sums,
        generation=generation.digest,
        recipe=recipe,
        site=config.site,
        sequence=1,
        min_cohort=policy.min_cohort,
        parts=("classes",),
        evidence=Evidence(versions=_versions()),
        privacy=Privacy(
            epsilon=policy.epsilon, delta=policy.delta, clip=policy.clip, noise=noise, rows=clipped.rows
        ),
    )


def calibration_counts(
    sums: FeatureStatistics, sample: RowSample, recipe: Recipe
) -> npt.NDArray[np.float64] | None:
    """Binned answers on held-out rows of heads from the site's own sums, or None where no fold is held out.

    Args:
        sums: The site's class statistics in folds.
        sample: Rows of the site with the folds they are in; they stay here.

    Returns:
        (T, 32) counts, as `statistics.calibration.bin_counts`.

    Source: method §3, the one temperature of the posteriors.
    """
    total: npt.NDArray[np.float64] | None = None
    for fold in range(sums.folds):
        held = sample.folds == fold
        rest = sums.without_fold(fold)
        if not held.any() or len({index for _, index in rest.blocks}) < 2:
            continue
        answers = own_model(rest, recipe).probabilities(sample.rows[held])
        counts = bin_counts(answers, sample.classes[held])
        total = counts if total is None else total + counts
    return total


def _check_cohort(dataset: Dataset, policy: Policy, what: str = "weights of") -> None:
    """Weights learn from every image at once, so the guard counts all patients that they learned from."""
    patients = len({item.patient for item in dataset.labelled})
    if patients < policy.min_cohort:
        raise Withheld(
            f"contribution: {what} {patients} labelled training patients, "
            f"expected at least min_cohort {policy.min_cohort}",
            hint="more patients are needed to contribute; `min_cohort` stands in the policy of fedmed.toml",
        )


def _check_width(sums: FeatureStatistics, policy: Policy) -> None:
    """Method §8: a Gram of fewer rows than its width shows their span, and with it who was in it.

    With a few more than that it still tells; where the line stands was found by attack. Every Gram counts by
    itself: those of a fold of a class, and of the images, have the fewest.
    """
    narrow = [one for one in _grams_told(sums, policy) if one[1] < ROWS_A_COLUMN * one[2]]
    if policy.width_rule == "off" or not narrow:
        return
    label, rows, width = min(narrow, key=lambda one: one[1] / one[2])
    message = (
        f"width rule: {len(narrow)} Grams show whose rows are in them; the one of {label} has width {width}, "
        f"expected at most a third of its {rows} rows"
    )
    hint = "noise (`epsilon`), a narrower generation, fewer `parts`, or `width_rule` in the policy"
    if policy.width_rule == "refuse":
        raise Withheld(message, hint=hint)
    log.warning("warning: %s; %s", message, hint)


def _grams_told(sums: FeatureStatistics, policy: Policy) -> Iterator[tuple[str, int, int]]:
    """What it is of, rows and width of every Gram that would leave."""
    if "classes" in policy.parts:
        for (_, index), gram in sums.blocks.items():
            yield f"class `{sums.classes[index]}`", int(gram[-1]), sums.row_dim
    if "unlabelled" in policy.parts and sums.unlabelled[-1]:
        yield "unlabelled images", int(sums.unlabelled[-1]), sums.row_dim
    if "shifts" in policy.parts and sums.shift_gram[-1]:
        yield "differences to shifted views", int(sums.shift_gram[-1]), sums.row_dim
    if "images" in policy.parts and sums.images:
        yield "all images", sums.images, sums.feature_dim + 1


def _difference(path: Path, generation: Generation) -> dict[str, npt.NDArray[np.generic]]:
    """θ_s − θ⁰, tensor by tensor."""
    trained = read_backbone(path).weights
    if {name: value.shape for name, value in trained.items()} != {
        name: value.shape for name, value in generation.weights.items()
    }:
        raise TrustError(f"{path}: has another backbone than generation {generation.digest[:12]}")
    return {
        name: np.asarray(value, np.float32) - np.asarray(generation.weights[name], np.float32)
        for name, value in trained.items()
    }


def _evidence(dataset: Dataset, sums: FeatureStatistics | None) -> Evidence:
    patients = {}
    if sums is not None:
        counted = zip(sums.classes, sums.patients, strict=True)
        patients = {name: int(count) for name, count in counted if count > 0}
    return Evidence(
        images={"train": len(dataset.train), "test": len(dataset.test)},
        patients=patients,
        versions=_versions(),
    )


def _versions() -> dict[Program, str]:
    return {
        "fedmed_edge": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
