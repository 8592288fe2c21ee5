"""The report's figures: SVG in the page's own colours, so that they follow its light and dark look."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from fedmed_edge.report.data import Calibration, CurvePoint, SitePlaces, TaskFigures, Value

BARS = ("reference", "own_sums", "rebuilt", "refined")
CURVES = ("own_sums", "rebuilt", "refined")

# Stand-ins that the page's own colours take the place of, by the names of its CSS variables.
_STAND_IN = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "surface": "#040404",
    "reference": "#050505",
    "own_sums": "#060606",
    "rebuilt": "#070707",
    "refined": "#080808",
    "accent": "#090909",
}
_MARKERS = {"own_sums": "s", "rebuilt": "o", "refined": "^"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedmed",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _STAND_IN["ink"],
    "axes.labelcolor": _STAND_IN["muted"],
    "axes.edgecolor": _STAND_IN["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _STAND_IN["muted"],
    "ytick.color": _STAND_IN["muted"],
    "grid.color": _STAND_IN["grid"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def score_bars(task: TaskFigures) -> str:
    """Scores before and after, site by site, with intervals."""
    columns = [name for name in BARS if any(name in row for row in task.scores.values())]
    rows = [(_named(site, task), task.scores[site]) for site in task.scores] + [("mean", task.mean)]
    step, width = len(columns) + 1.1, 5.6
    with _figure(width, 0.55 + 0.2 * step * len(rows)) as (figure, axes):
        for number, (_, row) in enumerate(rows):
            for place, column in enumerate(columns):
                if column in row:
                    _bar(axes, number * step + place, row[column], _STAND_IN[column])
        middle = (len(columns) - 1) / 2
        axes.set_yticks([n * step + middle for n in range(len(rows))], [name for name, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=_STAND_IN["ink"])
        axes.set_ylim(len(rows) * step - 1.1 + 0.6, -0.9)
        axes.set_xlim(0, 1.16)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_xlabel(task.metric)
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
        handles = [Rectangle((0, 0), 1, 1, color=_STAND_IN[c]) for c in columns]
        figure.legend(handles, columns, loc="outside upper left", ncols=len(columns), handlelength=1)
        return _svg(figure)


def _bar(axes: Axes, at: float, score: Value, colour: str) -> None:
    if not np.isfinite(score.value):
        return
    axes.barh(at, score.value, height=0.82, color=colour)
    end = score.value
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [at, at], color=_STAND_IN["ink"], linewidth=1.1, alpha=0.75)
        end = max(end, score.high)
    axes.text(end + 0.012, at, f"{score.value:.2f}", va="center", fontsize=8.5)


def _named(site: str, task: TaskFigures) -> str:
    return f"{site}\n(joined)" if site == task.joined else site


def site_map(places: SitePlaces, joined: str) -> str:
    """The sites in two dimensions: near means that their images are alike."""
    points = np.asarray(places.places, np.float64)
    with _figure(5.6, 4.2) as (figure, axes):
        for one, two in zip(*np.triu_indices(len(points), 1), strict=True):
            axes.plot(*points[[one, two]].T, color=_STAND_IN["grid"], linewidth=0.8, zorder=1)
        for (x, y), name in zip(points, places.sites, strict=True):
            colour = _STAND_IN["accent"] if name == joined else _STAND_IN["rebuilt"]
            axes.scatter(x, y, s=110, marker="D" if name == joined else "o", color=colour, zorder=3)
        axes.margins(0.3, 0.25)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        texts = [f"{name} (joined)" if name == joined else name for name in places.sites]
        _label(figure, axes, points, texts)
        return _svg(figure)


def site_tree(sites: Sequence[str], merges: Sequence[tuple[int, int, float]], order: Sequence[int]) -> str:
    """The tree of the sites: what joins further to the left is more alike.

    Args:
        merges, order: As of `SiteMap`.
    """
    at = {leaf: (0.0, float(row)) for row, leaf in enumerate(order)}
    with _figure(5.6, 0.7 + 0.32 * len(sites)) as (figure, axes):
        for number, (one, two, height) in enumerate(merges):
            (left, high), (right, low) = at[one], at[two]
            line = ([left, height, height, right], [high, high, low, low])
            axes.plot(*line, color=_STAND_IN["rebuilt"], linewidth=1.6)
            at[len(sites) + number] = (height, (high + low) / 2.0)
        axes.set_yticks(range(len(order)), [sites[leaf] for leaf in order])
        axes.tick_params(axis="y", length=0, labelcolor=_STAND_IN["ink"])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("mean distance between the sites that join")
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
        return _svg(figure)


# Where a label may stand, in points from its site: above, below, beside, further off.
_SPOTS = [(0, 15), (0, -15), (12, 0), (-12, 0), (10, 28), (10, -28), (-10, 28), (-10, -28), (0, 42), (0, -42)]


def _label(figure: Figure, axes: Axes, points: npt.NDArray[np.float64], texts: Sequence[str]) -> None:
    """Write each site's name at the first spot that hides no other name or site."""
    figure.draw_without_rendering()
    in_points = axes.transData.transform(points) * 72 / figure.dpi
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in in_points]
    for (x, y), place, text in zip(in_points, points, texts, strict=True):
        width = 6.3 * len(text)
        boxes = []
        for right, up in _SPOTS:
            side = 0 if abs(right) < 11 else right / abs(right) * width / 2
            middle = x + right + side
            boxes.append((middle - width / 2, y + up - 6, middle + width / 2, y + up + 6))
        hidden = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = int(np.argmin(hidden))
        taken.append(boxes[best])
        anchor = ("left" if _SPOTS[best][0] > 0 else "right") if abs(_SPOTS[best][0]) > 11 else "center"
        axes.annotate(text, place, _SPOTS[best], textcoords="offset points", ha=anchor, va="center", zorder=4)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def label_curve(points: Sequence[CurvePoint], metric: str, joined: str) -> str:
    """Scores at the joining site by how many of its images are labelled."""
    labels = [point.labels for point in points]
    with _figure(5.6, 3.9) as (figure, axes):
        for column in CURVES:
            shown = [point for point in points if column in point.values]
            if not shown:
                continue
            x = [point.labels for point in shown]
            scores = [point.values[column] for point in shown]
            colour = _STAND_IN[column]
            axes.plot(
                x, [s.value for s in scores], marker=_MARKERS[column], color=colour, label=column, linewidth=2
            )
            if all(s.low is not None and s.high is not None for s in scores):
                low, high = [s.low for s in scores], [s.high for s in scores]
                axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)  # type: ignore[arg-type]
        axes.set_xscale("log")
        axes.set_xticks(labels, [str(n) for n in labels])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"labelled images at {joined}")
        axes.set_ylabel(metric)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=len(CURVES))
        return _svg(figure)


def calibration_plot(calibration: Calibration) -> str:
    """Accuracy by confidence; on the diagonal the probabilities can be taken at their word."""
    confidence, accuracy, count = (
        np.asarray(part, np.float64)
        for part in (calibration.confidence, calibration.accuracy, calibration.count)
    )
    filled = count > 0
    with _figure(5.6, 4.4) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_STAND_IN["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(
            confidence[filled],
            confidence[filled],
            accuracy[filled],
            color=_STAND_IN["rebuilt"],
            linewidth=2,
            alpha=0.5,
        )
        area = 30 + 370 * count[filled] / max(count.max(), 1)
        axes.scatter(
            confidence[filled], accuracy[filled], s=area, color=_STAND_IN["rebuilt"], alpha=0.8, zorder=3
        )
        axes.set_xlim(-0.03, 1.06)
        axes.set_ylim(-0.06, 1.09)
        axes.set_xlabel("confidence (highest probability)")
        axes.set_ylabel("share answered correctly")
        axes.grid()
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        axes.text(0.02, 0.98, f"expected calibration error {calibration.error:.3f}", va="top")
        return _svg(figure)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element without fixed size, coloured by the page's variables."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", '<svg aria-hidden="true" ', 1)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", text)
    for variable, colour in _STAND_IN.items():
        text = text.replace(colour, f"var(--{variable.replace('_', '-')})")
    return text


def with_own_ids(svg: str, prefix: str) -> str:
    """Put a prefix before the ids that an SVG refers to and drop the others, so that many can share a page.

    Example:
        >>> with_own_ids('<g id="a"/><g id="b"/><use xlink:href="#b"/>', "x")
        '<g/><g id="x-b"/><use xlink:href="#x-b"/>'
    """
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)


def curve_columns(points: Sequence[CurvePoint]) -> list[str]:
    """Columns of the label curve as a table."""
    return [name for name in CURVES if any(name in point.values for point in points)]
