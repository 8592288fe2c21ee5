"""What noise costs: score of the rebuilt model by ε and width of the rows, at δ = 1/n².

    .venv/bin/python tests/bench/noise.py DATA GENERATION [--widths 16,32] [--epsilons 16,8,4,2,1] [--draws N]

DATA is a task folder, GENERATION a generation of its images, whose backbone is taken; its rows are made anew,
without lift, from exact sums of all sites. Every site hands over its training images through the code that a
hospital runs; noise is drawn N times. The score is balanced accuracy or Dice on the sites' test images, mean
over the sites. Intervals are 95 % bootstraps over draws: they tell of the noise alone.
"""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedmed_edge.errors import Withheld
from fedmed_edge.features.extract import evaluate_heads, extract, extract_clipped
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.generation import Generation, read_generation
from fedmed_edge.images.dataset import Dataset, read_dataset, read_task
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


def model_of(sums: Mapping[str, FeatureStatistics], recipe: Recipe, *, noise: bool) -> GlobalModel:
    """The model that a server rebuilds from these."""
    sites = [replace(site_sums(site, one, recipe), noise=noise) for site, one in sums.items()]
    made = fit(sites, {one.site: 1.0 for one in sites}, recipe)
    return GlobalModel(recipe, "", made.head, made.choice.ridge, made.posterior)


def models_by_epsilon(
    generation: Generation, data: Mapping[str, Dataset], epsilons: list[float], draws: int
) -> dict[str, list[GlobalModel]]:
    """`exact` and each ε → models, of the sites that have the patients and a class that stands out."""
    recipe = next(iter(data.values())).recipe
    data = {site: one.train for site, one in data.items() if max(one.train.counts().values()) >= MIN_COHORT}
    exact = {site: extract(generation, one, min_cohort=MIN_COHORT) for site, one in data.items()}
    models = {"exact": [model_of(exact, recipe, noise=False)]}
    clipped = {site: extract_clipped(generation, one, clip=1.0) for site, one in data.items()}
    for epsilon in epsilons:
        models[f"ε {epsilon:g}"] = found = []
        for _ in range(draws):
            sums = {}
            for site, (total, scale) in clipped.items():
                total.result()
                noise = noise_multiplier(epsilon, 1.0 / total.patients**2)
                try:
                    sums[site] = private_statistics(
                        total,
                        scale,
                        multiplier=noise,
                        min_cohort=MIN_COHORT,
                        feature_dim=generation.feature_dim,
                    )
                except Withheld:
                    continue
            if sums:
                found.append(model_of(sums, recipe, noise=True))
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("generation", type=Path)
    parser.add_argument("--widths", default="16,32")
    parser.add_argument("--epsilons", default="16,8,4,2,1")
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    task = read_task(options.data)
    data = {site: read_dataset(folder, task.recipe) for site, folder in sorted(task.sites.items())}
    backbone, random = read_generation(options.generation), np.random.default_rng(0)
    epsilons = [float(one) for one in options.epsilons.split(",")]
    print("| columns | noise | score | draws | nothing left |\n|---|---|---|---|---|")
    for width in (int(one) for one in options.widths.split(",")):
        generation = narrow(backbone, task.recipe, data, width)
        models = models_by_epsilon(generation, data, epsilons, options.draws)
        every = [model for found in models.values() for model in found]
        by_site = []
        for one in data.values():
            test = one.test.labelled
            predictions = evaluate_heads(generation, test, every)
            by_site.append([score(task.recipe, answers_of_predictions(test, each)) for each in predictions])
        scores = iter(np.mean(by_site, axis=0).tolist())
        for name, found in models.items():
            own = [next(scores) for _ in found]
            spread = [float(random.choice(own, len(own)).mean()) for _ in range(500)] if own else [np.nan]
            low, high = np.quantile(spread, (0.025, 0.975))
            lost = 0 if name == "exact" else options.draws - len(own)
            told = f"{np.mean(own):.3f} ({low:.3f} to {high:.3f})" if own else "–"
            print(f"| {width + 1} | {name} | {told} | {len(own)} | {lost} |", flush=True)


if __name__ == "__main__":
    main()
