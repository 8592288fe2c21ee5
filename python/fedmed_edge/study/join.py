"""The join experiment: a backbone learned without one site, which then joins by its statistics alone.

Every column of the table is a way for a hospital to get a model; the controls stand beside ours. Test images
choose nothing.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedmed_edge import __version__
from fedmed_edge.errors import InputError
from fedmed_edge.features.extract import extract_with_sample
from fedmed_edge.features.training import Network, build_network
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset, Task
from fedmed_edge.model.rebuild import rebuild
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.contribution import Contribution, new_contribution
from fedmed_edge.study.closed_form import Head, contribute, publish, reaches_cohort, score_heads
from fedmed_edge.study.label_curve import Curve, label_curve
from fedmed_edge.study.networks import (
    Column,
    Cost,
    joint_network,
    local_network,
    reference_network,
    useful_cycles,
)
from fedmed_edge.study.notebook import Notebook, images_digest
from fedmed_edge.study.one_place import OnePlace
from fedmed_edge.study.plan import Budget, StatedPolicy
from fedmed_edge.study.scores import Answers, answers_of_network, answers_of_threshold
from fedmed_edge.study.story import Story, tell
from fedmed_edge.study.usable import check_usable

Watch = Callable[[str], None]

COLUMNS = (
    "reference",
    "local",
    "own_sums",
    "fedavg",
    "rebuilt",
    "refined",
    "pooled",
    "untrained",
    "threshold",
)
COLUMNS_OF_ALL: tuple[Column, ...] = ("fedavg", "pooled")
_ONE_PLACE_IMAGES = {"classification": 2000, "segmentation": 10}
_ONE_PLACE_VOLUMES = 3


@dataclass(frozen=True)
class Join:
    """One run of the experiment.

    Attributes:
        answers: Column → site → what it answered on that site's test images.
        costs: Network column → what it took.
        curve: The joining site with few labels, as `label_curve` gives it.
    """

    task: str
    recipe: Recipe
    joining: str
    seed: int
    setting: StatedPolicy
    budget: Budget
    answers: dict[str, dict[str, Answers]]
    costs: dict[str, Cost]
    curve: Curve
    story: Story
    generation: Generation
    tests: dict[str, Dataset]
    one_place: float


@dataclass(frozen=True)
class _Bench:
    """What all steps of one run share."""

    recipe: Recipe
    joining: str
    train: dict[str, Dataset]
    tests: dict[str, Dataset]
    setting: StatedPolicy
    budget: Budget
    seed: int
    device: str
    watch: Watch
    shared: Notebook
    notebook: Notebook

    @property
    def learners(self) -> dict[str, Dataset]:
        """Sites that can train and be asked: labelled images on both sides."""
        return {site: self.train[site] for site in self.tests if len(self.train[site].labelled)}

    @property
    def founders(self) -> dict[str, Dataset]:
        return {name: data for name, data in self.train.items() if name != self.joining}

    @property
    def options(self) -> dict[str, Any]:
        return {"seed": self.seed, "device": self.device, "watch": self.watch}


def run_join(
    task: Task,
    *,
    joining: str | None = None,
    out: Path,
    setting: StatedPolicy,
    budget: Budget,
    label_draws: int = 1,
    seed: int = 0,
    device: str = "auto",
    watch: Watch = lambda step: None,
) -> Join:
    """Run the experiment on one task; steps that `out` holds already are not made again.

    Args:
        joining: Site that joins; None: the last by name of those that have labels on both sides.
        out: Folder of the task: each seed gets a folder in it, and what all seeds share stands beside them.
        label_draws: How often the few labels of the label curve are drawn.

    Raises:
        InputError: Fewer than three sites, no such site, or data that cannot be used: every image and mask
            is read before anything is trained.
    """
    bench = _bench(task, joining, out, setting, budget, seed, device, watch)
    refuse_few_patients(task, bench.train, bench.joining, setting)
    reference, answers, costs = _networks(bench)
    narrow = "" if setting.feature_dim is None else f"-{setting.feature_dim}"
    generation = bench.notebook.generation(
        f"reference{narrow}", lambda: publish(reference, bench.founders, setting, **bench.options)
    )
    contributions = _contributions(bench, generation, bench.train, setting)
    _refuse_few(task, bench.train, contributions, bench.joining, setting)
    story = tell(
        bench.notebook.folder / setting.name,
        generation,
        bench.recipe,
        contributions,
        joining=bench.joining,
        watch=watch,
    )
    answers |= _closed_form(bench, generation, contributions, story)
    answers["untrained"] = _untrained(bench)
    if task.recipe.kind == "segmentation" and len(task.recipe.classes) == 2:
        answers["threshold"] = bench.notebook.answers(
            "threshold", lambda: {name: answers_of_threshold(data) for name, data in bench.tests.items()}
        )
    curve = label_curve(
        bench.notebook,
        generation,
        [one for name, (one, _) in contributions.items() if name != bench.joining],
        bench.joining,
        bench.train[bench.joining],
        bench.tests[bench.joining],
        setting,
        draws=label_draws,
        **bench.options,
    )
    return Join(
        task=task.name,
        recipe=task.recipe,
        joining=bench.joining,
        seed=seed,
        setting=setting,
        budget=budget,
        answers=answers,
        costs=costs,
        curve=curve,
        story=story,
        generation=generation,
        tests=bench.tests,
        one_place=_one_place(bench, generation),
    )


def _bench(
    task: Task,
    joining: str | None,
    out: Path,
    setting: StatedPolicy,
    budget: Budget,
    seed: int,
    device: str,
    watch: Watch,
) -> _Bench:
    data = read_sites(task)
    joining = joining_site(task, data, joining)
    key = {
        "version": __version__,
        "task": task.recipe.digest,
        "data": images_digest(data),
        "joining": joining,
        "budget": vars(budget),
    }
    if not Notebook.begun(out):  # mended data would be another experiment than the one begun
        check_usable(data, watch)
    return _Bench(
        task.recipe,
        joining,
        {name: one.train for name, one in data.items()},
        {name: one.test.labelled for name, one in data.items() if len(one.test.labelled)},
        setting,
        budget,
        seed,
        device,
        watch,
        Notebook(out, key),
        Notebook(out / f"seed-{seed}", {**key, "seed": seed}),
    )


def read_sites(task: Task) -> dict[str, Dataset]:
    """The data sets of a task's sites, in order of name; sites without training images are left out.

    Raises:
        InputError: As `read_dataset`.
    """
    return {name: one for name, one in task.datasets().items() if len(one.train)}


def joining_site(task: Task, data: Mapping[str, Dataset], joining: str | None) -> str:
    """The site that joins: as asked, else the last by name of those that have labels on both sides.

    Raises:
        InputError: There are fewer than three sites with training images, or the site cannot join.
    """
    joining = task.site_named(joining) if joining else None
    able = [name for name, one in data.items() if len(one.train.labelled) and len(one.test.labelled)]
    if len(data) < 3 or not able or (joining and joining not in data):
        raise InputError(
            f"{task.folder}: `sites` has {', '.join(data) or 'none'} with training images, expected at least "
            f"three, `{joining or 'one with labels in training and test'}` among them"
        )
    if joining and joining not in able:
        raise InputError(
            f"{task.folder}: `{joining}` has no labels in training or in test, expected both to join",
            hint=f"sites that have: {', '.join(able)}",
        )
    return joining or able[-1]


def refuse_few_patients(
    task: Task, train: Mapping[str, Dataset], joining: str, setting: StatedPolicy
) -> None:
    """Refuse a task of too few patients for a policy, before hours of work go into it.

    Raises:
        InputError: Fewer than three sites may hand over anything, or the joining one may not.
    """
    able = [site for site, data in train.items() if reaches_cohort(data, setting)]
    _refuse_few(task, train, able, joining, setting)


def _refuse_few(
    task: Task, sites: Collection[str], able: Collection[str], joining: str, setting: StatedPolicy
) -> None:
    if joining in able and len(able) >= 3:
        return
    lacking = ", ".join(site for site in sites if site not in able) or "none"
    raise InputError(
        f"{task.folder}: three sites that hand over are needed, `{joining}` among them; too few labelled "
        f"patients of every class for min_cohort {setting.min_cohort}"
        + (" and noise" if setting.epsilon else "")
        + f": {lacking}",
        hint="use --setting open for public data" if setting.min_cohort > 1 else None,
    )


def _networks(bench: _Bench) -> tuple[Network, dict[str, dict[str, Answers]], dict[str, Cost]]:
    """The four columns of end-to-end networks, their costs, and the reference itself."""
    answers: dict[str, dict[str, Answers]] = {}
    costs: dict[str, Cost] = {}
    notebook, recipe, budget = bench.notebook, bench.recipe, bench.budget

    def network(name: str, make: Callable[[], tuple[Network, Cost]], sites: Mapping[str, Dataset]) -> Network:
        trained, costs[name] = notebook.network(name, recipe, make)
        answers[name] = notebook.answers(
            name,
            lambda: {
                site: answers_of_network(trained, data, device=bench.device) for site, data in sites.items()
            },
        )
        bench.watch(name)
        return trained

    reference = network(
        "reference",
        lambda: reference_network(recipe, bench.founders, budget, **bench.options),
        bench.tests,
    )
    for site, data in bench.learners.items():
        network(
            f"local-{site}",
            lambda data=data: local_network(reference, data, budget, **bench.options),  # type: ignore[misc]
            {site: bench.tests[site]},
        )
    answers["local"] = {site: answers.pop(f"local-{site}")[site] for site in bench.learners}
    local = [costs.pop(f"local-{site}") for site in bench.learners]
    costs["local"] = Cost(steps=sum(c.steps for c in local), seconds=sum(c.seconds for c in local))
    for column in COLUMNS_OF_ALL:
        network(column, lambda column=column: _joint(bench, column), bench.tests)  # type: ignore[misc]
    return reference, answers, costs


def _joint(bench: _Bench, column: Column) -> tuple[Network, Cost]:
    """Trained for the cycles that pay; how many is found once, with seed 0, and holds for every seed."""
    cycles = 1
    if bench.budget.until_plateau:
        options = {**bench.options, "seed": 0}
        cycles = bench.shared.document(
            f"{column}-cycles",
            lambda: {"cycles": useful_cycles(column, bench.recipe, bench.train, bench.budget, **options)},
        )["cycles"]
    return joint_network(column, bench.recipe, bench.train, bench.budget, cycles=cycles, **bench.options)


def _contributions(
    bench: _Bench, generation: Generation, sites: Mapping[str, Dataset], setting: StatedPolicy
) -> dict[str, tuple[Contribution, float]]:
    """Site → contribution and seconds; a site of which nothing may leave has none."""
    asked = {
        site: contribute(generation, data, site, setting, device=bench.device, watch=bench.watch)
        for site, data in sites.items()
    }
    return {site: (one, seconds) for site, (one, seconds) in asked.items() if one is not None}


def _closed_form(
    bench: _Bench,
    generation: Generation,
    contributions: Mapping[str, tuple[Contribution, float]],
    story: Story,
) -> dict[str, dict[str, Answers]]:
    every = tuple(bench.tests)
    heads = {"rebuilt": Head(story.after, every)}
    heads |= {f"refined-{site}": Head(model, (site,)) for site, model in story.refined.items()}
    own = contributions
    if bench.setting.epsilon is not None:
        own = _contributions(bench, generation, bench.train, bench.setting.without_noise)
    labelled = {site: one for site, (one, _) in own.items() if len(bench.train[site].labelled)}
    for site, contribution in labelled.items():
        heads[f"own_sums-{site}"] = Head(rebuild([contribution], bench.recipe), (site,))
    found = score_heads(generation, bench.tests, heads, device=bench.device, watch=bench.watch)
    answers: dict[str, dict[str, Answers]] = {"rebuilt": found.pop("rebuilt")}
    for name, sites in found.items():
        answers.setdefault(name.partition("-")[0], {}).update(sites)
    return answers


def _untrained(bench: _Bench) -> dict[str, Answers]:
    """The same closed form on a backbone of random weights."""

    def make() -> dict[str, Answers]:
        network = build_network(bench.recipe, seed=bench.seed + 10_000)
        generation = publish(network, bench.founders, bench.setting, **bench.options)
        made = _contributions(bench, generation, bench.train, bench.setting)
        model = rebuild([one for one, _ in made.values()], bench.recipe)
        heads = {"untrained": Head(model, tuple(bench.tests))}
        return score_heads(generation, bench.tests, heads, device=bench.device, watch=bench.watch)[
            "untrained"
        ]

    return bench.notebook.answers(f"untrained-{bench.setting.name}", make)


def _one_place(bench: _Bench, generation: Generation) -> float:
    """Largest relative Frobenius difference between heads rebuilt from sums and NumPy's on the rows.

    The rows of all sites' training images (for segmentation of some of them) are put in one place; λ from
    1e-4 to 1.
    """

    def make() -> dict[str, float]:
        contributions, place = [], OnePlace(len(bench.recipe.classes))
        most = _ONE_PLACE_IMAGES[bench.recipe.kind]
        if (bench.recipe.kind, bench.recipe.dimensions) == ("segmentation", 3):
            most = _ONE_PLACE_VOLUMES  # one alone can have 100,000 rows
        labelled = {site: data for site, data in bench.train.items() if len(data.labelled)}
        for site, data in labelled.items():
            some = replace(data, items=data.labelled.items[:most])
            sums, sample = extract_with_sample(
                generation, some, min_cohort=1, limit=1 << 40, device=bench.device, progress=bench.watch
            )
            contributions.append(
                new_contribution(
                    sums,
                    generation=generation.digest,
                    recipe=bench.recipe,
                    site=site,
                    sequence=1,
                    min_cohort=1,
                    parts=("classes",),
                )
            )
            place.add(sample.rows, sample.classes)
        differences = []
        for ridge in (1e-4, 1e-2, 1.0):
            head = rebuild(contributions, bench.recipe, ridge=ridge).head
            wanted = place.head(ridge)
            differences.append(float(np.linalg.norm(head - wanted) / np.linalg.norm(wanted)))
        return {"difference": max(differences)}

    width = bench.setting.feature_dim
    name = "one-place" if width is None else f"one-place-{width}"
    return float(bench.notebook.document(name, make)["difference"])
