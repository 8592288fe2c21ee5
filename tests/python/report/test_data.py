import json

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.report.data import (
    CurvePoint,
    ReportData,
    TaskFigures,
    Value,
    plain_statements,
    read_data,
    save_data,
)
from fedmed_edge.report.html import render


def task_of(row, **more):
    return TaskFigures(
        "t", "segmentation", "Dice", "open", "b", tuple(row), {"a": row, "b": row}, row, **more
    )


def test_figures_survive_the_file(data, text, tmp_path):
    path = tmp_path / "report.json"
    save_data(path, data)
    again = read_data(path)
    assert render(again) == text
    assert np.array_equal(again.tasks[1].examples[0].truth, data.tasks[1].examples[0].truth)
    assert again.tasks[0].scores == data.tasks[0].scores and again.tasks[0].events == data.tasks[0].events


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "[" * 50_000,
        json.dumps({"is": "Path", "x": 1}),
        json.dumps({"is": "Value", "value": 1.0}),
        json.dumps({"is": "ReportData", "titel": "x"}),
        json.dumps({"is": "array", "dtype": "O", "shape": [1], "bytes": "AAAAAAAAAAA="}),
    ],
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"report\.json: not the figures of a report"):
        read_data(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_data(tmp_path / "none.json")


def test_losses_and_ties_are_said():
    row = {
        "rebuilt": Value(0.80),
        "own_sums": Value(0.70),
        "untrained": Value(0.78),
        "threshold": Value(0.95),
        "reference": Value(0.804),
        "local": Value(0.81),
        "refined": Value(0.90),
        "pooled": Value(0.91),
    }
    gains = {
        "own_sums": Value(0.10, 0.02, 0.18),
        "untrained": Value(0.02, -0.03, 0.06),
        "threshold": Value(-0.15, -0.20, -0.10),
    }
    verdict = (
        "rebuilt (0.80) is above own_sums (0.70), ties with untrained (0.78) and is below threshold (0.95); "
        "higher are local (0.81) and pooled (0.91)."
    )
    said = plain_statements(task_of(row, gains={"": gains, "b": gains}))
    assert said == [f"On average, {verdict}", f"At b, which joined, {verdict}"]


def test_the_label_curve_is_said():
    above, tie = Value(0.1, 0.02, 0.2), Value(0.03, -0.01, 0.1)
    gains = {5: {"rebuilt": above}, 10: {"rebuilt": above}, 20: {"rebuilt": tie, "refined": above}, 40: {}}
    points = tuple(CurvePoint(labels, {}, gain) for labels, gain in gains.items())
    said = plain_statements(task_of({"rebuilt": Value(0.8)}, curve=points))
    assert said == [
        "By labelled images at b: rebuilt with 5 and 10 is above and with 20 ties with own_sums; "
        "refined with 20 is above own_sums."
    ]


def test_nothing_is_said_without_controls():
    assert plain_statements(task_of({"rebuilt": Value(0.8)})) == []


def test_an_empty_report_is_a_page():
    page = render(ReportData("Nothing yet", "No task was run.", ()))
    assert "Nothing yet" in page and "No task was run." in page
