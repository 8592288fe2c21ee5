"""A DICOM tree and a spreadsheet → a dataset folder that reads back."""

import csv
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from fedmed_edge.errors import InputError, NothingMatched
from fedmed_edge.images.collect import KEY_FILE, UNUSED, Plan, collect
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.recipe import Recipe

AXIAL = [1, 0, 0, 0, 1, 0]
VOLUMES = Recipe(
    name="t", kind="segmentation", classes=("background", "liver"), size=(8, 8, 8), spacing_mm=(1, 1, 1)
)
PICTURES = Recipe(name="t", kind="classification", classes=("benign", "malignant"))


@pytest.fixture
def archive(write_dicom: Any, tmp_path: Path) -> Any:
    """Write a study of one series: `count` slices."""

    def write(name: str, count: int, **elements: Any) -> Path:
        rng = np.random.default_rng(sum(name.encode()))
        for k in range(count):
            usual = {
                "PixelSpacing": [1, 1],
                "ImageOrientationPatient": AXIAL,
                "ImagePositionPatient": [0, 0, k],
                "StudyInstanceUID": f"1.{sum(name.encode())}",
                "SeriesInstanceUID": f"1.{sum(name.encode())}.1",
                "PatientID": f"patient {name}",
                "AccessionNumber": f"A{name}",
            }
            own = {key: value[k] if isinstance(value, tuple) else value for key, value in elements.items()}
            write_dicom(
                f"archive/{name}/{k}.dcm", rng.integers(0, 99, (6, 5)).astype(np.int16), **(usual | own)
            )
        return tmp_path / "archive"

    return write


def table(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def lines(out: Path, name: str = "labels.csv") -> list[dict[str, str]]:
    with (out / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pictures_are_labelled_by_accession_number(archive: Any, tmp_path: Path) -> None:
    archive("x", 1, Modality="DX")
    archive("y", 2, Modality="DX", PatientID="patient x")
    archive("z", 1, Modality="DX")
    labels = table(
        tmp_path, "Accession Number;Finding\r\nAx;benign\r\nAy;malignant\r\nAw;benign\r\n", "cp1252"
    )
    out = tmp_path / "out"
    made = collect([tmp_path / "archive"], Plan(out, labels=labels, label="finding", recipe=PICTURES))
    assert (made.images, made.patients, made.masks, made.faults) == (3, 1, 0, 1)
    assert made.unused == (
        (str(tmp_path / "archive/z/0.dcm"), "no row of the table has its AccessionNumber"),
        (f"{labels}: row 4", "no image has its AccessionNumber"),
    )
    assert [tuple(line.values()) for line in lines(out, UNUSED)] == list(made.unused)
    dataset = read_dataset(out, PICTURES)
    assert sorted(item.label or 0 for item in dataset) == [0, 1, 1]
    assert len({item.patient for item in dataset}) == 1
    for item in dataset:
        assert item.image.is_symlink() and dataset.load(item).shape == (6, 5)


def test_nothing_in_the_table_or_the_names_tells_of_the_patient(archive: Any, tmp_path: Path) -> None:
    archive("x", 2, PatientName="Smith^Jane", PatientID="secret")
    out = tmp_path / "out"
    collect([tmp_path / "archive"], Plan(out, copy=True))
    told = (out / "labels.csv").read_text() + " ".join(str(path) for path in out.rglob("*"))
    assert not [word for word in ("Smith", "secret", "Ax", "1.120") if word in told]
    assert stat.S_IMODE((out / KEY_FILE).stat().st_mode) == 0o600
    first = lines(out)
    collect([tmp_path / "archive"], Plan(out, copy=True))
    assert lines(out) == first, "the same patient keeps its name"
    other = tmp_path / "other"
    collect([tmp_path / "archive"], Plan(other, copy=True))
    assert lines(other)[0]["patient"] != first[0]["patient"], "another folder tells nothing of this one"
    assert not any(path.is_symlink() for path in out.rglob("*"))
    (out / KEY_FILE).write_bytes(b"")
    with pytest.raises(InputError, match=r"\.patient-key: has 0 bytes, expected 32"):
        collect([tmp_path / "archive"], Plan(out, copy=True))


def test_a_volume_is_a_folder_and_the_best_of_its_study(archive: Any, tmp_path: Path) -> None:
    archive("x", 4)
    archive("xx", 3, StudyInstanceUID="1.120", PatientID="patient x")
    archive("crooked", 3, ImagePositionPatient=([0, 0, 0], [0, 0, 1], [0, 0, 2.3]))
    out = tmp_path / "out"
    made = collect([tmp_path / "archive"], Plan(out, recipe=VOLUMES))
    assert made.images == 1 and made.faults == 1
    reasons = dict(made.unused)
    assert reasons[str(tmp_path / "archive/xx")].startswith("another series of the study comes first")
    assert reasons[str(tmp_path / "archive/crooked")].startswith("slice 2 along the normal lies 0.150 mm off")
    dataset = read_dataset(out, VOLUMES)
    assert dataset.load(dataset.items[0]).shape == (5, 6, 4)
    lenient = collect([tmp_path / "archive"], Plan(tmp_path / "b", recipe=VOLUMES, lenient=True))
    assert lenient.images == 2 and lenient.faults == 0
    both = read_dataset(tmp_path / "b", VOLUMES)
    assert sorted(both.load(item).format for item in both) == ["dicom", "nifti"]


def test_echoes_of_one_series_become_images_of_their_own(archive: Any, tmp_path: Path) -> None:
    archive("x", 4, Modality="MR", EchoTime=(1, 1, 9, 9), ImagePositionPatient=([0, 0, 0], [0, 0, 1]) * 2)
    out = tmp_path / "out"
    made = collect([tmp_path / "archive"], Plan(out))
    dataset = read_dataset(out, VOLUMES)
    assert made.images == 2 and [dataset.load(item).shape for item in dataset] == [(5, 6, 2)] * 2


def test_a_label_that_is_no_class_a_cine_and_other_files_are_told(
    archive: Any, write_dicom: Any, tmp_path: Path
) -> None:
    archive("x", 1, Modality="US")
    archive("y", 1, Modality="US")
    frames = np.zeros((3, 6, 5), np.int16)
    cine = {"NumberOfFrames": 3, "PixelData": frames.tobytes(), "AccessionNumber": "Ax", "Modality": "US"}
    write_dicom("archive/cine.dcm", frames[0], **cine, StudyInstanceUID="7", SeriesInstanceUID="7.1")
    (tmp_path / "archive" / "notes.txt").write_text("a note")
    (tmp_path / "archive" / "cut.dcm").write_bytes(b"")
    labels = table(tmp_path, "AccessionNumber\tlabel\tsplit\nAx\tbenign\ttest\nAy\tunclear\t\n")
    made = collect([tmp_path / "archive"], Plan(tmp_path / "out", labels=labels, recipe=PICTURES))
    reasons = {Path(name).name: reason for name, reason in made.unused}
    assert reasons == {
        "notes.txt": "not a PNG, JPEG, NIfTI or DICOM file",
        "cut.dcm": "is empty",
        "cine.dcm": "a cine of 3 frames, expected single images",
        "0.dcm": "label `unclear` is no class of the recipe, expected benign, malignant",
        "labels.csv: row 3": "no image has its AccessionNumber",
    }
    assert [line["split"] for line in lines(tmp_path / "out")] == ["test"]


def test_a_zip_is_copied_from(archive: Any, tmp_path: Path) -> None:
    folder = archive("x", 2)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as packed:
        for path in folder.rglob("*.dcm"):
            packed.write(path, path.name)
    out = tmp_path / "out"
    collect([tmp_path / "s.zip"], Plan(out))
    dataset = read_dataset(out, VOLUMES)
    assert dataset.load(dataset.items[0]).shape == (5, 6, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table has no line of column names"),
        ("Accession,label\nA,b\n", r"columns are Accession, label, expected one named `AccessionNumber`"),
        ("AccessionNumber,label\nA\n", "row 2 has 1 column, expected 2"),
        ("AccessionNumber,label\nA,b\nA,c\n", "rows 2 and 3 have the same key and different labels"),
        ("AccessionNumber,label\n,b\n", "row 2 names no study or patient"),
        ("AccessionNumber,label,split\nA,b,val\n", "row 2: `split` has `val`, expected train, test or empty"),
        ("AccessionNumber,label\n", "table has no rows"),
        ('AccessionNumber,label\n"A,b\n', "not a readable CSV file"),
        ("AccessionNumber,accession number\nA,b\n", "a column occurs twice"),
        (
            "AccessionNumber,diagnosis\nA,b\n",
            "columns are AccessionNumber, diagnosis, expected one named `finding`",
        ),
        ("PK\x03\x04", "is a spreadsheet, expected a CSV file"),
    ],
)
def test_tables_that_are_none(archive: Any, tmp_path: Path, text: str, message: str) -> None:
    archive("x", 1)
    column = "finding" if "finding" in message else "label"
    with pytest.raises(InputError, match=rf"labels.csv: .*{message}"):
        collect([tmp_path / "archive"], Plan(tmp_path / "out", labels=table(tmp_path, text), label=column))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_encoding_and_separator(archive: Any, tmp_path: Path, encoding: str, separator: str) -> None:
    archive("x", 1)
    labels = table(tmp_path, f"AccessionNumber{separator}label\nAx{separator}gutartig für\n", encoding)
    assert collect([tmp_path / "archive"], Plan(tmp_path / "out", labels=labels)).classes == ("gutartig für",)


def test_nothing_found_and_a_foreign_folder(archive: Any, tmp_path: Path) -> None:
    archive("x", 1)
    labels = table(tmp_path, "AccessionNumber,label\nnone,b\n")
    with pytest.raises(NothingMatched, match=r"no image for the dataset was found: .*no row of the table"):
        collect([tmp_path / "archive"], Plan(tmp_path / "out", labels=labels))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "labels.csv").write_text("image\n")
    with pytest.raises(InputError, match="foreign: folder holds a dataset that was not made here"):
        collect([tmp_path / "archive"], Plan(foreign))


# --- masks -------------------------------------------------------------------------------------------------


def item(**values: Any) -> list[Dataset]:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return [ds]


@pytest.fixture
def write_seg(write_dicom: Any) -> Any:
    """A binary SEG of one segment on slice `k` of series 1.120.1, (6, 5) pixels."""

    def write(name: str, k: int, label: str, inside: np.ndarray, **elements: Any) -> Path:
        bits = np.packbits(inside.ravel().astype(np.uint8), bitorder="little").tobytes()
        frame = item(
            PlanePositionSequence=item(ImagePositionPatient=[0, 0, k]),
            SegmentIdentificationSequence=item(ReferencedSegmentNumber=1),
        )
        shared = item(
            PlaneOrientationSequence=item(ImageOrientationPatient=AXIAL),
            PixelMeasuresSequence=item(PixelSpacing=[1, 1]),
        )
        path: Path = write_dicom(
            f"archive/{name}.dcm",
            np.zeros((6, 5), np.uint8),
            **{
                "SOPClassUID": SegmentationStorage,
                "Modality": "SEG",
                "StudyInstanceUID": "1.120",
                "SeriesInstanceUID": f"5.{sum(name.encode())}",
                "PatientID": "patient x",
                "BitsAllocated": 1,
                "BitsStored": 1,
                "HighBit": 0,
                "NumberOfFrames": 1,
                "PixelData": bits + b"\0" * (len(bits) % 2),
                "SegmentationType": "BINARY",
                "SegmentSequence": item(SegmentNumber=1, SegmentLabel=label),
                "SharedFunctionalGroupsSequence": shared,
                "PerFrameFunctionalGroupsSequence": frame,
                "ReferencedSeriesSequence": item(SeriesInstanceUID="1.120.1"),
                "ContentDate": "20240101",
                **elements,
            },
        )
        return path

    return write


INSIDE = np.zeros((6, 5), bool)
INSIDE[1:4, 2:4] = True


def test_segmentations_become_masks_and_the_newer_one_counts(
    archive: Any, write_seg: Any, tmp_path: Path
) -> None:
    archive("x", 3)
    write_seg("old", 0, "LIVER", ~INSIDE)
    write_seg("new", 1, "Leber", INSIDE, ContentDate="20240202")
    write_seg("kidney", 1, "kidney", INSIDE)
    write_seg("lost", 1, "liver", INSIDE, ReferencedSeriesSequence=item(SeriesInstanceUID="9.9"))
    out = tmp_path / "out"
    made = collect([tmp_path / "archive"], Plan(out, recipe=VOLUMES, renames={"leber": "liver"}))
    assert (made.images, made.masks, made.classes) == (1, 1, ("background", "liver"))
    assert {Path(name).name: reason for name, reason in made.unused} == {
        "old.dcm": "`LIVER` is also in a newer file, which counts",
        "kidney.dcm": "`kidney` is no class, expected one of background, liver",
        "lost.dcm": "segmentation of a series that was not taken",
    }
    dataset = read_dataset(out, VOLUMES)
    mask = dataset.load_mask(dataset.items[0], dataset.load(dataset.items[0]))
    np.testing.assert_array_equal(mask[:, :, 1].T, INSIDE)
    assert mask.sum() == INSIDE.sum()


def test_results_of_our_own_are_no_masks(archive: Any, write_seg: Any, tmp_path: Path) -> None:
    archive("x", 3)
    write_seg("ours", 1, "liver", INSIDE, Manufacturer="FedMed Edge")
    made = collect([tmp_path / "archive"], Plan(tmp_path / "out", recipe=VOLUMES))
    assert (made.images, made.masks) == (1, 0)
    ((name, reason),) = made.unused
    assert name.endswith("ours.dcm") and reason == "holds a result of FedMed Edge itself, no image"


def test_a_class_that_the_recipe_lacks_is_refused(archive: Any, tmp_path: Path) -> None:
    archive("x", 3)
    with pytest.raises(InputError, match=r"class of `Leber` is `lever`, expected one of the recipe's: back"):
        collect([tmp_path / "archive"], Plan(tmp_path / "out", recipe=VOLUMES, renames={"Leber": "lever"}))
    assert not (tmp_path / "out").exists()


def test_structures_of_radiotherapy_become_masks(archive: Any, write_dicom: Any, tmp_path: Path) -> None:
    """A rectangle around the pixels of INSIDE, on the second of three slices."""
    archive("x", 3)
    corners = [(1.5, 0.5, 1), (3.5, 0.5, 1), (3.5, 3.5, 1), (1.5, 3.5, 1)]
    contour = item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(corners),
        ContourData=[mm for corner in corners for mm in corner],
    )
    series = item(RTReferencedSeriesSequence=item(SeriesInstanceUID="1.120.1"))
    path = write_dicom(
        "archive/rs.dcm",
        np.zeros((1, 1), np.uint8),
        SOPClassUID=RTStructureSetStorage,
        Modality="RTSTRUCT",
        StudyInstanceUID="1.120",
        SeriesInstanceUID="5.5",
        PatientID="patient x",
        StructureSetROISequence=item(ROINumber=3, ROIName="Liver"),
        ROIContourSequence=item(ReferencedROINumber=3, ContourSequence=contour),
        ReferencedFrameOfReferenceSequence=item(RTReferencedStudySequence=series),
    )
    plain = pydicom.dcmread(path)
    del plain.PixelData, plain.Rows, plain.Columns
    plain.save_as(path)
    out = tmp_path / "out"
    made = collect([tmp_path / "archive"], Plan(out, recipe=VOLUMES))
    assert (made.images, made.masks, made.unused) == (1, 1, ())
    dataset = read_dataset(out, VOLUMES)
    mask = dataset.load_mask(dataset.items[0], dataset.load(dataset.items[0]))
    np.testing.assert_array_equal(mask[:, :, 1].T, INSIDE)
    assert mask.sum() == INSIDE.sum()


def test_without_a_recipe_classes_are_what_segments_are_called(
    archive: Any, write_seg: Any, tmp_path: Path
) -> None:
    archive("x", 3)
    write_seg("a", 0, "spleen", INSIDE)
    write_seg("b", 1, "liver", INSIDE)
    made = collect([tmp_path / "archive"], Plan(tmp_path / "out"))
    assert made.classes == ("background", "liver", "spleen") and made.masks == 1


def test_a_mask_that_lies_elsewhere_is_a_loss(archive: Any, write_seg: Any, tmp_path: Path) -> None:
    archive("x", 3)
    archive("y", 3)
    write_seg("a", 17, "liver", INSIDE)
    made = collect([tmp_path / "archive"], Plan(tmp_path / "out", recipe=VOLUMES))
    assert made.faults == 1 and made.images == 1
    ((_, reason),) = made.unused
    assert "a.dcm: frame 1 lies on no slice of its series, expected the same grid" in reason


def test_a_mask_of_one_part_of_a_series_is_not_the_others(
    archive: Any, write_seg: Any, write_dicom: Any, tmp_path: Path
) -> None:
    archive("x", 2, SOPInstanceUID=("1.1", "1.2"))
    for k in range(2):
        place = {"ImagePositionPatient": [0, 0, k], "ImageOrientationPatient": AXIAL, "PixelSpacing": [1, 1]}
        uids = {"StudyInstanceUID": "1.120", "SeriesInstanceUID": "1.120.1", "PatientID": "patient x"}
        write_dicom(f"archive/wide{k}.dcm", np.zeros((6, 7), np.int16), **place, **uids)
    named = item(SeriesInstanceUID="1.120.1", ReferencedInstanceSequence=item(ReferencedSOPInstanceUID="1.2"))
    write_seg("a", 0, "liver", INSIDE, ReferencedSeriesSequence=named)
    made = collect([tmp_path / "archive"], Plan(tmp_path / "out"))
    assert (made.images, made.masks) == (2, 1)
    dataset = read_dataset(tmp_path / "out", VOLUMES)
    (labelled,) = dataset.labelled.items
    assert dataset.load(labelled).shape == (5, 6, 2)


def test_pictures_get_masks_of_their_own(archive: Any, write_seg: Any, tmp_path: Path) -> None:
    archive("x", 1)
    write_seg("a", 0, "liver", INSIDE)
    recipe = Recipe(name="t", kind="segmentation", classes=("background", "liver"))
    collect([tmp_path / "archive"], Plan(tmp_path / "out", recipe=recipe))
    dataset = read_dataset(tmp_path / "out", recipe)
    np.testing.assert_array_equal(dataset.load_mask(dataset.items[0], dataset.load(dataset.items[0])), INSIDE)
