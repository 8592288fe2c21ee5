"""`fedmed-edge dataset`: what it says, and its exit codes."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EDGE = "fedmed-edge"


@pytest.fixture
def archive(write_dicom: Any, tmp_path: Path) -> Path:
    for name in "ab":
        write_dicom(
            f"archive/{name}.dcm",
            np.zeros((4, 5), np.int16),
            AccessionNumber=name,
            StudyInstanceUID=f"1.{ord(name)}",
            SeriesInstanceUID=f"1.{ord(name)}.1",
            PatientID=f"secret-{name}",
            Modality="DX",
        )
    return tmp_path / "archive"


def test_what_is_made_and_what_is_left_out_is_told(archive: Path, kit: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("AccessionNumber,Finding\na,benign\n")
    asked = [EDGE, "dataset", archive, "--labels", tmp_path / "t.csv", "--label", "finding"]
    said = kit.run(*asked, "--out", tmp_path / "out")
    assert said.code == 0 and "secret" not in said.out + said.err
    assert said.out.splitlines() == [
        f"left out   {archive / 'b.dcm'}: no row of the table has its AccessionNumber",
        f"{tmp_path / 'out'}: 1 image of 1 patient, 0 masks",
        "classes: benign",
    ]
    document = kit.run(*asked, "--out", tmp_path / "out", "--json").json
    assert set(document) == {"out", "images", "patients", "masks", "classes", "unused", "faults"}


def test_a_row_without_an_image_is_exit_3_and_no_image_at_all_4(
    archive: Path, kit: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("PatientID,label\nsecret-a,x\nsecret-z,x\n")
    asked = [EDGE, "dataset", archive, "--labels", tmp_path / "t.csv", "--by", "PatientID", "--copy"]
    said = kit.run(*asked, "--out", tmp_path / "out")
    assert said.code == 3 and "row 3: no image has its PatientID" in said.out
    (tmp_path / "t.csv").write_text("PatientID,label\nsecret-z,x\n")
    assert kit.run(*asked, "--out", tmp_path / "out").code == 4


def test_a_full_disk_leaves_no_half_copied_image(archive: Path, kit: ModuleType, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", (EDGE, "dataset", archive, "--copy", "--out", tmp_path / "out")
    assert kit.run(*asked).code == 0
    before = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    said = kit.run_alone(*asked, room=500)
    assert said.code == 4 and "cannot be written: File too large" in said.err, said.err
    assert {path.name: path.read_bytes() for path in (out / "images").iterdir()} == before


def test_wrong_usage_and_missing_paths(archive: Path, kit: ModuleType, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    said = kit.run(EDGE, "dataset", tmp_path / "gone", *out)
    assert (said.code, said.err) == (1, f"error: {tmp_path / 'gone'}: no such file or folder\n")
    assert kit.run(EDGE, "dataset", archive, *out, "--class", "liver").code == 2
    said = kit.run(EDGE, "dataset", "https://127.0.0.1:9/x", *out)
    assert said.code == 1 and "expected --labels or --query" in said.err


def test_a_dataset_folder_is_not_made_of_itself(archive: Path, kit: ModuleType, tmp_path: Path) -> None:
    inside = archive / "made" / "out"  # passed over, however the two are called
    (tmp_path / "other").symlink_to(archive)
    for scan in (archive, tmp_path / "other"):
        for more in ((), ("--copy",)):
            assert kit.run(EDGE, "dataset", scan, "--out", inside, *more, "--json").json["images"] == 2
    before = sorted(tmp_path.rglob("*"))
    for scan, out in ((archive, archive), (tmp_path / "other", archive), (inside / "images", inside)):
        said = kit.run(EDGE, "dataset", scan, "--out", out)
        assert said.code == 1 and f"error: {scan}: is in the dataset folder {out} that is made" in said.err
    assert sorted(tmp_path.rglob("*")) == before
