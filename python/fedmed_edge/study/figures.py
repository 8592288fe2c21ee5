"""From a finished join experiment to what is shown: the JSON document, the report's page, the table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedmed_edge.images.dataset import Dataset
from fedmed_edge.inference.predict import Model, predict
from fedmed_edge.inference.preview import display_plane
from fedmed_edge.model.evaluate import Evaluation
from fedmed_edge.report import data as page
from fedmed_edge.study.join import COLUMNS, Join
from fedmed_edge.study.metrics import calibration_bins, dice
from fedmed_edge.study.scores import Answers, calibration_error, score

METRIC = {"classification": "balanced accuracy", "segmentation": "Dice"}
EXACT = 1e-9
CALIBRATED = 0.10


def document(join: Join, report: str) -> dict[str, Any]:
    """The result of one task as JSON values, as `fedmed-edge demo --json` prints it."""
    joins = next(event for event in join.story.events if event.what == "joins")
    rows = {
        site: {column: join.scores.get(column, {}).get(site) for column in COLUMNS} for site in join.tests
    }
    return {
        "task": join.task,
        "kind": join.recipe.kind,
        "metric": METRIC[join.recipe.kind],
        "joined": join.joining,
        "seed": join.seed,
        "sites": {
            site: {column: _number(one.value if one else None) for column, one in row.items()}
            for site, row in rows.items()
        },
        "intervals": {
            site: {column: one and [_number(one.low), _number(one.high)] for column, one in row.items()}
            for site, row in rows.items()
        },
        "mean": {column: _number(means(join).get(column)) for column in COLUMNS},
        "label_curve": [
            {
                "labels": count,
                **{
                    name: _number(score(join.recipe, columns[name]).value) if name in columns else None
                    for name in ("own_sums", "rebuilt", "refined")
                },
            }
            for count, columns in join.curve.items()
        ],
        "setting": join.setting.name,
        "budget": vars(join.budget),
        "costs": {column: cost.document() for column, cost in join.costs.items()},
        "calibration_error": {
            column: _number(calibration_error(together(join.answers[column])))
            for column in ("rebuilt", "refined")
            if join.recipe.kind == "classification"
        },
        "refined": {
            site: {"kept": model.kept, "reason": model.reason} for site, model in join.story.refined.items()
        },
        "ridge": join.story.after.ridge,
        "exactness": {
            "rebuilt_vs_pooled": join.one_place,
            "rebuild_identical": join.story.rebuild_identical,
            "withdraw_identical": join.story.withdraw_identical,
        },
        "join": {
            "seconds": joins.seconds,
            "bytes": joins.sent_bytes,
            "server_seconds": joins.server_seconds,
            "others_seconds": 0.0,
            "others_bytes": 0,
        },
        "report": report,
    }


def columns_of(join: Join) -> list[str]:
    """The columns that this run has, in order."""
    return [column for column in COLUMNS if column in join.scores]


def means(join: Join) -> dict[str, float]:
    """Column → mean over the sites that have it."""
    return {
        column: float(np.nanmean([one.value for one in join.scores[column].values()]))
        for column in columns_of(join)
    }


def together(answers: Mapping[str, Answers]) -> Answers:
    """The answers of all sites as one; patients of different sites stay different."""
    total = Answers()
    for site, one in answers.items():
        total = total + replace(one, patients=[f"{site}/{patient}" for patient in one.patients])
    return total


def table(join: Join) -> list[str]:
    """The table of scores as lines of text."""
    columns = columns_of(join)
    marked = {
        column for column, cost in join.costs.items() if not cost.plateau and column in ("fedavg", "pooled")
    }
    heads = [column + ("*" if column in marked else "") for column in columns]
    width = max(len(site) for site in [*join.tests, "mean"]) + 1
    lines = [
        f"{join.task}: {METRIC[join.recipe.kind]}, {join.joining} joined, setting {join.setting.name}",
        " " * width + "".join(f"{head:>11}" for head in heads),
    ]
    for site in join.tests:
        row = [join.scores[column].get(site) for column in columns]
        cells = "".join(f"{one.value:>11.3f}" if one else f"{'–':>11}" for one in row)
        lines.append(f"{site + ('+' if site == join.joining else ''):<{width}}{cells}")
    lines.append(f"{'mean':<{width}}" + "".join(f"{value:>11.3f}" for value in means(join).values()))
    if marked:
        lines.append("* stopped by the stated budget of steps, not at its plateau (see --full)")
    lines.append(
        "labels at the joining site: "
        + "  ".join(
            f"{count}: "
            + "/".join(
                f"{score(join.recipe, columns_[name]).value:.2f}" if name in columns_ else "–"
                for name in ("own_sums", "rebuilt", "refined")
            )
            for count, columns_ in join.curve.items()
        )
        + "  (own_sums/rebuilt/refined)"
    )
    return lines + page.plain_statements(task_figures(join))


def task_figures(
    join: Join,
    evaluation: Evaluation | None = None,
    examples: Sequence[page.Example] = (),
    train_images: Mapping[str, int] | None = None,
) -> page.TaskFigures:
    """The task's page of the report."""
    story, columns = join.story, columns_of(join)
    between = evaluation.site_map if evaluation else None
    return page.TaskFigures(
        task=join.task,
        kind=join.recipe.kind,
        metric=METRIC[join.recipe.kind],
        setting=f"{join.setting.name} (min_cohort {join.setting.min_cohort})",
        joined=join.joining,
        columns=tuple(columns),
        scores={
            site: {
                column: _value(join.scores[column][site]) for column in columns if site in join.scores[column]
            }
            for site in join.tests
        },
        mean={column: page.Value(value) for column, value in means(join).items()},
        images={site: ((train_images or {}).get(site, 0), len(data)) for site, data in join.tests.items()},
        costs={
            column: page.Cost(c.rounds, c.steps, c.seconds, c.transferred_bytes, c.plateau)
            for column, c in join.costs.items()
        },
        events=tuple(story.events),
        withdrawn=story.leaving,
        curve=tuple(
            page.CurvePoint(
                count, {name: _value(score(join.recipe, one)) for name, one in sorted(answers.items())}
            )
            for count, answers in join.curve.items()
        ),
        places=None if between is None else page.SitePlaces(between.sites, between.places, between.distances),
        calibration=_calibration(join),
        examples=tuple(examples),
        checks=_checks(join),
    )


def _value(one: Any) -> page.Value:
    return page.Value(one.value, one.low, one.high)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 6)


def _calibration(join: Join) -> page.Calibration | None:
    answers = together(join.answers["rebuilt"])
    error = calibration_error(answers)
    if error is None:
        return None
    confidence, accuracy, count = calibration_bins(np.array(answers.probabilities), np.array(answers.truth))
    return page.Calibration(confidence, accuracy, count, error)


def _checks(join: Join) -> tuple[page.Check, ...]:
    story = join.story
    found = [
        page.Check(
            "head rebuilt from sums against the head fitted on all rows in one place",
            f"{join.one_place:.1e}",
            f"at most {EXACT:.0e}",
            join.one_place <= EXACT,
        ),
        page.Check(
            "two rebuilds of one store",
            "same bytes" if story.rebuild_identical else "other bytes",
            "same bytes",
            story.rebuild_identical,
        ),
        page.Check(
            f"after {story.leaving} withdrew, against a store that never had it",
            "same bytes" if story.withdraw_identical else "other bytes",
            "same bytes",
            story.withdraw_identical,
        ),
    ]
    error = calibration_error(together(join.answers["rebuilt"]))
    if error is not None:
        found.append(
            page.Check(
                "expected calibration error of rebuilt on held-out images",
                f"{error:.3f}",
                f"at most {CALIBRATED:.2f}",
                error <= CALIBRATED,
            )
        )
    return tuple(found)


def examples(model: Model, tests: Mapping[str, Dataset], each: int = 2) -> list[page.Example]:
    """A few held-out images of every site with the exported model's answers; the first ones, not chosen."""
    shown = []
    for site, dataset in tests.items():
        for item in dataset.items[:each]:
            image = dataset.load(item)
            answer = predict(model, image)
            if answer.mask is None:
                truth = dataset.recipe.classes[item.label] if item.label is not None else "?"
                plane, _, _ = display_plane(image)
                probability = answer.probabilities[answer.label or ""]
                caption = f"{answer.label} ({probability:.0%}), labelled {truth}"
                shown.append(page.Example(site, plane, caption, good=answer.label == truth))
                continue
            truth_mask = dataset.load_mask(item, image)
            overlap = dice(answer.mask, truth_mask, len(dataset.recipe.classes))
            plane, (truth_plane, answer_plane), _ = display_plane(image, truth_mask, answer.mask)
            shown.append(page.Example(site, plane, f"Dice {overlap:.2f}", truth_plane, answer_plane))
    return shown
