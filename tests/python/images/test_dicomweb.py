"""Studies of a real DICOMweb server (Orthanc) as a dataset folder."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from kits import load

from fedmed_edge.errors import InputError
from fedmed_edge.images.archive import open_archive
from fedmed_edge.images.collect import Plan, collect
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.recipe import Recipe

pytest.importorskip("dicomweb_client")
RECIPE = Recipe(
    name="t",
    kind="classification",
    classes=("benign", "malignant"),
    modality=("CT",),
    size=(8, 8, 8),
    spacing_mm=(1, 1, 1),
)


@pytest.fixture(scope="module")
def pacs(lacks: Callable[[str], NoReturn]) -> ModuleType:
    kit = load("end_to_end/pacs.py")
    if (
        not shutil.which("Orthanc")
        or not kit.DICOMWEB_PLUGIN.exists()
        or not (kit.DCMTK / "storescu").exists()
    ):
        lacks("Orthanc or dcmtk: sh tests/packages.sh installs them")
    return kit


@pytest.fixture(scope="module")
def orthanc(pacs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PACS with three CT studies, of which one has an MR series, too."""
    folder = tmp_path_factory.mktemp("pacs")
    for number in range(3):
        study = f"1.2.{number + 1}"
        about = {"AccessionNumber": f"A-{number}", "PatientID": f"P-{number}", "StudyInstanceUID": study}
        pacs.write_series(folder / f"{number}", 4, value=100 + number, **about)
    pacs.write_series(folder / "mr", 3, value=7, **(about | {"Modality": "MR"}))
    made = pacs.Orthanc(folder / "orthanc")
    assert pacs.send(made.port, *(folder / name for name in ("0", "1", "2", "mr")), to="ORTHANC") == 0
    yield made
    made.stop()


def test_studies_of_the_table_are_fetched_and_no_others(orthanc: Any, tmp_path: Path) -> None:
    labels = tmp_path / "findings.csv"
    labels.write_text("AccessionNumber,label\nA-0,benign\nA-2,malignant\nA-9,benign\n")
    plan = Plan(tmp_path / "out", labels=labels, recipe=RECIPE)
    archive = open_archive([orthanc.dicomweb], plan, {}, None, None)
    assert not archive.failed
    received = [path for path in (plan.out / "received").rglob("*.dcm")]
    assert len(received) == 8, "two studies, and no MR series"
    made = collect(archive.paths, plan, failed=archive.failed)
    assert (made.images, made.patients, made.faults) == (2, 2, 1)
    assert made.unused == ((f"{labels}: row 4", "no image has its AccessionNumber"),)
    moved = shutil.move(plan.out, tmp_path / "moved")
    dataset = read_dataset(Path(moved), RECIPE)
    assert sorted(item.label or 0 for item in dataset) == [0, 1]
    assert [dataset.load(item).shape for item in dataset] == [(16, 16, 4)] * 2


def test_a_query_alone_and_what_was_fetched_before(orthanc: Any, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "out", recipe=RECIPE)
    for _ in range(2):
        archive = open_archive([orthanc.dicomweb], plan, {"PatientID": "P-1"}, None, None)
        made = collect(archive.paths, plan, failed=archive.failed)
        assert made.images == 1 and len(list((plan.out / "received").rglob("*.dcm"))) == 4


def test_nobody_fetches_a_whole_archive_by_mistake(orthanc: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every study of the server would match, expected --labels or --q"):
        open_archive([orthanc.dicomweb], Plan(tmp_path / "out"), {}, None, None)
    with pytest.raises(InputError, match="`--query` is of a DICOMweb server"):
        open_archive([str(tmp_path)], Plan(tmp_path / "out"), {"PatientID": "x"}, None, None)


def test_a_server_that_is_not_there_or_none(orthanc: Any, pacs: ModuleType, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "out")
    gone = f"http://127.0.0.1:{pacs.free_port()}/dicom-web"
    with pytest.raises(InputError, match=r"dicomweb: the server cannot be asked: \w+Error"):
        open_archive([gone], plan, {"PatientID": "x"}, None, None)
    wrong = orthanc.dicomweb.replace("dicom-web", "elsewhere")
    with pytest.raises(InputError, match=r"dicomweb: the server cannot be asked: HTTPError \(HTTP 404\)"):
        open_archive([wrong], plan, {"PatientID": "x"}, None, None)


@pytest.mark.parametrize("cap", [3, 200])
@pytest.mark.parametrize("takes_offset", [True, False])
def test_a_server_may_cap_its_pages(cap: int, takes_offset: bool) -> None:
    stored = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(7)]

    def search(limit: int, offset: int) -> list[dict[str, Any]]:
        first = offset if takes_offset else 0
        return stored[first : first + min(limit, cap)]

    # loads an HTTP library that may be missing
    from fedmed_edge.images.dicomweb import pages

    found = [str(one.StudyInstanceUID) for one in pages(search)]
    assert found == [f"1.2.{number}" for number in range(7 if takes_offset else min(cap, 7))]
