"""What a hospital hands over: a contribution within the site's policy.

In: a `Dataset`, a `Generation`, the site's settings, weights of `local_training`. Out: a `Contribution` to
sign.
"""

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmed_edge import __version__
from fedmed_edge.config import Part, Policy, SiteConfig
from fedmed_edge.errors import InputError, TrustError, Withheld
from fedmed_edge.features.extract import (
    RowSample,
    extract_clipped,
    extract_with_sample,
    plan_dataset,
)
from fedmed_edge.features.patients import Leaving, Patients
from fedmed_edge.features.weights import Weights, read_backbone
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.own_sums import own_model
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.accounting import noise_multiplier, step_multiplier
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
from fedmed_edge.statistics.privacy import private_statistics
from fedmed_edge.statistics.width_rule import check_width
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


def plan_training(dataset: Dataset, policy: Policy, epochs: float) -> Privacy:
    """The noise that the policy asks of a training.

    How many steps it has follows from the epochs and from the probability that a patient is in one, and from
    no patient.

    Args:
        dataset: The site's whole data set.
        epochs: What is asked, unless the policy says how long its trainings are.

    Raises:
        InputError: The policy asks for no noise, or lets no weights leave.
        Withheld: Fewer than `min_cohort` patients.
    """
    if policy.epsilon is None:
        raise InputError(
            "training: the policy asks for no noise, so there is none to train with",
            hint="set `epsilon` in the policy of fedmed.toml; or train without --private",
        )
    if "weights" not in policy.parts:
        raise InputError(
            "training: `parts` in the policy has no weights, so there is nothing to spend ε on",
            hint="add them in fedmed.toml; or train without --private",
        )
    _check_cohort(dataset.train, policy, "training with noise on")
    _warn_of_delta(policy, len(dataset.train.labelled.patients))
    if policy.epochs is not None and policy.epochs != epochs:
        log.info("training: %g epochs by the policy, %g were asked", policy.epochs, epochs)
        epochs = policy.epochs
    steps = max(1, round(epochs / policy.sampling))
    noise = step_multiplier(policy.epsilon, policy.delta, sampling=policy.sampling, steps=steps)
    return Privacy(
        epsilon=policy.epsilon,
        delta=policy.delta,
        clip=policy.clip,
        noise=noise,
        sampling=policy.sampling,
        steps=steps,
    )


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

    Test images are not looked at.

    Args:
        dataset: The site's whole data set.
        patients: Who is in it; without, the contribution tells of nobody and is not to be signed.

    Raises:
        InputError: An image cannot be used or changed meanwhile, no class reaches `min_cohort`, or nothing is
            left to hand over.
        Withheld: The policy refuses: Grams too wide for the site's patients, or too few of these for noise.
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
        shifts="shifts" in policy.parts,
        progress=progress,
    )
    check_width(sample.plan, generation, dataset.recipe, policy)
    if not generation.draft:
        counts = calibration_counts(sums, sample, dataset.recipe)
        sums = sums if counts is None else replace(sums, calibration=counts)
    made = _contribution(sums, dataset, generation, config, _evidence(sums.images, sums))
    cohort: tuple[str, ...] = ()
    if patients is not None:
        patients.refuse_changed()
        cohort = patients.cohort(made.header.parts, sample.plan.patients)
    return Prepared(_leaving(dataset, generation, made.header.parts, cohort=cohort), lambda: made)


def prepare_weights(
    dataset: Dataset, generation: Generation, config: SiteConfig, weights_file: Path
) -> Prepared:
    """The weights of a backbone that was trained from the generation, as their difference from it.

    Where the policy asks for noise they were trained with it, and neither counts nor figures go with them.

    Raises:
        InputError: The file cannot be read, is of another site, or nothing is left to hand over.
        Withheld: Too few patients; or the policy asks for noise, which the weights were not trained with.
        TrustError: The weights are not of this generation's backbone.
    """
    policy, trained = config.policy, read_backbone(weights_file)
    told = trained.header
    if told.trained_by and config.site not in told.trained_by:
        raise InputError(
            f"{weights_file}: was trained by {', '.join(told.trained_by)}, expected {config.site}",
            hint="`fedmed-edge train` writes this site's own",
        )
    if policy.epsilon is not None and not told.training:
        raise Withheld(
            "contribution: the weights were trained without noise, and `epsilon` in the policy asks for it",
            hint="`fedmed-edge train --private` trains with noise; sums can leave with it, too",
        )
    _check_cohort(dataset.train, policy)
    evidence, privacy = Evidence(versions=_versions()), told.privacy
    if policy.epsilon is None:
        evidence, privacy = _evidence(_counting_images(dataset.train, policy)), None
        if len(dataset.test.labelled.patients) >= policy.min_cohort:
            # more digits would tell, over many contributions, how single test images are answered
            metrics = {name: round(value, 2) for name, value in told.errors.items()}
            evidence = evidence.model_copy(update={"metrics": metrics})
    difference = _difference(trained.weights, generation, str(weights_file))
    made = _contribution(None, dataset, generation, config, evidence, weights=difference, privacy=privacy)
    return Prepared(_leaving(dataset, generation, ("weights",), training=told.training), lambda: made)


def _contribution(
    sums: FeatureStatistics | None,
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    evidence: Evidence,
    *,
    weights: dict[str, npt.NDArray[np.generic]] | None = None,
    privacy: Privacy | None = None,
) -> Contribution:
    """What of it the policy lets out; no noise is added here."""
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
        privacy=privacy,
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
        noise = noise_multiplier(policy.epsilon, policy.delta)
        return _leaving(dataset, generation, ("classes",), noise=noise)
    parts = tuple(part for part in policy.parts if part != "weights")
    cohort = () if patients is None else patients.cohort(parts)
    return _leaving(dataset, generation, parts, cohort=cohort)


def _leaving(
    dataset: Dataset,
    generation: Generation,
    parts: Sequence[Part],
    *,
    noise: float | None = None,
    training: str = "",
    cohort: tuple[str, ...] = (),
) -> Leaving:
    return Leaving(
        generation=generation.digest,
        backbone=tensors_digest(generation.weights).hex(),
        task=dataset.recipe.name,
        parts=tuple(parts),
        width=generation.row_dim,
        noise=noise,
        training=training,
        cohort=cohort,
    )


def _prepare_noisy(
    dataset: Dataset, generation: Generation, config: SiteConfig, progress: Progress | None
) -> Prepared:
    """Class Grams with noise and nothing exact beside them: no counts, no figures, no other part."""
    policy = config.policy
    if "classes" not in policy.parts:
        raise InputError(
            f"contribution: none of the parts {', '.join(policy.parts) or '(none)'} leaves with noise",
            hint="`parts` in the policy of fedmed.toml says what may leave; with noise `classes` alone does",
        )
    leaving = expected(dataset, generation, policy)
    clipped = extract_clipped(
        generation, dataset.train, clip=policy.clip, device=config.device, progress=progress
    )
    _warn_of_delta(policy, clipped.patients)

    def draw() -> Contribution:
        assert policy.epsilon is not None and leaving.noise is not None  # `prepare` looked
        sums = private_statistics(
            clipped,
            multiplier=leaving.noise,
            min_cohort=policy.min_cohort,
            feature_dim=generation.feature_dim,
        )
        privacy = Privacy(
            epsilon=policy.epsilon,
            delta=policy.delta,
            clip=policy.clip,
            noise=leaving.noise,
            rows=clipped.rows,
        )
        evidence = Evidence(versions=_versions())
        return _contribution(sums, dataset, generation, config, evidence, privacy=privacy)

    return Prepared(leaving, draw)


def _warn_of_delta(policy: Policy, patients: int) -> None:
    if policy.delta * patients**2 > 1.0:
        log.warning("warning: `delta` has %g, wise is at most 1/n² for n patients", policy.delta)


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
    patients = len(dataset.labelled.patients)
    if patients < policy.min_cohort:
        raise Withheld(
            f"contribution: {what} {counted(patients, 'labelled training patient')}, "
            f"expected at least min_cohort {policy.min_cohort}",
            hint="more patients are needed to contribute; `min_cohort` stands in the policy of fedmed.toml",
        )


def _difference(trained: Weights, generation: Generation, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """θ_s − θ⁰, tensor by tensor."""
    if {name: value.shape for name, value in trained.items()} != {
        name: value.shape for name, value in generation.weights.items()
    }:
        raise TrustError(f"{where}: has another backbone than generation {generation.digest[:12]}")
    return {
        name: np.asarray(value, np.float32) - np.asarray(generation.weights[name], np.float32)
        for name, value in trained.items()
    }


def _evidence(images: int, sums: FeatureStatistics | None = None) -> Evidence:
    patients = {}
    if sums is not None:
        counted = zip(sums.classes, sums.patients, strict=True)
        patients = {name: int(count) for name, count in counted if count > 0}
    return Evidence(images={"train": images} if images else {}, patients=patients, versions=_versions())


def _counting_images(dataset: Dataset, policy: Policy) -> int:
    """As many images as count in sums: one figure with those of small classes less one without has these."""
    classes, plan = plan_dataset(dataset, policy.min_cohort)
    return sum(map(plan.keeps, classes))


def _versions() -> dict[Program, str]:
    return {
        "fedmed_edge": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
