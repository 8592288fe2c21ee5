"""What a hospital gets that joins with few labelled patients: its own sums, rebuilt, refined.

    .venv/bin/python tests/bench/few_labels.py TASK… [--labels 5,10,20,40,80] [--budget small] [--policy open]
        [--seeds 1] [--draws 2] [--site NAME] [--out DIR]

TASK is a task folder of a classification. Every site in turn joins by its sums over a backbone that has
learned without it; so many of its training patients are in them, and two thirds of all at last. Its other
training patients, 20 at least, are asked: balanced accuracy. No test image is read, so that what `refine`
does by default may be chosen by these figures. DIR keeps what was trained, and may be a folder of
`bench-method` of the same budget: what is there is taken.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import end_with

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset, read_task
from fedmed_edge.metrics import balanced_accuracy
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.model.refine import refine
from fedmed_edge.study.methods.reference import Reference
from fedmed_edge.study.plan import METHOD_BUDGETS, POLICIES

LEAST_ASKED = 20
"""Patients of a site that must be left to ask about."""


class Join(NamedTuple):
    """Balanced accuracies of one join; `kept` is `refined` or `global`."""

    own_sums: float
    rebuilt: float
    refined: float
    kept: str | None


def join(backbone: Reference, site: str, seen: Dataset, asked: Dataset) -> Join | None:
    """One site joins by the sums of some patients and is asked about others; None where nothing may leave."""
    sent, _ = backbone.contribution("lifted", site, seen)
    if sent is None:
        return None
    recipe, trained_by = backbone.recipe, backbone.generation("lifted").header.trained_by
    made = [backbone.contribution("lifted", name, data)[0] for name, data in backbone.founders.items()]
    everybody = [one for one in (*made, sent) if one is not None]
    rows, labels = backbone.rows("lifted", asked), np.array([item.label for item in asked])

    def score(model: GlobalModel) -> float:
        answers = model.probabilities(rows).argmax(axis=1)
        return float(balanced_accuracy(answers, labels, np.ones((1, len(labels))))[0])

    refined = refine(everybody, site, recipe, trained_by=trained_by)
    return Join(
        score(rebuild([sent], recipe)), score(rebuild(everybody, recipe)), score(refined), refined.kept
    )


def joins_of(backbone: Reference, site: str, data: Dataset, options: argparse.Namespace) -> Iterator[Join]:
    """Every number of labels and draw of one site; each is printed."""
    patients = sorted(data.patients)
    for count in [*options.labels, 2 * len(patients) // 3]:
        for draw in range(options.draws if len(patients) - count >= LEAST_ASKED else 0):
            order = np.random.default_rng([backbone.seed, draw]).permutation(len(patients))
            made = join(backbone, site, *data.by_patient([patients[number] for number in order[:count]]))
            told = "nothing may leave" if made is None else " | ".join(f"{x:.3f}" for x in made[:3])
            print(
                f"| {backbone.recipe.name} | {site} | {backbone.seed} | {count} | {draw} | {told} |", end=""
            )
            print(f" {made.kept} |" if made else "", flush=True)
            if made:
                yield made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument(
        "--labels", type=lambda told: [int(one) for one in told.split(",")], default="5,10,20,40,80"
    )
    parser.add_argument("--budget", choices=tuple(METHOD_BUDGETS), default="small")
    parser.add_argument("--policy", choices=tuple(POLICIES), default="open")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--site", action="append")
    parser.add_argument("--out", type=Path, default=Path("few-labels"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| task | site | seed | labelled patients | draw | own_sums | rebuilt | refined | kept |")
    print("|---|---|---|---|---|---|---|---|---|")
    joins: list[Join] = []
    for task in map(read_task, options.tasks):
        if task.recipe.kind != "classification":
            raise InputError(f"{task.name}: is a segmentation, expected a classification")
        train = {site: data.train.labelled for site, data in task.datasets().items()}
        for site in map(task.site_named, options.site or train):
            if site not in train:
                raise InputError(f"{task.name}: has no site `{site}`, expected one of {', '.join(train)}")
            for seed in range(options.seeds):
                backbone = Reference(
                    task.recipe,
                    {name: data for name, data in train.items() if name != site},
                    METHOD_BUDGETS[options.budget].training[task.recipe.kind],
                    POLICIES[options.policy],
                    options.out / "kept",
                    seed=seed,
                    device="auto",
                    watch=lambda step: None,
                )
                joins += joins_of(backbone, site, train[site], options)
    print("\n| beside rebuilt | joins | mean difference | better | worse by more than 0.01 |")
    print("|---|---|---|---|---|")
    for method in ("own_sums", "refined"):
        gained = np.array([getattr(one, method) - one.rebuilt for one in joins])
        if len(gained):
            better, worse = np.mean(gained > 0), np.mean(gained < -0.01)
            print(f"| {method} | {len(gained)} | {gained.mean():+.3f} | {better:.0%} | {worse:.0%} |")


if __name__ == "__main__":
    end_with(main)
