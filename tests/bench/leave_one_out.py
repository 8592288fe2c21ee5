"""What `evaluate` foretells of a hospital without asking it, against a backbone that never saw the hospital.

    .venv/bin/python tests/bench/leave_one_out.py TASK… [--budget small] [--policy default] [--seeds 1]
        [--out DIR]

TASK is a task folder. From sums: the backbone has learned from all sites, the head is fitted without one
and judged on its sums, as `fedmed-server evaluate` does. True: the backbone too has learned without the site.
Both by relative squared error and by expected recall. DIR keeps what was trained, and may be a folder of
`bench-method` of the same budget: what is there is taken. Resumable; sites that may hand over nothing are
passed over.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import end_with
from scipy.stats import pearsonr, spearmanr

from fedmed_edge.images.dataset import Task, read_task
from fedmed_edge.model.evaluate import SiteEvaluation, evaluate
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.study.methods.reference import Reference
from fedmed_edge.study.plan import METHOD_BUDGETS, POLICIES


class Pair(NamedTuple):
    """One site and seed."""

    task: str
    site: str
    seed: int
    from_sums: SiteEvaluation
    true: SiteEvaluation


def pairs_of(task: Task, seed: int, options: argparse.Namespace) -> Iterator[Pair]:
    """Both judgements of every site of a task."""
    train = {site: data.train for site, data in task.datasets().items()}
    everybody = Reference(
        task.recipe,
        train,
        METHOD_BUDGETS[options.budget].training[task.recipe.kind],
        POLICIES[options.policy],
        options.out / "kept",
        seed=seed,
        device="auto",
        watch=lambda step: None,
    )
    from_sums = _judged(everybody, everybody)
    for site in sorted(from_sums):
        others = everybody.of({name: data for name, data in train.items() if name != site})
        yield Pair(task.name, site, seed, from_sums[site], _judged(others, everybody)[site])


def _judged(backbone: Reference, everybody: Reference) -> dict[str, SiteEvaluation]:
    """Every site that hands over sums, by a head without it on this backbone."""
    made = {site: backbone.contribution("lifted", site, data)[0] for site, data in everybody.founders.items()}
    given = {site: one for site, one in made.items() if one is not None}
    founders = [one for site, one in given.items() if site in backbone.founders]
    ridge = rebuild(founders, backbone.recipe).ridge
    return dict(evaluate(list(given.values()), backbone.recipe, ridge=ridge).sites)


def show(name: str, pairs: Sequence[Pair], measure: str) -> None:
    """Correlation and bias of one measure."""
    found = [(getattr(pair.from_sums, measure), getattr(pair.true, measure)) for pair in pairs]
    told, true = np.array([pair for pair in found if None not in pair], np.float64).T
    line = f"| {name} | {measure.replace('_', ' ')} | {len(true)} | {true.mean():.3f} |"
    line += f" {np.mean(told - true):+.3f} | {np.mean(np.abs(told - true)):.3f} |"
    if len(true) > 2:
        line += f" {pearsonr(told, true).statistic:.2f} | {spearmanr(told, true).statistic:.2f} |"
    print(line + (" – | – |" if len(true) <= 2 else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--budget", choices=tuple(METHOD_BUDGETS), default="small")
    parser.add_argument("--policy", choices=tuple(POLICIES), default="default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("leave-one-out"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| task | site | seed | error from sums | true | expected recall from sums | true |")
    print("|---|---|---|---|---|---|---|")
    pairs = []
    for task in map(read_task, options.tasks):
        for seed in range(options.seeds):
            for pair in pairs_of(task, seed, options):
                pairs.append(pair)
                told = [(one.relative_error, one.expected_recall) for one in (pair.from_sums, pair.true)]
                figures = [f"{told[side][kind]:.3f}" for kind in (0, 1) for side in (0, 1)]
                print(f"| {pair.task} | {pair.site} | {seed} | {' | '.join(figures)} |", flush=True)
    print("\n| task | measure | n | true, mean | bias | mean difference | correlation | of ranks |")
    print("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(pair.task for pair in pairs):
        for measure in ("relative_error", "expected_recall"):
            show(name, [pair for pair in pairs if pair.task == name], measure)
    for measure in ("relative_error", "expected_recall"):
        show("all", pairs, measure)


if __name__ == "__main__":
    end_with(main)
