"""What is finished is named by the bytes that it was made of."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedmed_edge.images.dataset import Dataset, Task, read_dataset
from fedmed_edge.study.notebook import images_digest


@pytest.fixture
def data(tmp_path: Path, write_task: Callable[[Path, str], Task]) -> dict[str, Dataset]:
    task = write_task(tmp_path / "outlines", "segmentation")
    return {site: read_dataset(folder, task.recipe) for site, folder in task.sites.items()}


def change(path: Path) -> None:
    """One bit of a file, its size as it was."""
    content, told = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns + 1))


@pytest.mark.parametrize("name", ["images/3.png", "images/3-mask.png"])
def test_a_changed_byte_is_another_data_set(data: dict[str, Dataset], name: str) -> None:
    before = images_digest(data)
    path = data["beta"].folder / name
    os.utime(path)
    assert images_digest(data) == before, "touched, and the same"
    change(path)
    after = images_digest(data)
    assert after != before
    change(path)
    assert images_digest(data) == before


def test_a_series_folder_counts_by_its_files(data: dict[str, Dataset], tmp_path: Path) -> None:
    series = data["beta"].folder / "images" / "series"
    series.mkdir()
    for number in range(2):
        (series / f"{number}.dcm").write_bytes(bytes([number] * 8))
    item = replace(data["beta"].items[0], image=series)
    data["beta"] = replace(data["beta"], items=(item, *data["beta"].items[1:]))
    before = images_digest(data)
    change(series / "1.dcm")
    assert images_digest(data) != before


def test_hidden_labels_are_another_data_set(data: dict[str, Dataset]) -> None:
    items = tuple(replace(item, mask=None) for item in data["beta"].items)
    assert images_digest(data) != images_digest(data | {"beta": replace(data["beta"], items=items)})
