"""Membership from the sums of a segmentation: is this patient's image in them? With and without noise.

    .venv/bin/python tests/bench/attack_pixels.py DATA GENERATION [--widths 16,32] [--patients 20,40]
        [--draws N]

DATA and GENERATION as of `noise.py`, whose generation of narrow rows is taken. The patients of all sites are
put together and dealt anew each draw: members, as many others, and the rest as the attacker's reference. Who
attacks holds the candidate's image and mask, and with them its Grams. The test is a likelihood ratio of
Gaussian Grams, (T − n μ)ᵀ Σ⁻¹ (v − μ), mean and covariance from the reference; better ones may be had. Exact
sums are those of mean Grams, noisy ones come of the code that a hospital runs. Intervals as of `attacks.py`.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from attack_scores import Scores
from noise import narrow, read_sites, task_parser

from fedmed_edge.errors import Withheld
from fedmed_edge.features.extract import extract
from fedmed_edge.generation import Generation, read_generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.feature_statistics import pack
from fedmed_edge.statistics.privacy import ClippedAccumulator, private_statistics, row_scale

Array = npt.NDArray[np.float64]

MIN_COHORT = 10


@dataclass(frozen=True)
class Patients:
    """Grams (N, C, P) of every patient's rows, and the factors (D,) that rows are scaled by."""

    grams: Array
    scale: Array
    classes: tuple[str, ...]

    @property
    def means(self) -> Array:
        """(N, C · P) mean Grams of scaled rows, those beside the diagonal times √2: what is clipped."""
        width = len(self.scale)
        rows, columns = np.triu_indices(width)
        size = pack(np.outer(self.scale, self.scale)) * np.where(rows == columns, 1.0, np.sqrt(2.0))
        means = self.grams / np.maximum(self.grams[:, :, -1:], 1.0) * size
        return np.asarray(means.reshape(len(means), -1))


def read_patients(generation: Generation, data: dict[str, Dataset]) -> Patients:
    """One Gram a class of every patient of all sites, training or test."""
    grams, header = [], generation.header
    classes = next(iter(data.values())).recipe.classes
    for dataset in data.values():
        labelled = dataset.labelled
        for patient in sorted({item.patient for item in labelled}):
            mine = [index for index, item in enumerate(labelled) if item.patient == patient]
            sums = extract(generation, labelled.subset(mine), min_cohort=1, device="cpu")
            grams.append([sums.class_gram(index) for index in range(len(classes))])
    scale = row_scale(sum(header.widths), generation.feature_dim, header.lift_dim)
    return Patients(np.array(grams), scale, classes)


def released(patients: Patients, members: npt.NDArray[np.intp], epsilon: float | None) -> Array | None:
    """What the attacker has of the members, in the space of `Patients.means`; None where nothing leaves."""
    if epsilon is None:
        return np.asarray(patients.means[members].sum(axis=0))
    sums = ClippedAccumulator(patients.classes, scale=patients.scale, clip=1.0, kind="segmentation")
    for number in members.tolist():
        for index, gram in enumerate(patients.grams[number]):
            sums.add_gram(gram, index, f"p{number}")
    noise = noise_multiplier(epsilon, 1.0 / len(members) ** 2)
    try:
        made = private_statistics(
            sums, patients.scale, multiplier=noise, min_cohort=MIN_COHORT, feature_dim=len(patients.scale) - 1
        )
    except Withheld:
        return None
    grams = np.array([[made.class_gram(index) for index in range(len(patients.classes))]])
    counts = grams[:, :, -1:]
    return np.asarray(
        (Patients(grams, patients.scale, patients.classes).means.reshape(*grams.shape) * counts).ravel()
    )


def scores_of(total: Array, count: int, reference: Array, candidates: Array) -> Array:
    """(N,) log-likelihood ratio of every candidate, up to what all have in common."""
    mean = reference.mean(axis=0)
    centred = reference - mean
    level = 0.1 * float((centred**2).mean())
    # Σ⁻¹ by the reference's own span: (A'A/n + λ)⁻¹ = (I − A'(AA'/n + λ)⁻¹A/n) / λ
    inner = centred @ centred.T / len(centred) + level * np.eye(len(centred))
    away = total - count * mean
    away = (away - centred.T @ np.linalg.solve(inner, centred @ away) / len(centred)) / level
    return np.asarray((candidates - mean) @ away)


def main() -> None:
    parser = task_parser(__doc__)
    parser.add_argument("--patients", default="20,40")
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    recipe, data = read_sites(options.data)
    backbone, random = read_generation(options.generation), np.random.default_rng(0)
    print("| columns | release | n | AUC | TPR at 0.1 % false positives | draws |\n|---|---|---|---|---|---|")
    for width in (int(one) for one in options.widths.split(",")):
        patients = read_patients(narrow(backbone, recipe, data, width), data)
        means = patients.means
        for count in (int(one) for one in options.patients.split(",")):
            for epsilon in (None, 16.0, 8.0, 4.0, 1.0):
                scores, made = Scores(), 0
                for _ in range(options.draws):
                    inside, outside, rest = np.split(random.permutation(len(means)), [count, 2 * count])
                    total = released(patients, inside, epsilon)
                    if total is not None:
                        made += 1
                        scores.add(
                            *(scores_of(total, count, means[rest], means[who]) for who in (inside, outside))
                        )
                name = "exact" if epsilon is None else f"ε {epsilon:g}"
                figures = scores.figures(random) if made else {}
                told = [
                    f"{scale * value:.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
                    for (value, low, high), scale, digits in zip(
                        figures.values(), (1, 100), (3, 2), strict=False
                    )
                ]
                print(
                    f"| {width + 1} | {name} | {count} | {' | '.join(told) or '– | –'} | {made} |", flush=True
                )


if __name__ == "__main__":
    main()
