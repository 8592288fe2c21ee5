"""What a report shows, as plain values: whoever ran something fills this in, and it can be kept as JSON."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError

BUDGETED: Final = "ended by a stated budget of steps, perhaps before it stopped improving"
"""What a mark on a column of a network says, in the report and in the terminal."""

Array = npt.NDArray[np.generic]

OURS = ("rebuilt", "refined")
CONTROLS = ("own_sums", "untrained", "threshold")
MEANING = {
    "reference": "network trained by federated averaging without the joining site",
    "local": "the site's own network, fine-tuned on its own images",
    "own_sums": "closed form on the site's own sums alone",
    "fedavg": "federated averaging re-trained by every site, the joining one included",
    "rebuilt": "closed form on the sums of all sites; only the joining site computed",
    "refined": "rebuilt with the sites weighted for this site",
    "pooled": "one network trained end to end on all images in one place",
    "untrained": "rebuilt on a backbone of random weights",
    "threshold": "Otsu's threshold, image by image; nothing is learned",
}


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Event:
    """One step of the story.

    Attributes:
        what: `contributes`, `rebuild`, `joins`, `refine`, `withdraws`, or any other word.
        site: Who acts: a site, or `server`.
        seconds, sent_bytes: Work and traffic of that site; every other site has none.
        server_seconds: Work of the server in the same step.
    """

    what: str
    site: str
    seconds: float
    sent_bytes: int
    server_seconds: float = 0.0


@dataclass(frozen=True)
class CurvePoint:
    """Scores at the joining site when it has `labels` labelled images.

    Attributes:
        gains: Rebuilt, and refined, minus own_sums, paired; empty where the site has no own sums.
    """

    labels: int
    values: Mapping[str, Value]
    gains: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SitePlaces:
    """A map of the sites.

    Attributes:
        places: (S, 2) float, in the unit of the distances.
        distances: (S, S) float.
    """

    sites: tuple[str, ...]
    places: Array
    distances: Array


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far the probabilities can be taken at their word.

    Attributes:
        confidence, accuracy, count: (bins,) mean highest probability, share correct, and items of each bin.
        error: Expected calibration error.
    """

    confidence: Array
    accuracy: Array
    count: Array
    error: float


@dataclass(frozen=True, eq=False)
class Example:
    """One held-out image with its answer.

    Attributes:
        image: (rows, columns) or (rows, columns, 3) uint8, as it is to be shown.
        truth, prediction: (rows, columns) class numbers of a segmentation, else None.
        caption: A line below it: the score, or answer and truth.
        good: False marks a wrong or poor answer; None leaves it open.
    """

    site: str
    image: Array
    caption: str
    truth: Array | None = None
    prediction: Array | None = None
    good: bool | None = None


@dataclass(frozen=True)
class Cost:
    """What it took to get a column of the table.

    Attributes:
        seconds: Of all sites together.
        transferred_bytes: Between all sites and the server.
        plateau: False where a stated budget ended it before it stopped improving; None where nothing is
            trained.
    """

    rounds: int
    steps: int
    seconds: float
    transferred_bytes: int
    plateau: bool | None = None


@dataclass(frozen=True)
class Check:
    """A statement that was tested: `got` is what was found, `wanted` what it had to be."""

    what: str
    got: str
    wanted: str
    holds: bool


@dataclass(frozen=True, eq=False)
class TaskFigures:
    """Everything about one task.

    Attributes:
        metric: `Dice` or `balanced accuracy`; 0 to 1, higher is better.
        setting: Policy that the figures hold for (`open`, `default`, …), with a word on it.
        joined: Site that came last.
        columns: Order of the table's columns.
        scores: Site → column → figure.
        mean: Column → figure over all sites.
        gains: Site, or "" for the mean over all → control → rebuilt minus that control, paired.
        images: Site → (training, test) images.
        withdrawn: Site that left, if any.
    """

    task: str
    kind: str
    metric: str
    setting: str
    joined: str
    columns: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Value]]
    mean: Mapping[str, Value]
    gains: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    withdrawn: str | None = None
    curve: tuple[CurvePoint, ...] = ()
    places: SitePlaces | None = None
    calibration: Calibration | None = None
    examples: tuple[Example, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def budgeted(self) -> tuple[str, ...]:
        """Columns that tables mark: those of which `BUDGETED` holds."""
        return tuple(column for column, cost in self.costs.items() if cost.plateau is False)


@dataclass(frozen=True, eq=False)
class ReportData:
    """A whole report.

    Attributes:
        summary: One or two sentences below the title.
        facts: Label → value, for the foot: version, seed, digests.
    """

    title: str
    summary: str
    tasks: tuple[TaskFigures, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plain_statements(task: TaskFigures) -> list[str]:
    """What the table says of `rebuilt` against the controls, ties and losses included, and what is above it.

    Two figures tie where the interval of their paired difference holds 0. Other columns have no such interval
    here: they are named where their figure is higher.

    Example:
        >>> scores = {"rebuilt": Value(0.8), "own_sums": Value(0.75), "threshold": Value(0.95)}
        >>> gains = {"": {"own_sums": Value(0.05, -0.01, 0.11), "threshold": Value(-0.15, -0.2, -0.1)}}
        >>> task = TaskFigures("t", "segmentation", "Dice", "open", "b", tuple(scores), {}, scores, gains)
        >>> plain_statements(task)
        ['On average, rebuilt (0.80) ties with own_sums (0.75) and is below threshold (0.95).']
    """
    rows = [("On average", "", task.mean), (f"At {task.joined}, which joined", task.joined, {})]
    said = []
    for where, site, row in rows:
        row = task.scores.get(site, row)
        by_verdict: dict[str, list[str]] = {}
        gains = task.gains.get(site, {})
        for column, gain in gains.items():
            by_verdict.setdefault(_verdict(gain), []).append(f"{column} ({row[column].value:.2f})")
        parts = [f"{verdict} {_listed(names)}" for verdict, names in by_verdict.items()]
        if parts:
            higher = _higher(row, {*OURS, *gains})
            said.append(f"{where}, rebuilt ({row['rebuilt'].value:.2f}) {_listed(parts)}{higher}.")
    return said + _curve_statement(task)


def _higher(row: Mapping[str, Value], told: set[str]) -> str:
    """The columns that nothing was said of and whose figure, as it is shown, is above that of `rebuilt`."""
    least = round(row["rebuilt"].value, 2)
    above = {column: one.value for column, one in row.items() if column not in told}
    names = [f"{column} ({value:.2f})" for column, value in above.items() if round(value, 2) > least]
    return f"; higher {'are' if len(names) > 1 else 'is'} {_listed(names)}" if names else ""


def _curve_statement(task: TaskFigures) -> list[str]:
    said = []
    for column in ("rebuilt", "refined"):
        by_verdict: dict[str, list[str]] = {}
        for point in task.curve:
            if column in point.gains:
                by_verdict.setdefault(_verdict(point.gains[column]), []).append(str(point.labels))
        parts = [f"with {_listed(counts)} {verdict}" for verdict, counts in by_verdict.items()]
        if parts:
            said.append(f"{column} {_listed(parts)} own_sums")
    return [f"By labelled images at {task.joined}: {'; '.join(said)}."] if said else []


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _verdict(gain: Value) -> str:
    if gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
        return "ties with"
    return "is above" if gain.low > 0 else "is below"


def save_data(path: Path, data: ReportData) -> None:
    """Keep a report's figures as JSON, so that the report can be made again.

    Raises:
        InputError: The file cannot be written.
    """
    write_atomic(path, json.dumps(_encode(data)).encode())


def read_data(path: Path) -> ReportData:
    """Read what `save_data` wrote.

    Raises:
        InputError: The file is missing, or holds something else.
    """
    try:
        data = _decode(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: not the figures of a report") from None
    if not isinstance(data, ReportData):
        raise InputError(f"{path}: not the figures of a report")
    return data


_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Value,
        Event,
        CurvePoint,
        SitePlaces,
        Calibration,
        Example,
        Cost,
        Check,
        TaskFigures,
        ReportData,
    )
}


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        content = {one.name: _encode(getattr(value, one.name)) for one in fields(value)}
        return {"is": type(value).__name__, **content}
    if isinstance(value, np.ndarray):
        packed = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"is": "array", "dtype": value.dtype.str, "shape": value.shape, "bytes": packed}
    if isinstance(value, Mapping):
        return {"is": "table", "rows": [[key, _encode(one)] for key, one in value.items()]}
    if isinstance(value, (tuple, list)):
        return [_encode(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(one) for one in value)
    if not isinstance(value, dict):
        return value
    kind = value["is"]
    if kind == "array":
        dtype = np.dtype(value["dtype"])
        if dtype.hasobject:
            raise ValueError("an array of objects")
        flat = np.frombuffer(base64.b64decode(value["bytes"]), dtype)
        return flat.reshape(value["shape"])
    if kind == "table":
        return {key: _decode(one) for key, one in value["rows"]}
    return _KINDS[kind](**{name: _decode(one) for name, one in value.items() if name != "is"})
