"""What `bench-method` leaves beside its rows: tables and plots."""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fedmed_edge.atomic import write_atomic
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.gains import Gain, paired_gains
from fedmed_edge.study.ranking import Line, table
from fedmed_edge.words import counted

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Row = Mapping[str, Any]
Group = tuple[str, str, int | None]
"""Setting, task (empty: all of them together) and labels."""

_NAME = 22
"""Columns that a method's name gets."""

_COLOURS = {"ours": "#0072b2", "control": "#999999", "peer": "#d55e00", "ceiling": "#009e73"}
_STYLE: Any = {
    "svg.hashsalt": "fedmed",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def tables(rows: Sequence[Row]) -> dict[Group, list[Line]]:
    """One table a setting, number of labels and task; and of all tasks where there are several."""
    groups: dict[Group, list[Row]] = {}
    tasks = {row["task"] for row in rows}
    for row in rows:
        groups.setdefault((row["setting"], row["task"], row["labels"]), []).append(row)
    if len(tasks) > 1:
        for row in rows:
            groups.setdefault((row["setting"], "", row["labels"]), []).append(row)
    return {group: table(own) for group, own in groups.items()}


def write_report(
    rows: Sequence[Row], recipes: Mapping[str, Recipe], out: Path, notes: Sequence[str] = ()
) -> list[str]:
    """Write `results.json`, `tables.json`, `tables.txt` and the plots; the tables as lines of text.

    Args:
        recipes: Of every task, by its name.
        notes: Lines that stand below the tables: what they are not of.
    """
    made = tables(rows)
    gains = {group: _gains(group, found, rows, recipes, out) for group, found in made.items()}
    lines: list[str] = []
    for group, found in made.items():
        lines += [
            *_text(group, found, rows),
            *(_gain_line(pair, one) for pair, one in gains[group].items()),
            "",
            *_beside(group, rows),
        ]
    lines += notes
    shown = [
        {
            "setting": group[0],
            "task": group[1] or None,
            "labels": group[2],
            "lines": [_finite(asdict(line)) for line in found],
            "gains": [
                {
                    "method": pair[0],
                    "against": pair[1],
                    "value": one.figure.value,
                    "interval": one.figure.interval,
                    "sites": one.sites,
                }
                for pair, one in gains[group].items()
            ],
        }
        for group, found in made.items()
    ]
    write_atomic(out / "results.json", json.dumps(list(rows), indent=1).encode())
    write_atomic(out / "tables.json", json.dumps(shown, indent=1).encode())
    write_atomic(out / "tables.txt", "\n".join(lines).encode())
    for (setting, task, labels), found in made.items():
        scored = [line for line in found if not math.isnan(line.score)]
        if task and labels is None and scored:
            write_atomic(out / f"{setting}-{task}.svg", _plot(setting, task, scored, rows))
    for setting, task in dict.fromkeys((s, t) for s, t, labels in made if t and labels is not None):
        curve = {labels: own for (s, t, labels), own in made.items() if (s, t) == (setting, task) and labels}
        write_atomic(out / f"{setting}-{task}.svg", _curve(setting, task, curve))
    return lines


def _text(group: Group, lines: Sequence[Line], rows: Sequence[Row]) -> list[str]:
    setting, task, labels = group
    own = [row for row in rows if row["setting"] == setting and (not task or row["task"] == task)]
    seeds, metrics = len({row["seed"] for row in own}), sorted({row["metric"] for row in own})
    head = f"{setting}: {task or 'all tasks'}"
    head += f", {counted(labels, 'labelled patient')}" if labels is not None else ""
    head += f": {', '.join(metrics)}, {counted(seeds, 'seed')}, "
    head += f"policy {own[0]['policy']}, budget {own[0]['budget']}"
    names = (
        f"{'method':<{_NAME}}{'site':>7}{'±sd':>7}{'others':>8}{'all':>7}{'rank':>6}{'p':>8}{'p Holm':>8}"
        f"{'rounds':>8}{'sent':>10}{'received':>10}{'site s':>9}{'others s':>10}{'server s':>10}"
        f"{'before s':>10}"
    )
    best = next((line.against for line in lines if line.against), None)
    notes = (
        [f"p: against {best}, the best peer, over {counted(max(line.units for line in lines), 'site')}"]
        if best
        else []
    )
    most = max(line.units for line in lines)
    fewer = [
        f"no score at {most - line.units} of {counted(most, 'site')}: {line.method}"
        for line in lines
        if line.units < most
    ]
    failed = [f"failed: {line.method} {counted(line.failed, 'time')}" for line in lines if line.failed]
    return [head, names, *(_line(line) for line in lines), *notes, *fewer, *failed]


def _gains(
    group: Group, lines: Sequence[Line], rows: Sequence[Row], recipes: Mapping[str, Recipe], out: Path
) -> dict[tuple[str, str], Gain]:
    """Ours against its own control and the best peer, of one task."""
    if not group[1]:
        return {}
    own = [row for row in rows if (row["setting"], row["task"], row["labels"]) == group]
    named = ["own_sums", next((line.against for line in lines if line.against), None)]
    others = [name for name in named if name in {line.method for line in lines}]
    return paired_gains(own, [name for name in others if name], recipes[group[1]], out)


def _gain_line(pair: tuple[str, str], gain: Gain) -> str:
    (low, high), value = gain.figure.interval, gain.figure.value
    line = f"{pair[0]} - {pair[1]}: {value:+.3f} ({low:+.3f} to {high:+.3f}), paired by patient"
    # a site where either lacks a run is not in it
    return line + (f", over {gain.sites} of {gain.of} sites alone" if gain.sites < gain.of else "")


def _beside(group: Group, rows: Sequence[Row]) -> list[str]:
    """Recall of every class, or surface distance, at the sites in question: means over sites and seeds."""
    setting, task, labels = group
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if (
            (row["setting"], row["task"], row["labels"]) != group
            or row["score"] is None
            or labels is not None
        ):
            continue
        own = row["recall"][row["site"]] if "recall" in row else {"distance": row["surface"][row["site"]]}
        for name, value in own.items():
            found.setdefault(row["method"], {}).setdefault(name, []).append(value)
    if not found:
        return []
    names = sorted(set().union(*found.values()))
    width = max(9, *(len(name) + 2 for name in names))
    what = (
        "mean surface distance, mm (pixels where images state no spacing)"
        if names == ["distance"]
        else "recall"
    )
    shown = [
        f"{method:<{_NAME}}" + "".join(_number(_mean(values.get(name)), width) for name in names)
        for method, values in found.items()
    ]
    heads = " " * _NAME + "".join(f"{name:>{width}}" for name in names)
    return [f"{what}: {setting}, {task}", heads, *shown, ""]


def _mean(values: Sequence[float] | None) -> float | None:
    return float(np.mean(values)) if values else None


def _line(line: Line) -> str:
    return (
        f"{line.method:<{_NAME}}{_number(line.score)}{_number(line.deviation)}{_number(line.others, 8)}"
        f"{_number(line.all)}{_number(line.rank, 6, 1)}{_number(line.p, 8)}{_number(line.p_holm, 8)}"
        f"{_number(line.rounds, 8, 0)}{_bytes(line.sent)}{_bytes(line.received)}"
        f"{_number(line.seconds, 9, 1)}{_number(line.others_seconds, 10, 1)}"
        f"{_number(line.server_seconds, 10, 1)}{_number(line.before_seconds, 10, 1)}"
    )


def _number(value: float | None, width: int = 7, places: int = 3) -> str:
    known = value is not None and not math.isnan(value)
    return f"{value:>{width}.{places}f}" if known else f"{'–':>{width}}"


def _bytes(value: float) -> str:
    if math.isnan(value):
        return f"{'–':>10}"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:>7.1f} {unit}"
    return f"{value:>8.0f} B"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


# --- plots -------------------------------------------------------------------------------------------------


def _plot(setting: str, task: str, lines: Sequence[Line], rows: Sequence[Row]) -> bytes:
    """Scores at the site in question, method by method; and against what was sent and computed."""
    lines = sorted(lines, key=lambda line: line.score)
    with _figure(11, 0.6 + 0.24 * max(8, len(lines)), 3) as (figure, (scores, sent, seconds)):
        for place, line in enumerate(lines):
            found = [
                row["score"]
                for row in rows
                if (row["setting"], row["task"], row["method"]) == (setting, task, line.method)
                and row["score"] is not None
            ]
            scores.plot(found, np.full(len(found), place), "o", ms=3, alpha=0.4, color=_COLOURS[line.role])
            scores.plot([line.score], [place], "|", ms=14, mew=2, color=_COLOURS[line.role])
        scores.set_yticks(range(len(lines)), [line.method for line in lines])
        scores.set_xlabel(f"score at the site in question: {setting}, {task}")
        _costs(sent, "bytes sent and received by all sites", {o: o.sent + o.received for o in lines})
        _costs(seconds, "seconds computed by all sites", {o: o.seconds + o.others_seconds for o in lines})
        for axes in (scores, sent, seconds):
            axes.grid(True)
        return _svg(figure)


def _costs(axes: Axes, label: str, costs: Mapping[Line, float]) -> None:
    for line, cost in costs.items():
        axes.plot([cost], [line.score], "o", ms=5, color=_COLOURS[line.role])
        place = (cost, line.score)
        axes.annotate(line.method, place, fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel(label)


def _curve(setting: str, task: str, curve: Mapping[int, Sequence[Line]]) -> bytes:
    """Scores at the joining site against its labelled patients."""
    with _figure(6, 4, 1) as (figure, (axes,)):
        names = dict.fromkeys(line.method for lines in curve.values() for line in lines)
        for name in names:
            points = [
                (count, line.score, line.role)
                for count, lines in sorted(curve.items())
                for line in lines
                if line.method == name and not math.isnan(line.score)
            ]
            if points:
                counts, scores, roles = zip(*points, strict=True)
                dash = "-" if roles[0] == "ours" else "--"
                axes.plot(counts, scores, dash, marker="o", ms=3, label=name)
        axes.set_xscale("log")
        axes.set_xlabel(f"labelled patients at the joining site: {setting}, {task}")
        axes.set_ylabel("score there")
        axes.grid(True)
        axes.legend(fontsize=7)
        return _svg(figure)


@contextmanager
def _figure(width: float, height: float, count: int) -> Iterator[tuple[Any, Sequence[Axes]]]:
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, count, figsize=(width, height), layout="constrained", squeeze=False)
        try:
            yield figure, list(axes[0])
        finally:
            plt.close(figure)


def _svg(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
