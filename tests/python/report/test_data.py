import json

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.report.data import ReportData, TaskFigures, Value, plain_statements, read_data, save_data
from fedmed_edge.report.html import render


def task_of(row, joined="b"):
    return TaskFigures(
        "t", "classification", "balanced accuracy", "open", joined, tuple(row), {"b": row}, row
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
        "rebuilt": Value(0.80, 0.75, 0.85),
        "own_sums": Value(0.70, 0.60, 0.78),
        "untrained": Value(0.78, 0.70, 0.84),
        "threshold": Value(0.95, 0.93, 0.97),
    }
    said = plain_statements(task_of(row))
    verdict = (
        "rebuilt (0.80) is above own_sums (0.70), ties with untrained (0.78), is below threshold (0.95)."
    )
    assert said == [f"On average, {verdict}", f"At b, which joined, {verdict}"]


def test_nothing_is_said_without_controls_or_rebuilt():
    assert plain_statements(task_of({"rebuilt": Value(0.8)})) == []
    assert plain_statements(task_of({"own_sums": Value(0.8)}, joined="c")) == []


def test_an_empty_report_is_a_page():
    page = render(ReportData("Nothing yet", "No task was run.", ()))
    assert "Nothing yet" in page and "No task was run." in page
