"""From finished join experiments to what is shown: the JSON document, the report's page, the table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedmed_edge.images.dataset import Dataset
from fedmed_edge.inference.predict import Model, predict
from fedmed_edge.inference.preview import display_plane
from fedmed_edge.model.evaluate import Evaluation
from fedmed_edge.report import data as page
from fedmed_edge.study.join import COLUMNS
from fedmed_edge.study.metrics import calibration_bins, dice
from fedmed_edge.study.plan import StatedPolicy
from fedmed_edge.study.runs import CURVE_COLUMNS, Figure, Runs, mean_of, together

METRIC = {"classification": "balanced accuracy", "segmentation": "Dice"}
EXACT = 1e-9
CALIBRATED = 0.10


def document(runs: Runs, report: str) -> dict[str, Any]:
    """The result of one task as JSON values, as `fedmed-edge demo --json` prints it; means over the runs."""
    join, means = runs.first, runs.means
    rows = {site: runs.row(site) for site in runs.sites}
    arrivals = [event for one in runs.joins for event in one.story.events if event.what == "joins"]
    return {
        "task": join.task,
        "kind": join.recipe.kind,
        "metric": METRIC[join.recipe.kind],
        "joined": join.joining,
        "seeds": [one.seed for one in runs.joins],
        "sites": {
            site: {column: _rounded(_number(row.get(column))) for column in COLUMNS}
            for site, row in rows.items()
        },
        "intervals": {
            site: {column: _interval(one) for column, one in row.items()} for site, row in rows.items()
        },
        "mean": {column: _rounded(_number(means.get(column))) for column in COLUMNS},
        "mean_intervals": {column: _interval(one) for column, one in means.items()},
        "seed_deviation": {column: _rounded(runs.spread(column)) for column in means},
        "label_curve": [
            {
                "labels": count,
                **{name: _rounded(_number(found.get(name))) for name in CURVE_COLUMNS},
                "gain": _gain(runs.curve_gains.get(count, {}).get("rebuilt")),
                "refined_gain": _gain(runs.curve_gains.get(count, {}).get("refined")),
            }
            for count, found in runs.curve.items()
        ],
        "setting": join.setting.name,
        "budget": vars(join.budget),
        "costs": {column: cost.document() for column, cost in join.costs.items()},
        "calibration_error": {
            column: _rounded(runs.calibration_error(column))
            for column in ("rebuilt", "refined")
            if column in runs.columns
        },
        "refined": {
            site: {"kept": model.kept, "reason": model.reason} for site, model in join.story.refined.items()
        },
        "ridge": [one.story.after.ridge for one in runs.joins],
        "exactness": {
            "rebuilt_vs_pooled": max(one.one_place for one in runs.joins),
            "rebuild_identical": all(one.story.rebuild_identical for one in runs.joins),
            "withdraw_identical": all(one.story.withdraw_identical for one in runs.joins),
        },
        "join": {
            "seconds": float(np.mean([event.seconds for event in arrivals])),
            "bytes": max(event.sent_bytes for event in arrivals),
            "server_seconds": float(np.mean([event.server_seconds for event in arrivals])),
            "others_seconds": 0.0,
            "others_bytes": 0,
        },
        "report": report,
    }


def _gain(difference: Figure | None) -> dict[str, Any] | None:
    """A paired difference as JSON values."""
    if difference is None:
        return None
    return {"value": _rounded(difference.value), "interval": _interval(difference)}


def table(runs: Runs) -> list[str]:
    """The table of scores as lines of text."""
    join, columns, shown = runs.first, runs.columns, task_figures(runs)
    heads = [column + ("*" if column in shown.budgeted else "") for column in columns]
    width = max(len(site) for site in [*runs.sites, f"labels at {join.joining}"]) + 2
    lines = [
        f"{join.task}: {METRIC[join.recipe.kind]}, {join.joining} joined, setting {join.setting.name}, "
        + (f"mean of {len(runs.joins)} seeds" if len(runs.joins) > 1 else f"seed {join.seed}"),
        " " * width + "".join(f"{head:>11}" for head in heads),
    ]
    for site in runs.sites:
        name = site + ("+" if site == join.joining else "")
        lines.append(_line(name, width, [_number(runs.row(site).get(column)) for column in columns]))
    lines.append(_line("mean", width, [_number(runs.means.get(column)) for column in columns]))
    if len(runs.joins) > 1:
        lines.append(_line("deviation", width, [runs.spread(column) for column in columns]))
    if shown.budgeted:
        lines.append(f"* {page.BUDGETED}")
    if "fedavg" in shown.budgeted:
        lines[-1] += " (--full: fedavg and pooled at their plateau)"
    if join.setting.epsilon is not None:
        lines.append(
            f"rebuilt and untrained: sums with noise, ε {join.setting.epsilon:g} each; all else without"
        )
    curve_heads = "".join(f"{name:>11}" for name in CURVE_COLUMNS)
    draws = max(len(answers["rebuilt"]) for answers in join.curve.values())
    often = f", labels drawn {draws} times a seed" if draws > 1 else ""
    gain_heads = "".join(f"{f'{column} - own_sums':>27}" for column in ("rebuilt", "refined"))
    lines += ["", f"{f'labels at {join.joining}':<{width}}{curve_heads}{gain_heads}{often}"]
    for count, found in runs.curve.items():
        line = _line(str(count), width, [_number(found.get(name)) for name in CURVE_COLUMNS])
        for gain in runs.curve_gains.get(count, {}).values():
            line += "   {:+.3f} ({:+.3f} to {:+.3f})".format(gain.value, *gain.interval)
        lines.append(line)
    return [*lines, "", *page.plain_statements(shown)]


def _told(setting: StatedPolicy) -> str:
    values = [f"{key} {value}" for key, value in setting.document.items() if key != "name"]
    return f"{setting.name} ({', '.join(values)})"


def _line(name: str, width: int, values: Sequence[float | None]) -> str:
    return f"{name:<{width}}" + "".join(f"{'–':>11}" if one is None else f"{one:>11.3f}" for one in values)


def task_figures(
    runs: Runs,
    evaluation: Evaluation | None = None,
    examples: Sequence[page.Example] = (),
    train_images: Mapping[str, int] | None = None,
) -> page.TaskFigures:
    """The task's page of the report; story and pictures are those of the first run."""
    join = runs.first
    story, between = join.story, evaluation.site_map if evaluation else None
    return page.TaskFigures(
        task=join.task,
        kind=join.recipe.kind,
        metric=METRIC[join.recipe.kind],
        setting=_told(join.setting),
        joined=join.joining,
        columns=tuple(runs.columns),
        scores={site: {column: _value(one) for column, one in runs.row(site).items()} for site in runs.sites},
        mean={column: _value(one) for column, one in runs.means.items()},
        gains=_gains(runs),
        images={site: ((train_images or {}).get(site, 0), len(data)) for site, data in join.tests.items()},
        costs={
            column: page.Cost(c.rounds, c.steps, c.seconds, c.transferred_bytes, c.plateau)
            for column, c in join.costs.items()
        },
        events=tuple(story.events),
        withdrawn=story.leaving,
        curve=tuple(
            page.CurvePoint(
                count,
                {name: _value(one) for name, one in sorted(found.items())},
                {column: _value(one) for column, one in runs.curve_gains.get(count, {}).items()},
            )
            for count, found in runs.curve.items()
        ),
        places=None if between is None else page.SitePlaces(between.sites, between.places, between.distances),
        calibration=_calibration(runs),
        examples=tuple(examples),
        checks=_checks(runs),
    )


def _gains(runs: Runs) -> dict[str, dict[str, page.Value]]:
    """Where → control → rebuilt minus that control on the same patients and runs."""
    controls = [column for column in page.CONTROLS if column in runs.columns]
    joined = runs.first.joining
    found: dict[str, dict[str, page.Value]] = {"": {}, joined: {}}
    for column in controls:
        pairs = {
            site: runs.scores["rebuilt"][site] - one
            for site, one in runs.scores[column].items()
            if site in runs.scores["rebuilt"]
        }
        if pairs:
            found[""][column] = _value(mean_of(list(pairs.values())))
        if joined in pairs:
            found[joined][column] = _value(pairs[joined])
    return found


def _value(one: Figure) -> page.Value:
    return page.Value(one.value, *one.interval)


def _interval(one: Figure) -> list[float | None]:
    return [_rounded(end) for end in one.interval]


def _number(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 6)


def _calibration(runs: Runs) -> page.Calibration | None:
    error = runs.calibration_error("rebuilt")
    if error is None:
        return None
    answers = [together(join.answers["rebuilt"]) for join in runs.joins]
    confidence, accuracy, count = calibration_bins(
        np.array([row for one in answers for row in one.probabilities]),
        np.array([label for one in answers for label in one.truth]),
    )
    return page.Calibration(confidence, accuracy, count, error)


def _checks(runs: Runs) -> tuple[page.Check, ...]:
    apart = max(join.one_place for join in runs.joins)
    rebuilt = all(join.story.rebuild_identical for join in runs.joins)
    withdrawn = all(join.story.withdraw_identical for join in runs.joins)
    found = [
        page.Check(
            "head rebuilt from sums against the head fitted on all rows in one place",
            f"{apart:.1e}",
            f"at most {EXACT:.0e}",
            apart <= EXACT,
        ),
        page.Check(
            "two rebuilds of one store", "same bytes" if rebuilt else "other bytes", "same bytes", rebuilt
        ),
        page.Check(
            f"after {runs.first.story.leaving} withdrew, against a store that never had it",
            "same bytes" if withdrawn else "other bytes",
            "same bytes",
            withdrawn,
        ),
    ]
    error = runs.calibration_error("rebuilt")
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
