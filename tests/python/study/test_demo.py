"""What the demo refuses or passes over before it trains anything."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Task
from fedmed_edge.study import demo
from fedmed_edge.study.plan import POLICIES, Budget

WriteTask = Callable[[Path, str], Task]


def test_tasks_of_too_few_patients_are_passed_over_and_named(
    tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site has ten patients, five of a class; of the segmentation all ten show both."""
    folders = [write_task(tmp_path / kind, kind).folder for kind in ("classification", "segmentation")]
    began: list[str] = []

    def run_join(task: Task, **more: object) -> None:
        began.append(task.recipe.kind)
        raise InterruptedError

    monkeypatch.setattr(demo, "run_join", run_join)
    setting = replace(POLICIES["default"], min_cohort=6)
    with pytest.raises(InterruptedError):
        demo.run_demo(tmp_path / "out", data=folders, setting=setting)
    assert began == ["segmentation"]
    few = replace(setting, min_cohort=20)
    with pytest.raises(InputError, match="patients of every class for min_cohort 20: alpha, beta"):
        demo.run_demo(tmp_path / "out", data=folders, setting=few)


def test_models_with_noise_are_not_compared_over_a_federation(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compares models by their bytes, and noise is drawn anew"):
        demo.run_demo(tmp_path, setting=POLICIES["private"], federation=True)


def test_figures_stand_where_the_model_cannot_be_exported(
    tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity is measured on made-up images, and a steep head may miss it after hours of work."""

    def refuse(*arguments: object) -> bytes:
        raise InputError("export: `probabilities` differ")

    monkeypatch.setattr(demo, "export_onnx", refuse)
    budget = Budget(4, 1, 2, 2, 1, 2, until_plateau=False)
    monkeypatch.setattr(demo, "DATA_BUDGET", {"classification": budget})
    folder = write_task(tmp_path / "squares", "classification").folder
    made = demo.run_demo(tmp_path / "out", data=[folder], setting=POLICIES["open"], device="cpu")
    assert made.documents[0]["mean"]["rebuilt"] is not None
    told = "squares was not exported, no image was answered: export: `probabilities` differ"
    assert told in made.lines and told in made.report.read_text()
