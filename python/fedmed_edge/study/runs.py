"""Several runs of one join experiment, seed by seed, as one set of figures with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedmed_edge.recipe import Recipe
from fedmed_edge.study.join import COLUMNS, Join
from fedmed_edge.study.metrics import LEVEL, resampling_weights
from fedmed_edge.study.scores import Answers, calibration_error, score, scores

CURVE_COLUMNS = ("own_sums", "rebuilt", "refined")


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure with what it would have been on other draws of patients and runs.

    Figures of one site are drawn with the same patients and runs, so their difference is a paired one.

    Attributes:
        drawn: (draws,) float64.
    """

    value: float
    drawn: npt.NDArray[np.float64]

    @property
    def interval(self) -> tuple[float, float]:
        """Percentile bootstrap interval of 95 %."""
        low, high = np.percentile(self.drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        return float(low), float(high)

    def __sub__(self, other: "Figure") -> "Figure":
        return Figure(self.value - other.value, self.drawn - other.drawn)


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Mean of figures, draw by draw."""
    return Figure(
        float(np.mean([one.value for one in figures])), np.mean([one.drawn for one in figures], axis=0)
    )


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs that differ in their seed alone.

    Attributes:
        joins: At least one, in order of seeds.
    """

    joins: tuple[Join, ...]

    @property
    def first(self) -> Join:
        """The run whose story and pictures stand for all."""
        return self.joins[0]

    @property
    def columns(self) -> list[str]:
        """The columns that every run has, in order."""
        return [column for column in COLUMNS if all(column in join.answers for join in self.joins)]

    @property
    def sites(self) -> list[str]:
        """Sites with test images, in order of name."""
        return list(self.first.tests)

    @cached_property
    def scores(self) -> dict[str, dict[str, Figure]]:
        """Column → site → score, where every run has one."""
        return {
            column: {
                site: self._figure([(join.answers[column][site],) for join in self.joins], number)
                for number, site in enumerate(self.sites)
                if all(site in join.answers[column] for join in self.joins)
                and self.first.answers[column][site].patients
            }
            for column in self.columns
        }

    def row(self, site: str) -> dict[str, Figure]:
        """Column → score at one site, where there is one."""
        return {column: sites[site] for column, sites in self.scores.items() if site in sites}

    @cached_property
    def means(self) -> dict[str, Figure]:
        """Column → mean over the sites that have it."""
        return {column: mean_of(list(sites.values())) for column, sites in self.scores.items() if sites}

    @cached_property
    def curve(self) -> dict[int, dict[str, Figure]]:
        """Labels at the joining site → column → score there."""
        number = self.sites.index(self.first.joining)
        return {
            count: {
                column: self._figure([join.curve[count][column] for join in self.joins], number)
                for column in CURVE_COLUMNS
                if all(column in join.curve[count] for join in self.joins)
            }
            for count in self.first.curve
        }

    @cached_property
    def curve_gains(self) -> dict[int, dict[str, Figure]]:
        """Labels at the joining site → column → that column minus own_sums, where the site has its own."""
        return {
            count: {
                column: found[column] - found["own_sums"]
                for column in ("rebuilt", "refined")
                if column in found
            }
            for count, found in self.curve.items()
            if "own_sums" in found
        }

    def spread(self, column: str) -> float | None:
        """Standard deviation over the runs of the mean over sites; None of one run."""
        if len(self.joins) < 2:
            return None
        recipe, sites = self.first.recipe, self.scores[column]
        by_run = [
            np.mean([score(recipe, join.answers[column][site]) for site in sites]) for join in self.joins
        ]
        return float(np.std(by_run, ddof=1))

    def calibration_error(self, column: str) -> float | None:
        """Expected calibration error over all sites' test images, mean over the runs (classification)."""
        errors = [calibration_error(together(join.answers[column])) for join in self.joins]
        known = [error for error in errors if error is not None]
        return float(np.mean(known)) if known else None

    def _figure(self, answers: Sequence[Sequence[Answers]], site: int) -> Figure:
        return figure_of(self.first.recipe, answers, site)


def figure_of(recipe: Recipe, answers: Sequence[Sequence[Answers]], site: int) -> Figure:
    """Mean over runs, each a mean of its answers; a draw draws patients, and runs if several.

    Args:
        answers: Of every run, on the same images.
        site: Number of the site: figures of one site are drawn alike.
    """
    count = len(answers)
    patients = resampling_weights(answers[0][0].patients, seed=site)
    runs = resampling_weights([str(number) for number in range(count)], seed=count)
    by_run = [np.mean([scores(recipe, one, patients) for one in run], axis=0) for run in answers]
    drawn = (np.stack(by_run, axis=1) * runs).mean(axis=1)
    return Figure(float(np.mean([np.mean([score(recipe, one) for one in run]) for run in answers])), drawn)


def together(answers: Mapping[str, Answers]) -> Answers:
    """The answers of all sites as one; patients of different sites stay different."""
    total = Answers()
    for site, one in answers.items():
        total = total + replace(one, patients=[f"{site}/{patient}" for patient in one.patients])
    return total
