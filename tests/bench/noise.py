"""What noise costs: score of the rebuilt model by ε and width of the rows, at δ = 1/n².

    .venv/bin/python tests/bench/noise.py DATA GENERATION [--widths 16,32] [--epsilons 16,8,4,2,1]
        [--draws N] [--join]

DATA is a task folder, GENERATION a generation of its images, whose backbone is taken; its rows are made anew,
without lift, from exact sums of all sites. Every site hands over its training images through the code that a
hospital runs; noise is drawn N times. The score is balanced accuracy or Dice on the sites' test images, mean
over the sites; with --join one site after the other has noise and all others none, and the score is the one
on its own images. Intervals are 95 % bootstraps over draws: they tell of the noise alone.
"""

import argparse
import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from attack_scores import mean_of, shown
from harness import end_with

from fedmed_edge.errors import Withheld
from fedmed_edge.features.extract import evaluate_heads, extract, extract_clipped
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.generation import Generation, read_generation
from fedmed_edge.images.dataset import Dataset, read_task
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import fit
from fedmed_edge.model.sums import site_sums
from fedmed_edge.recipe import Lift, Recipe
from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.statistics.privacy import private_statistics
from fedmed_edge.study.scores import answers_of_predictions, score

MIN_COHORT = 10


def narrow(backbone: Generation, recipe: Recipe, data: Mapping[str, Dataset], width: int) -> Generation:
    """A generation of the same backbone whose rows are `width` principal axes and the closing 1."""
    draft = draft_generation(recipe, backbone.weights)
    sums = {site: extract(draft, one.train, min_cohort=1, device="cpu") for site, one in data.items()}
    bare = recipe.model_copy(update={"lift": Lift(lift_dim=0, feature_dim=width)})
    return complete_generation(draft, bare, sums)


def task_parser(description: str | None) -> argparse.ArgumentParser:
    """Takes a task folder, a generation of its images, and the widths of narrow rows."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("generation", type=Path)
    parser.add_argument("--widths", default="16,32")
    return parser


def read_sites(folder: Path) -> tuple[Recipe, dict[str, Dataset]]:
    """A task's recipe, and its sites' data sets."""
    task = read_task(folder)
    return task.recipe, task.datasets()


Sums = Mapping[str, FeatureStatistics]


def model_of(exact: Sums, noisy: Sums, recipe: Recipe) -> GlobalModel:
    """The model that a server rebuilds from these."""
    sites = [site_sums(site, one, recipe) for site, one in exact.items()]
    sites += [replace(site_sums(site, one, recipe), noise=True) for site, one in noisy.items()]
    made = fit(sites, {one.site: 1.0 for one in sites}, recipe)
    return GlobalModel(recipe, "", made.head, made.choice.ridge, made.posterior)


class Hospitals:
    """Sums of the sites that have the patients; noise is drawn anew whenever it is asked for."""

    def __init__(self, generation: Generation, data: Mapping[str, Dataset]) -> None:
        train = {site: one.train for site, one in data.items()}
        self.recipe, self.feature_dim = next(iter(train.values())).recipe, generation.feature_dim
        able = {site: one for site, one in train.items() if max(one.counts().values()) >= MIN_COHORT}
        self.exact = {site: extract(generation, one, min_cohort=MIN_COHORT) for site, one in able.items()}
        self._clipped = {site: extract_clipped(generation, one, clip=1.0) for site, one in able.items()}

    def noisy(self, epsilon: float, sites: Collection[str]) -> dict[str, FeatureStatistics]:
        """Sums with noise of some sites; one of which no class stands out is not among them."""
        found = {}
        for site in sites:
            total = self._clipped[site]
            noise = noise_multiplier(epsilon, 1.0 / total.patients**2)
            with contextlib.suppress(Withheld):
                found[site] = private_statistics(
                    total, multiplier=noise, min_cohort=MIN_COHORT, feature_dim=self.feature_dim
                )
        return found

    def all_noisy(self, epsilons: list[float], draws: int) -> dict[str, list[GlobalModel]]:
        """`exact` and each ε → models."""
        models = {"exact": [model_of(self.exact, {}, self.recipe)]}
        for epsilon in epsilons:
            drawn = [self.noisy(epsilon, self.exact) for _ in range(draws)]
            models[f"ε {epsilon:g}"] = [model_of({}, sums, self.recipe) for sums in drawn if sums]
        return models

    def one_noisy(self, joining: str, epsilons: list[float], draws: int) -> dict[str, list[GlobalModel]]:
        """The same where one site joins others, whose sums are exact; and `without` it."""
        others = {site: one for site, one in self.exact.items() if site != joining}
        models = {"without": [model_of(others, {}, self.recipe)]}
        models["exact"] = [model_of(self.exact, {}, self.recipe)]
        for epsilon in epsilons:
            drawn = [self.noisy(epsilon, [joining]) for _ in range(draws)]
            models[f"ε {epsilon:g}"] = [model_of(others, sums, self.recipe) for sums in drawn]
        return models


def scores(generation: Generation, data: Mapping[str, Dataset], models: list[GlobalModel]) -> list[float]:
    """Of every model, mean over the sites."""
    by_site = []
    for one in data.values():
        test = one.test.labelled
        predictions = evaluate_heads(generation, test, models)
        by_site.append([score(test.recipe, answers_of_predictions(test, each)) for each in predictions])
    return [float(value) for value in np.mean(by_site, axis=0)]


def show(
    title: str, generation: Generation, data: Mapping[str, Dataset], models: Mapping[str, list[GlobalModel]]
) -> None:
    """One line for each name."""
    random = np.random.default_rng(0)
    got = iter(scores(generation, data, [model for found in models.values() for model in found]))
    for name, found in models.items():
        own = [next(got) for _ in found]
        figure = shown(mean_of(own, random)) if own else "–"
        print(f"| {title} | {generation.row_dim} | {name} | {figure} | {len(own)} |", flush=True)


def main() -> None:
    parser = task_parser(__doc__)
    parser.add_argument("--epsilons", default="16,8,4,2,1")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--join", action="store_true", help="One site with noise beside exact others.")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    recipe, data = read_sites(options.data)
    backbone = read_generation(options.generation)
    epsilons = [float(one) for one in options.epsilons.split(",")]
    print("| sites with noise | columns | noise | score | draws |\n|---|---|---|---|---|")
    for width in (int(one) for one in options.widths.split(",")):
        generation = narrow(backbone, recipe, data, width)
        hospitals = Hospitals(generation, data)
        if not options.join:
            show("all", generation, data, hospitals.all_noisy(epsilons, options.draws))
        for site in hospitals.exact if options.join else ():
            own = {site: data[site]}
            show(site, generation, own, hospitals.one_noisy(site, epsilons, options.draws))


if __name__ == "__main__":
    end_with(main)
