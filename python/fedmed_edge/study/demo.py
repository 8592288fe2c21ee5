"""The demo: the join experiment on one or more tasks, then export, inference and the report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedmed_edge import __version__
from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.export.onnx_model import export_onnx
from fedmed_edge.images.dataset import Task, read_task
from fedmed_edge.inference.batch import infer
from fedmed_edge.inference.inputs import find_inputs
from fedmed_edge.inference.options import Options
from fedmed_edge.inference.predict import Model, load_model
from fedmed_edge.model.evaluate import evaluate
from fedmed_edge.report.data import ReportData, save_data
from fedmed_edge.report.html import write_report
from fedmed_edge.signing import generate_key, write_public_key, write_signed
from fedmed_edge.store.store import Store
from fedmed_edge.study.cohort import write_cohort
from fedmed_edge.study.federated import Federated, run_federated
from fedmed_edge.study.figures import document, examples, table, task_figures
from fedmed_edge.study.join import Join, joining_site, read_sites, refuse_few_patients, run_join
from fedmed_edge.study.plan import Budget, StatedPolicy
from fedmed_edge.study.runs import Runs

Watch = Callable[[str], None]

SYNTHETIC_BUDGET = {
    "classification": Budget(8, 14, 12, 24, 10, 250, until_plateau=False),
    "segmentation": Budget(4, 12, 10, 15, 8, 120, until_plateau=False),
}
"""About four minutes on two cores for both tasks of the synthetic cohort, without shifts: these take twice as
long a step, and pay where a network learns for longer than this."""

DATA_BUDGET = {
    "classification": Budget(16, 20, 14, 40, 20, 500, until_plateau=False),
    "segmentation": Budget(8, 10, 8, 30, 10, 300, until_plateau=False),
}
"""At most a quarter of an hour on two cores for a few hundred images."""

FULL_BUDGET = {
    "classification": Budget(16, 50, 16, 150, 30, 1200, until_plateau=True),
    "segmentation": Budget(8, 20, 8, 80, 15, 500, until_plateau=True),
}


LABEL_DRAWS = {False: 1, True: 5}
"""How often the labels of the label curve are drawn, in a demo and in full."""

_SMALL = "Small data sets: no clinical claim can rest on these figures."


@dataclass(frozen=True)
class DemoResult:
    """What the demo answers: one document a task, its table as lines, and where the report is."""

    documents: list[dict[str, Any]]
    lines: list[str]
    report: Path


def run_demo(
    out: Path,
    *,
    data: Sequence[Path] = (),
    setting: StatedPolicy,
    full: bool = False,
    seeds: int = 1,
    joining: str | None = None,
    device: str = "auto",
    federation: bool = False,
    watch: Watch = lambda step: None,
) -> DemoResult:
    """Run the whole path in `out`; what is finished there is not computed again.

    Args:
        data: Task folders; none makes the synthetic cohort.
        full: Train `fedavg` and `pooled` to their plateau instead of a stated budget.
        seeds: Runs, with seeds 0, 1, …
        joining: Site that joins; None: the last by name of those that have labels on both sides.
        federation: Tell the first task's story again over processes that connect by mutual TLS.

    Raises:
        InputError: A task folder cannot be used, or every task has too few patients for the setting (where
            some have, they are passed over); or noise over a federation.
        Unreachable: A step over the federation took too long.
    """
    if federation and setting.epsilon is not None:
        raise InputError(
            "demo: `federation` compares models by their bytes, and noise is drawn anew each time",
            hint="choose another setting, or leave out --federation",
        )
    folders = list(data) or list(write_cohort(out / "cohort").values())
    read = [read_task(folder) if data else _without_shifts(read_task(folder)) for folder in folders]
    tasks, passed = _with_patients(read, joining, setting)
    budgets = FULL_BUDGET if full else DATA_BUDGET if data else SYNTHETIC_BUDGET
    pages, documents, firsts, notes = [], [], [], [_SMALL]
    lines = [f"passed over: {why}" for why in passed]
    report = out / "report.html"
    began = time.perf_counter()
    for task in tasks:
        joins = [
            run_join(
                task,
                joining=joining,
                out=out / task.name,
                setting=setting,
                budget=budgets[task.recipe.kind],
                label_draws=LABEL_DRAWS[full],
                seed=seed,
                device=device,
                watch=watch,
            )
            for seed in range(seeds)
        ]
        runs = Runs(tuple(joins))
        firsts.append(runs.first)
        documents.append(document(runs, str(report)))
        lines += [*table(runs), ""]
        folder = out / task.name / f"seed-{runs.first.seed}"
        model: Model | None = None
        try:
            model = _exported(runs.first, folder, watch)
        except InputError as error:  # the figures stand without it
            notes.append(f"{task.name} was not exported, no image was answered: {error}")
            lines += [notes[-1], ""]
        pages.append(_page(task, runs, model, folder))
    facts = {
        "version": __version__,
        "images": ", ".join(folder.name for folder in data) or "a synthetic cohort, of no patient",
        "seeds": str(seeds),
        "seconds": f"{time.perf_counter() - began:.0f} in this run",
    }
    if federation:
        made = _federated(tasks[0], firsts[0], out / tasks[0].name / "federated", watch)
        documents[0]["federation"] = made.document
        lines += [*made.lines, ""]
        same = "have the same bytes" if all(made.identical.values()) else "DIFFER"
        facts["over a federation"] = f"the models of {tasks[0].name} {same}"
    shown = ReportData(
        title="FedMed Edge",
        summary="A backbone learned without one hospital, which then joined by its statistics alone; "
        "the model of all was exported and asked about held-out images; a hospital withdrew.",
        tasks=tuple(pages),
        facts=facts,
        notes=tuple(notes),
    )
    save_data(out / "report.json", shown)
    write_report(report, shown)
    write_atomic(out / "results.json", _json(documents))
    return DemoResult(documents, [*lines, f"report: {report}"], report)


def _without_shifts(task: Task) -> Task:
    training = task.recipe.training.without_shifts()
    return replace(task, recipe=task.recipe.model_copy(update={"training": training}))


def _with_patients(
    tasks: Sequence[Task], joining: str | None, setting: StatedPolicy
) -> tuple[list[Task], list[str]]:
    """The tasks that have the patients that a setting asks for, and why the others are passed over."""
    if len(tasks) == 1:
        return list(tasks), []
    usable, passed = [], []
    for task in tasks:
        try:
            data = read_sites(task)
            train = {site: one.train for site, one in data.items()}
            refuse_few_patients(task, train, joining_site(task, data, joining), setting)
        except InputError as error:
            passed.append(str(error))
            continue
        usable.append(task)
    if not usable:
        raise InputError(passed[0], hint="use --setting open for public data")
    return usable, passed


def _federated(task: Task, join: Join, folder: Path, watch: Watch) -> Federated:
    """The story of a run, over processes; the sites that contributed in it, on its generation."""
    return run_federated(
        folder,
        join.generation,
        join.recipe,
        {site: task.sites[site] for site in join.story.after.sites},
        join.story,
        joining=join.joining,
        min_cohort=join.setting.min_cohort,
        watch=watch,
    )


def _exported(join: Join, folder: Path, watch: Watch) -> Model:
    """Export the rebuilt model, and ask it as a scanner would."""
    watch("export")
    path = folder / "model.onnx"
    key = generate_key()
    write_signed(path, export_onnx(join.story.after, join.generation), key)
    public = folder / "server.pub"
    write_public_key(public, key.public_key())
    watch("infer")
    model = load_model(path, trust=public)
    held_out = [item.image for data in join.tests.values() for item in data.items[:2]]
    with find_inputs(held_out, model.recipe, every=True) as found:
        for _ in infer(model, found, folder / "answers", Options(preview=True)):
            watch("infer")
    return model


def _page(task: Task, runs: Runs, model: Model | None, folder: Path) -> Any:
    join = runs.first
    store = Store.open(folder / join.setting.name / "never")
    evaluation = evaluate(store.contributions(join.recipe.name), join.recipe)
    counts = {site: len(data.train) for site, data in task.datasets().items()}
    shown = examples(model, join.tests) if model else ()
    return task_figures(runs, evaluation, shown, counts)


def _json(documents: list[dict[str, Any]]) -> bytes:
    import json

    return json.dumps(documents, indent=1).encode()
