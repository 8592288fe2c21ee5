"""Sums of a small site, whose numbers are whole so that every sum of them is exact."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.calibration import bin_counts
from fedmed_edge.statistics.contribution import Contribution, Evidence, new_contribution
from fedmed_edge.statistics.feature_statistics import FeatureStatistics

CLASSES = ("benign", "malignant", "rare")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(name="lesion", kind="classification", classes=CLASSES, size=(32, 32))


@pytest.fixture(scope="session")
def make_statistics() -> Callable[..., FeatureStatistics]:
    """D = 6, F = 3: classes of 20 and 8 patients (folds of 5 and 2), one of 3 that is too small for folds."""

    def make(seed: int = 0, counts: tuple[int, ...] = (20, 8, 3), min_cohort: int = 3) -> FeatureStatistics:
        random = np.random.default_rng(seed)
        members = {index: {f"{seed}-{index}-{i}" for i in range(n)} for index, n in enumerate(counts)}
        plan = plan_folds(members, min_cohort, unlabelled={"u1", "u2", "u3"})
        sums = Accumulator(CLASSES, row_dim=6, feature_dim=3, plan=plan)
        for index, patients in members.items():
            for patient in sorted(patients):
                if not sums.keeps([index]):
                    continue
                rows = random.integers(-9, 10, (2, 6)).astype(np.float32)
                rows[:, -1] = 1
                sums.add_rows(rows, np.full(2, index, np.int32), patient)
                sums.add_shifts(rows, rows * np.array([1, 1, 1, 1, 1.5, 1], np.float32))
                sums.add_image(rows[0, :3], float(rows[0, 0] ** 2))
                sums.add_channels([(4, rows[0, :2].astype(np.float64), rows[0, :2].astype(np.float64) ** 2)])
                sums.add_style(random.normal(size=(1, 3, 3)))
        for _ in range(3):
            rows = random.integers(-9, 10, (2, 6)).astype(np.float32)
            rows[:, -1] = 1
            sums.add_unlabelled(rows)
        counts = bin_counts(np.array([[0.75, 0.25, 0.0]]), np.array([0]))
        return replace(sums.result(), calibration=counts)

    return make


@pytest.fixture
def make_contribution(
    recipe: Recipe, make_statistics: Callable[..., FeatureStatistics]
) -> Callable[..., Contribution]:
    def make(seed: int = 0, site: str = "alpha", sequence: int = 1, **more: object) -> Contribution:
        values: dict[str, object] = {
            "generation": "ab" * 32,
            "recipe": recipe,
            "site": site,
            "sequence": sequence,
            "min_cohort": 3,
            "weights": {"stem.weight": np.ones((2, 1, 3, 3))},
            "evidence": Evidence(
                images={"train": 31}, patients={"benign": 20}, metrics={"balanced_accuracy": 0.75}, seed=0
            ),
        } | more
        return new_contribution(make_statistics(seed), **values)  # type: ignore[arg-type]

    return make
