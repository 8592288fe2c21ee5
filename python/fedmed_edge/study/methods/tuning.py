"""How every method is tuned: the same number of options and the same rule for when to stop."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from fedmed_edge.images.dataset import Dataset
from fedmed_edge.study.methods.method import TRIALS, Case, Method
from fedmed_edge.study.methods.work import Learned, Option
from fedmed_edge.study.networks import plateau
from fedmed_edge.study.scores import score


@dataclass(frozen=True)
class Choice:
    """What a method runs with.

    Attributes:
        option: One of the method's.
        cycles: Of the budget.
        trials: Validation score of every option after its first cycle; NaN where nothing was answered.
        plateau: Whether it was looked for; False: one cycle was made, with the default option.
    """

    option: Option
    cycles: int = 1
    trials: tuple[float, ...] = ()
    plateau: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        trials = [None if np.isnan(value) else value for value in self.trials]
        return asdict(self) | {"option": dict(self.option), "trials": trials}


Question = tuple[Case, Mapping[str, Dataset]]
"""A case, and images to judge by."""


def choose(method: Method, case: Case) -> Choice:
    """Try every option for a cycle, go on with the best one until it gains no more.

    Judged by training patients of every site that has labels, kept out of the fit. A method that adapts to an
    unlabelled hospital is judged by each of the others in turn, its labels hidden; the reference has seen
    those, which is the same for every option.
    """
    if not case.budget.until_plateau:
        return Choice(method.options[0])
    fit, kept_out = case.split()
    questions: list[Question] = [(fit, kept_out)]
    if method.adapts:
        bare = {site: data.without_labels for site, data in fit.labelled.items()}
        questions = [
            (replace(fit, site=site, sites={**fit.labelled, site: bare[site]}), {site: held})
            for site, held in kept_out.items()
        ]
    runs = [_values(method, option, questions) for option in method.options[:TRIALS]]
    first = [next(run) for run in runs]
    best = int(np.argmax([-np.inf if np.isnan(value) else value for value in first]))
    cycles = plateau(chain([first[best]], runs[best]), case.budget, method.name)
    return Choice(method.options[best], cycles, tuple(first), plateau=True)


def run(method: Method, case: Case, choice: Choice) -> Learned:
    """What the method has learned after the chosen cycles, or where it ends before."""
    *_, last = islice(method.learn(case, choice.option), choice.cycles)
    return last


def _values(method: Method, option: Option, questions: list[Question]) -> Iterator[float]:
    """Validation score after every cycle; the mean over sites of every question."""
    for cycle in zip(*(method.learn(case, option) for case, _ in questions), strict=False):
        values = []
        for learned, (case, kept_out) in zip(cycle, questions, strict=True):
            for site, held in kept_out.items():
                predictor = learned.of(site)
                values.append(score(case.recipe, predictor(held)) if predictor else float("nan"))
        known = [value for value in values if not np.isnan(value)]
        yield float(np.mean(known)) if known else float("nan")
