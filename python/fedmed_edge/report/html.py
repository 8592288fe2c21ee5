"""From figures to one self-contained HTML file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedmed_edge.atomic import write_atomic
from fedmed_edge.report import figures
from fedmed_edge.report.data import (
    BUDGETED,
    CONTROLS,
    MEANING,
    OURS,
    Example,
    ReportData,
    TaskFigures,
    Value,
    plain_statements,
)
from fedmed_edge.report.pictures import example_picture

_HERE = Path(__file__).parent


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page from one of the room's templates.

    Raises:
        InputError: The file cannot be written.
    """
    write_atomic(path, page(template, **values).encode())


def write_report(path: Path, data: ReportData) -> None:
    """Write the report; the same data gives the same bytes.

    Raises:
        InputError: The file cannot be written.
    """
    write_atomic(path, render(data).encode())


def render(data: ReportData) -> str:
    """The report as HTML text."""
    return page("page.html", data=data, tasks=[_task(one, n) for n, one in enumerate(data.tasks)])


def page(template: str, **values: Any) -> str:
    """A page as HTML text, in the room's one style."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": seconds, "size": size, "score": _score, "interval": _interval}
    style = (_HERE / "page.css").read_text(encoding="utf-8").rstrip("\n")
    return environment.get_template(template).render(style=style, **values)


def _task(task: TaskFigures, number: int) -> dict[str, Any]:
    """What the page needs beside the figures themselves."""
    anchor = f"task-{number + 1}"
    return {
        "anchor": anchor,
        "figures": task,
        "headline": _headline(task),
        "statements": plain_statements(task),
        "meaning": {name: MEANING.get(name, "") for name in task.columns},
        "ours": OURS,
        "controls": CONTROLS,
        "budgeted_note": BUDGETED,
        "curve_columns": figures.curve_columns(task.curve),
        "lanes": _lanes(task),
        "outlined": any(one.truth is not None for one in task.examples),
        "examples": [(one, example_picture(one), _described(one)) for one in task.examples],
        **{
            name: figures.with_own_ids(svg, f"{anchor}-{name}") if svg else None
            for name, svg in _drawn(task).items()
        },
    }


def _drawn(task: TaskFigures) -> dict[str, str | None]:
    return {
        "bars": figures.score_bars(task) if task.scores else None,
        "map": figures.site_map(task.places, task.joined) if task.places else None,
        "curve": figures.label_curve(task.curve, task.metric, task.joined) if task.curve else None,
        "calibration": figures.calibration_plot(task.calibration) if task.calibration else None,
    }


def _headline(task: TaskFigures) -> list[tuple[str, str, str]]:
    """The few figures that come first: (label, value, what it means)."""
    found = []
    row = task.scores.get(task.joined, {})
    if "reference" in row and "rebuilt" in row:
        found.append(
            (
                f"{task.metric} at {task.joined}",
                f"{_score(row['reference'])} → {_score(row['rebuilt'])}",
                "before it joined, and after one rebuild",
            )
        )
    if "rebuilt" in task.mean:
        found.append(("mean of all sites", _score(task.mean["rebuilt"]), f"{task.metric}, rebuilt"))
    join = next((event for event in task.events if event.what == "joins"), None)
    if join:
        found.append(
            (
                "join",
                f"{seconds(join.seconds)}, {size(join.sent_bytes)}",
                "work and bytes at the joining site",
            )
        )
        found.append(("at every other site", "0 s, 0 B", "they may be switched off"))
    return found


def _lanes(task: TaskFigures) -> list[dict[str, Any]]:
    """One lane a site and one for the server: the event in each step, or None."""
    sites = sorted({event.site for event in task.events if event.site != "server"})
    lanes = []
    for name in [*sites, "server"] if task.events else []:
        cells = []
        for event in task.events:
            own = event.site == name
            work = (
                event.server_seconds + (event.seconds if own else 0.0) if name == "server" else event.seconds
            )
            active = own or (name == "server" and event.server_seconds > 0)
            cells.append({"event": event, "own": own, "seconds": work} if active else None)
        lanes.append({"name": name, "cells": cells})
    return lanes


def _described(example: Example) -> str:
    """What a reader who cannot see the picture is told."""
    what = "image with the outlines of truth and answer" if example.truth is not None else "image"
    return f"{what} from {example.site}: {example.caption}"


def _score(value: Value | None) -> str:
    return "–" if value is None or value.value != value.value else f"{value.value:.2f}"


def _interval(value: Value | None) -> str:
    if value is None or value.low is None or value.high is None or value.low != value.low:
        return ""
    return f"{value.low:.2f}{'–' if value.low >= 0 else ' to '}{value.high:.2f}"


def seconds(value: float) -> str:
    """A duration as people write it.

    Example:
        >>> seconds(0.0042), seconds(3.14159), seconds(61), seconds(7300)
        ('4 ms', '3.1 s', '1.0 min', '2.0 h')
    """
    if value <= 0:
        return "0 s"
    steps: list[tuple[float, Callable[[float], str]]] = [
        (0.9995, lambda s: f"{s * 1000:.0f} ms"),
        (59.95, lambda s: f"{s:.1f} s"),
        (3597, lambda s: f"{s / 60:.1f} min"),
    ]
    return next((write(value) for below, write in steps if value < below), f"{value / 3600:.1f} h")


def size(count: int) -> str:
    """A number of bytes as people write it.

    Example:
        >>> size(0), size(1500), size(2_500_000)
        ('0 B', '1.5 kB', '2.5 MB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
