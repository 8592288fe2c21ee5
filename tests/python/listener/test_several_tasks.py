"""A node whose model file answers several tasks: what its worker tells of a series."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kits import load

from fedmed_edge import signing
from fedmed_edge.listener.worker import Worker
from fedmed_edge.recipe import Intensity, Recipe


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """Lesion takes DX alone and knows what is not far from grey; area takes any image and knows all."""
    toys, key = load("python/inference/conftest.py"), signing.generate_key()
    signing.write_public_key(tmp_path / "server.pub", key.public_key())
    fields: dict[str, Any] = {"classes": toys.CLASSES, "size": (16, 16)}
    fields["intensity"] = Intensity(rule="range", low=0, high=255)
    area = Recipe(name="area", kind="segmentation", modality=("DX", "CR"), **fields)
    lesion = Recipe(name="lesion", kind="classification", modality=("DX",), **fields)
    tasks = [
        toys.manifest_of(recipe, threshold).model_copy(update={"model": digit * 64, "generation": digit * 64})
        for recipe, threshold, digit in ((area, 20.0, "1"), (lesion, 5.0, "2"))
    ]
    signing.write_signed(tmp_path / "both.onnx", toys.toy_tasks(tasks), key)
    options = {"formats": ["json", "sr"], "seg": "binary", "seg_keep_empty": False, "lenient": False}
    paths = (str(tmp_path), str(tmp_path / "both.onnx"), str(tmp_path / "server.pub"))
    return Worker(*paths, "cpu", options)


@pytest.mark.parametrize(
    ("modality", "level", "state", "answers"),
    [
        ("DX", 150, "done", [("area: bright", True), ("lesion: bright", True)]),
        ("DX", 210, "done", [("area: bright", True)]),
        ("CR", 150, "done", [("area: bright", True)]),
        ("DX", 255, "skipped", []),
        ("CT", 150, "skipped", []),
    ],
)
def test_a_series_is_answered_by_the_tasks_that_are_about_it(
    worker: Worker,
    write_dicom: Any,
    tmp_path: Path,
    modality: str,
    level: int,
    state: str,
    answers: list[tuple[str, bool]],
) -> None:
    described = worker.describe()
    assert (described["task"], described["model"]) == ("area, lesion", f"{'1' * 64}+{'2' * 64}")
    spacing = {"PixelSpacing": [1, 1]}
    series = write_dicom("series/a.dcm", np.full((8, 8), level, np.uint16), Modality=modality, **spacing)
    said = worker.answer(series.parent, tmp_path / "out")
    assert said["state"] == state, said["reason"]
    assert [(one["label"], one["known"]) for one in said["answers"]] == answers
    assert len(said["objects"]) == len(answers) and all(set(one) == {"sr"} for one in said["objects"])
    if level == 255:
        assert "is unlike the images that the model was made from" in said["reason"]
    if modality == "CT":
        assert "area: `modality` has CT, expected DX or CR; lesion: `modality` has CT" in said["reason"]
