"""Who is held out together, and which classes are too small to leave the hospital."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fedmed_edge.statistics.feature_statistics import REST

FOLD_NUMBERS = (5, 2)
"""Numbers of folds that are tried for a class, best first."""


@dataclass(frozen=True)
class FoldPlan:
    """Fold of every patient in every class of one site.

    Attributes:
        min_cohort: Patients that a class, a fold and the unlabelled part each need at least.
        folds: Class index → 5, 2, or 0 for a class that goes whole into the rest; absent classes are not
            in it.
        numbers: Patient → its number in the deal, from 0.
        patients: Class index → ids of its patients; absent classes are not in it.
        unlabelled: Ids of the patients with unlabelled images; empty where they are too few.
        too_few: Class index → number of its patients where they are fewer than `min_cohort`, so that it is
            left out; None for those with unlabelled images.
    """

    min_cohort: int
    folds: Mapping[int, int]
    numbers: Mapping[str, int] = field(repr=False)
    patients: Mapping[int, frozenset[str]] = field(repr=False)
    unlabelled: frozenset[str] = field(default=frozenset(), repr=False)
    too_few: Mapping[int | None, int] = field(default_factory=dict)

    def fold(self, patient: str, index: int) -> int | None:
        """Fold of a patient's rows of class `index`: `REST` without folds, None for a class left out."""
        if index not in self.folds:
            return None
        count = self.folds[index]
        return self.numbers[patient] % count if count else REST

    def keeps(self, classes: Iterable[int]) -> bool:
        """Whether an image with rows of these classes may count at all; no class means an unlabelled image.

        An image whose every class is left out must not count in the image, channel and style sums either:
        their difference to the class sums would show the very rows that `min_cohort` guards.
        """
        present = set(classes)
        return bool(self.unlabelled) if not present else any(index in self.folds for index in present)


def plan_folds(
    patients_by_class: Mapping[int, Collection[str]],
    min_cohort: int,
    *,
    unlabelled: Collection[str] = (),
) -> FoldPlan:
    """Decide the folds of a site by class and by patient (method §2).

    Patients are ordered by (their rarest class, SHA-256 of their id) and numbered; patient i is in fold
    i mod n of a class with n folds. A class has 5 folds, else 2, where each of them keeps `min_cohort`
    patients; else it goes whole into the rest. A class below `min_cohort` is absent.

    Args:
        patients_by_class: Class index → ids of the patients with rows of that class.
        min_cohort: At least 1.
        unlabelled: Ids of the patients with unlabelled images.

    Raises:
        ValueError: `min_cohort` is below 1.

    Example:
        >>> plan = plan_folds({0: [f"p{i}" for i in range(50)], 1: ["p1", "p2"]}, min_cohort=10)
        >>> dict(plan.folds), plan.fold("p1", 1) is None
        ({0: 5}, True)
    """
    if min_cohort < 1:
        raise ValueError(f"`min_cohort` has {min_cohort}, expected at least 1")
    members = {index: frozenset(patients) for index, patients in sorted(patients_by_class.items())}
    numbers = _deal(members)
    folds: dict[int, int] = {}
    too_few: dict[int | None, int] = {}
    for index, patients in members.items():
        if len(patients) < min_cohort:
            too_few[index] = len(patients)
            continue
        folds[index] = _folds_of([numbers[patient] for patient in patients], min_cohort)
    pooled = frozenset(unlabelled)
    if 0 < len(pooled) < min_cohort:
        too_few[None] = len(pooled)
        pooled = frozenset()
    return FoldPlan(min_cohort, folds, numbers, {index: members[index] for index in folds}, pooled, too_few)


def _deal(members: Mapping[int, frozenset[str]]) -> dict[str, int]:
    rarest: dict[str, tuple[int, int]] = {}
    for index, patients in members.items():
        for patient in patients:
            rarest[patient] = min(rarest.get(patient, (len(patients), index)), (len(patients), index))
    order = sorted(rarest, key=lambda patient: (rarest[patient], hashlib.sha256(patient.encode()).digest()))
    return {patient: number for number, patient in enumerate(order)}


def _folds_of(numbers: list[int], min_cohort: int) -> int:
    for count in FOLD_NUMBERS:
        sizes = [0] * count
        for number in numbers:
            sizes[number % count] += 1
        if min(sizes) >= min_cohort:
            return count
    return 0
