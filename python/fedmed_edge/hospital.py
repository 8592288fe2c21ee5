"""What a hospital computes: train a backbone, make a contribution within the site's policy.

In: a `Dataset`, a `Generation`, the site's settings. Out: a backbone file, a `Contribution` to sign.
"""

import hashlib
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmed_edge import __version__
from fedmed_edge.config import ROWS_A_COLUMN, Policy, SiteConfig
from fedmed_edge.errors import InputError, TrustError, Withheld
from fedmed_edge.features.encoder import require_fit
from fedmed_edge.features.extract import RowSample, extract_clipped, extract_with_sample
from fedmed_edge.features.weights import Weights, read_backbone, write_backbone
from fedmed_edge.generation import Architecture, Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import fit
from fedmed_edge.model.sums import site_sums
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.calibration import bin_counts
from fedmed_edge.statistics.contribution import Contribution, Evidence, Privacy, new_contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.statistics.header import Program
from fedmed_edge.statistics.privacy import private_statistics
from fedmed_edge.statistics.style import Style

log = logging.getLogger(__name__)

NORMS = "norms.backbone"
"""Name of the file, in a site's folder, of norm layers that stay there."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainedBackbone:
    """A backbone trained at one site: weights by name, images behind it, seconds and last loss."""

    recipe: Recipe
    architecture: Architecture
    site: str
    weights: Weights = field(repr=False)
    images: int
    seconds: float
    loss: float

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
        )


def train_backbone(
    dataset: Dataset,
    start: Generation | None,
    *,
    epochs: float,
    site: str,
    styles: Sequence[Style] = (),
    how: Training | None = None,
    norms: Path | None = None,
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
        norms: File of this site's norm layers, read and written where training has `local_norms`.

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
    own = norms if how.local_norms else None
    if own is not None:
        set_state(network.backbone, {**state_of(network.backbone), **kept_norms(own, network.backbone)})
    result = train(
        network, dataset, epochs=epochs, styles=styles, how=how, seed=seed, device=device, progress=progress
    )
    if own is not None:
        keep_norms(own, network.backbone, dataset.recipe)
    return TrainedBackbone(
        dataset.recipe,
        architecture,
        site,
        state_of(network.backbone),
        len(dataset.labelled),
        result.seconds,
        float(result.losses[-1]),
    )


def make_contribution(
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    *,
    sequence: int = 1,
    weights_file: Path | None = None,
    progress: Progress | None = None,
) -> Contribution:
    """What the site hands over for a generation; not yet signed.

    Either the sums over its training images, or, with `weights_file`, the weights alone. Only what
    `config.policy` allows is in it. Test images are counted and otherwise not read.

    Args:
        dataset: The site's whole data set.
        sequence: To show; `federation.sequence` gives the one that counts when it is signed.
        weights_file: Backbone file trained from this generation, whose difference goes instead of sums.

    Raises:
        InputError: An image cannot be used, no class reaches `min_cohort`, or nothing is left to hand over.
        Withheld: The policy refuses: rows too wide for the site's images, weights of too few patients, or,
            where it asks for noise, weights at all, or too few patients for the noise.
        TrustError: The weights are not of this generation's backbone.
        DeviceError: The asked device did not come up.
    """
    policy = config.policy
    if policy.epsilon is not None:
        return _private_contribution(dataset, generation, config, sequence, weights_file, progress)
    weights = None
    if weights_file is not None:
        _check_cohort(dataset.train, policy)
        weights = _difference(weights_file, generation)
    sums = None if weights else _sums(dataset, generation, config, progress)
    return new_contribution(
        sums,
        generation=generation.digest,
        recipe=dataset.recipe,
        site=config.site,
        sequence=sequence,
        min_cohort=policy.min_cohort,
        parts=policy.parts,
        weights=weights,
        evidence=_evidence(dataset, sums),
        share_style=policy.share_style,
    )


def _private_contribution(
    dataset: Dataset,
    generation: Generation,
    config: SiteConfig,
    sequence: int,
    weights_file: Path | None,
    progress: Progress | None,
) -> Contribution:
    """Class Grams with noise and nothing exact beside them: no counts, no figures, no other part."""
    policy = config.policy
    assert policy.epsilon is not None  # `make_contribution` looked
    if weights_file is not None:
        raise Withheld(
            "contribution: weights leave without noise, and `epsilon` in the policy asks for it",
            hint="sums can leave with noise: contribute without --weights",
        )
    multiplier = noise_multiplier(policy.epsilon, policy.delta)
    clipped, scale = extract_clipped(
        generation, dataset.train, clip=policy.clip, device=config.device, progress=progress
    )
    if policy.delta * clipped.patients**2 > 1.0:
        log.warning("warning: `delta` has %g, wise is at most 1/n² for n patients", policy.delta)
    sums = private_statistics(
        clipped,
        scale,
        multiplier=multiplier,
        min_cohort=policy.min_cohort,
        feature_dim=generation.feature_dim,
    )
    return new_contribution(
        sums,
        generation=generation.digest,
        recipe=dataset.recipe,
        site=config.site,
        sequence=sequence,
        min_cohort=policy.min_cohort,
        parts=[part for part in policy.parts if part == "classes"],
        evidence=Evidence(versions=_versions()),
        privacy=Privacy(epsilon=policy.epsilon, delta=policy.delta, clip=policy.clip, noise=multiplier),
    )


def _sums(
    dataset: Dataset, generation: Generation, config: SiteConfig, progress: Progress | None
) -> FeatureStatistics:
    policy = config.policy
    sums, sample = extract_with_sample(
        generation,
        dataset.train,
        site=config.site,
        min_cohort=policy.min_cohort,
        device=config.device,
        progress=progress,
    )
    if generation.draft:
        return sums
    _check_width(sums, policy)
    counts = calibration_counts(sums, sample, dataset.recipe)
    return sums if counts is None else replace(sums, calibration=counts)


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
        made = fit([site_sums("own", rest, recipe)], {"own": 1.0}, recipe, temperature=1.0)
        model = GlobalModel(recipe, "", made.head, made.choice.ridge, made.posterior)
        counts = bin_counts(model.probabilities(sample.rows[held]), sample.classes[held])
        total = counts if total is None else total + counts
    return total


def _check_cohort(dataset: Dataset, policy: Policy) -> None:
    """Weights learn from every image at once, so the guard counts all patients that they learned from."""
    patients = len({item.patient for item in dataset.labelled})
    if patients < policy.min_cohort:
        raise Withheld(
            f"contribution: weights of {patients} labelled training patients, "
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


def cohort(dataset: Dataset) -> frozenset[str]:
    """`DIGEST CLASS` of every training patient and class that the patient has; no class where unlabelled.

    The digest is of the bytes of the images and masks that count, so what two cohorts do not share are
    patients who came, went or changed, whatever they and their files are called. It never leaves the site.

    Raises:
        InputError: A file cannot be read.
    """
    held: dict[str, list[tuple[str, ...]]] = {}
    classes: dict[str, set[int]] = {}
    for item in dataset.train:
        files = (item.image,) if item.mask is None else (item.image, item.mask)
        held.setdefault(item.patient, []).append((str(item.label), *map(_content, files)))
        classes.setdefault(item.patient, set()).update(dataset.classes_of(item))
    digests = {p: hashlib.sha256(repr(sorted(told)).encode()).hexdigest() for p, told in held.items()}
    names = dataset.recipe.classes
    return frozenset(
        f"{digest} {name}"
        for patient, digest in digests.items()
        for name in ([names[index] for index in classes[patient]] or [""])
    )


def _content(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder, in hexadecimal."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    try:
        for one in files:
            with one.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()
