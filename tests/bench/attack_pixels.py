"""Membership from what leaves of a segmentation: is this patient's image in it? With and without noise.

    .venv/bin/python tests/bench/attack_pixels.py DATA GENERATION [--widths 16,32] [--patients 10,20,40]
        [--draws N] [--quick]

DATA and GENERATION as of `noise.py`, whose generation of narrow rows is taken; width 0 is GENERATION as it
is. The patients of all sites are put together and dealt anew each draw: members, as many others, and the rest
as the attacker's reference. Who attacks holds the candidate's image and mask, and with them its Grams: those
of its rows by class (`classes`, in folds as a hospital plans them), and that of the differences to its
shifted view (`shifts`), which is drawn by the image itself. Two tests, of which the better one counts:

likelihood  Ratio for Gaussian Grams, (T − n μ)ᵀ Σ⁻¹ (v − μ), mean and covariance from the reference.
span        A sum without noise less the Gram of a member is still one: no direction has more of the candidate
            than of all. For patients of one row that is zᵀG⁻¹z ≤ 1.

Noisy sums come of the code that a hospital runs. Intervals as of `attacks.py`.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from attack_scores import Scores, percent, shown, sum_likelihood
from harness import end_with
from noise import MIN_COHORT, narrow, read_sites, task_parser

from fedmed_edge.errors import Withheld
from fedmed_edge.features.extract import extract
from fedmed_edge.generation import Generation, read_generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.feature_statistics import pack, unpack
from fedmed_edge.statistics.folds import plan_folds
from fedmed_edge.statistics.privacy import ClippedAccumulator, private_statistics, row_scale

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Patients:
    """Every patient's Grams, of classes and then of shifts (N, C + 1, P); factors (D,) that scale rows."""

    grams: Array
    scale: Array
    classes: tuple[str, ...]

    @property
    def size(self) -> Array:
        """(P,) factors of a packed Gram: of scaled rows, and √2 beside the diagonal: as noise is measured."""
        rows, columns = np.triu_indices(len(self.scale))
        return pack(np.outer(self.scale, self.scale)) * np.where(rows == columns, 1.0, np.sqrt(2.0))

    @property
    def means(self) -> Array:
        """(N, C · P) mean Grams of scaled rows by class: what is clipped."""
        grams = self.grams[:, :-1]
        means = grams / np.maximum(grams[:, :, -1:], 1.0) * self.size
        return np.asarray(means.reshape(len(means), -1))


def read_patients(generation: Generation, data: dict[str, Dataset]) -> Patients:
    """One Gram a class of every patient of all sites, training or test, and that of the shifts."""
    grams, header = [], generation.header
    classes = next(iter(data.values())).recipe.classes
    for dataset in data.values():
        labelled = dataset.labelled
        for patient in sorted({item.patient for item in labelled}):
            mine = [index for index, item in enumerate(labelled) if item.patient == patient]
            sums = extract(generation, labelled.subset(mine), min_cohort=1, device="cpu")
            grams.append([*(sums.class_gram(index) for index in range(len(classes))), sums.shift_gram])
    scale = row_scale(sum(header.widths), generation.feature_dim, header.lift_dim)
    return Patients(np.array(grams), scale, classes)


@dataclass(frozen=True)
class Cohort:
    """Sum (B, P) of `count` patients' Grams that the attacker holds, and which of theirs these are."""

    total: Array
    count: int
    which: slice


def exact_sums(patients: Patients, members: npt.NDArray[np.intp]) -> dict[str, list[Cohort]]:
    """Part → the sums in it that a member could be in."""
    ids = [f"p{number}" for number in members.tolist()]
    plan = plan_folds({index: ids for index in range(len(patients.classes))}, MIN_COHORT)
    fold = np.array([plan.fold(one, 0) for one in ids])
    classes, shifts = slice(0, -1), slice(-1, None)
    folds = [members[fold == one] for one in np.unique(fold)]
    return {
        "classes": [Cohort(patients.grams[who, classes].sum(axis=0), len(who), classes) for who in folds],
        "shifts": [Cohort(patients.grams[members, shifts].sum(axis=0), len(members), shifts)],
    }


def span_score(cohort: Cohort, patients: Patients, candidates: npt.NDArray[np.intp]) -> Array:
    """(N,) minus the most that a direction has of the candidate for what it has of all; members: ≥ −1."""
    worst = np.full(len(candidates), -np.inf)
    for place, total in enumerate(cohort.total):
        gram = unpack(total)
        # columns are scaled to length 1, and a tiny ridge stands in for directions that nobody has
        length = np.sqrt(np.maximum(np.diag(gram), 1e-12 * np.trace(gram) / len(gram)))
        root = np.linalg.cholesky(gram / np.outer(length, length) + 1e-9 * np.eye(len(gram)))
        away = np.linalg.inv(root) / length
        for number, candidate in enumerate(patients.grams[candidates][:, cohort.which][:, place]):
            most = float(np.linalg.eigvalsh(away @ unpack(candidate) @ away.T)[-1])
            worst[number] = max(worst[number], most)
    return -worst


def likelihood_score(
    cohort: Cohort, patients: Patients, candidates: npt.NDArray[np.intp], reference: npt.NDArray[np.intp]
) -> Array:
    """(N,) log-likelihood ratio of every candidate, up to what all have in common."""
    total = (cohort.total * patients.size).ravel()
    known, asked = (
        (patients.grams[who][:, cohort.which] * patients.size).reshape(len(who), -1)
        for who in (reference, candidates)
    )
    return sum_likelihood(total, cohort.count, known, asked)


def exact_scores(
    patients: Patients,
    members: npt.NDArray[np.intp],
    candidates: npt.NDArray[np.intp],
    reference: npt.NDArray[np.intp],
) -> Iterator[tuple[str, str, Array]]:
    """Part, test and scores of the candidates; `both` is of the two parts together."""
    tests: dict[str, Callable[[Cohort], Array]] = {
        "span": lambda cohort: span_score(cohort, patients, candidates),
        "likelihood": lambda cohort: likelihood_score(cohort, patients, candidates, reference),
    }
    sums = exact_sums(patients, members)
    for test, score in tests.items():
        found = {part: np.max([score(one) for one in cohorts], axis=0) for part, cohorts in sums.items()}
        for part, scores in found.items():
            yield part, test, scores
        both = list(found.values())
        yield "both", test, np.minimum(*both) if test == "span" else np.add(*both)


def released(patients: Patients, members: npt.NDArray[np.intp], epsilon: float) -> Array | None:
    """What the attacker has of the members, in the space of `Patients.means`; None where nothing leaves."""
    sums = ClippedAccumulator(patients.classes, scale=patients.scale, clip=1.0, kind="segmentation")
    for number in members.tolist():
        for index in range(len(patients.classes)):
            sums.add_gram(patients.grams[number, index], index, f"p{number}")
    noise = noise_multiplier(epsilon, 1.0 / len(members) ** 2)
    try:
        made = private_statistics(
            sums, multiplier=noise, min_cohort=MIN_COHORT, feature_dim=len(patients.scale) - 1
        )
    except Withheld:
        return None
    # Grams come out as sums of mean ones, a patient's counts 1 a class
    grams = np.array([made.class_gram(index) for index in range(len(patients.classes))])
    return np.asarray((grams * patients.size).ravel())


def deal(patients: Patients, count: int, random: np.random.Generator) -> tuple[npt.NDArray[np.intp], ...]:
    """Members, as many others, and the rest."""
    return tuple(np.split(random.permutation(len(patients.grams)), [count, 2 * count]))


def attack_exact(patients: Patients, count: int, draws: int) -> dict[str, tuple[Scores, ...]]:
    """Part → scores over the draws, one a test."""
    random = np.random.default_rng(0)
    scores: dict[str, dict[str, Scores]] = {}
    for _ in range(draws):
        inside, outside, rest = deal(patients, count, random)
        asked = np.concatenate([inside, outside])
        for part, test, found in exact_scores(patients, inside, asked, rest):
            scores.setdefault(part, {}).setdefault(test, Scores()).add(found[:count], found[count:])
    return {part: tuple(tests.values()) for part, tests in scores.items()}


def attack_noisy(patients: Patients, count: int, draws: int, epsilon: float) -> Scores:
    """Scores over the draws in which something leaves."""
    random, means, scores = np.random.default_rng(0), patients.means, Scores()
    for _ in range(draws):
        inside, outside, rest = deal(patients, count, random)
        total = released(patients, inside, epsilon)
        if total is not None:
            scores.add(*(sum_likelihood(total, count, means[rest], means[who]) for who in (inside, outside)))
    return scores


def line(width: int, name: str, count: int, tests: tuple[Scores, ...]) -> str:
    """A row of the table: the better test by AUC and by TPR."""
    random = np.random.default_rng(0)
    found = [scores.figures(random) for scores in tests if scores.members]
    if found:
        auc, tpr = (max(one[measure] for one in found) for measure in ("auc", "tpr"))
        figures = f"{shown(auc)} | {percent(tpr, 2)}"
    else:
        figures = "– | –"
    return f"| {width} | {name} | {count} | {figures} | {len(tests[0].members)} |"


def main() -> None:
    parser = task_parser(__doc__)
    parser.add_argument("--patients", default="10,20,40")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="ten draws of 17 columns")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    recipe, data = read_sites(options.data)
    backbone = read_generation(options.generation)
    widths, draws = ("16", 10) if options.quick else (options.widths, options.draws)
    print("| columns | release | n | AUC | TPR at 0.1 % false positives | draws |\n|---|---|---|---|---|---|")
    for width in (int(one) for one in widths.split(",")):
        generation = narrow(backbone, recipe, data, width) if width else backbone
        patients = read_patients(generation, data)
        for count in (int(one) for one in options.patients.split(",")):
            for part, tests in attack_exact(patients, count, draws).items():
                print(line(generation.row_dim, f"exact, {part}", count, tests), flush=True)
            for epsilon in (16.0, 8.0, 4.0, 1.0) if width else ():
                scores = attack_noisy(patients, count, draws, epsilon)
                print(line(generation.row_dim, f"ε {epsilon:g}", count, (scores,)), flush=True)


if __name__ == "__main__":
    end_with(main)
