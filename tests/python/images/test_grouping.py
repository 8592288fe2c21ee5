"""Files in any order and mixture → studies and series."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, SegmentationStorage

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom import frame_masks, read_dicom, read_frames, read_volume
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.series import Series

AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]
PIXELS = np.random.default_rng(0).integers(0, 500, (6, 4, 5)).astype(np.int16)


@pytest.fixture
def heap(write_dicom: Any, tmp_path: Path) -> Any:
    """Write slices at heights into one folder; group all that lies there."""

    def write(name: str, heights: list[float], **elements: Any) -> None:
        for number, height in enumerate(heights):
            place = {
                "PixelSpacing": [1, 1],
                "ImageOrientationPatient": AXIAL,
                "ImagePositionPatient": [0, 0, height],
                "InstanceNumber": number + 1,
            }
            own = {
                key: value[number] if isinstance(value, tuple) else value for key, value in elements.items()
            }
            write_dicom(f"heap/{name}{number}.dcm", PIXELS[number], **(place | own))

    def group() -> Any:
        return group_files(sorted((tmp_path / "heap").iterdir()))

    write.group = group  # type: ignore[attr-defined]
    return write


def lengths(series: tuple[Series, ...]) -> list[int]:
    return sorted(len(one.frames) for one in series)


def test_series_of_two_studies_in_one_folder_come_apart_and_slices_in_order(heap: Any) -> None:
    heap("b", [4, 0, 2], SeriesInstanceUID="1.1")
    heap("a", [9, 7], SeriesInstanceUID="1.2")
    heap("c", [0, 1], SeriesInstanceUID="2.1", StudyInstanceUID="2", PatientID="B")
    found = heap.group()
    assert {study.study_uid: len(study.series) for study in found.studies} == {"1.2.3": 2, "2": 1}
    by_uid = {one.series_uid: one for one in found.series}
    assert [frame.path.name for frame in by_uid["1.1"].frames] == ["b1.dcm", "b2.dcm", "b0.dcm"]
    assert by_uid["1.1"].patient_id == "A" and "A" not in repr(by_uid["1.1"]).split("'")
    image = read_volume(by_uid["1.1"])
    np.testing.assert_array_equal(image.pixels[0].transpose(2, 1, 0), PIXELS[[1, 2, 0]])


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": AXIAL},
        {"ImageType": ["DERIVED", "SECONDARY", "REF_SURVIEW"], "ImageOrientationPatient": AXIAL},
        {"ImageOrientationPatient": SAGITTAL},
        {"PixelSpacing": [2, 2]},
        {"Rows": 2},
        {"Modality": "MR"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"ImagePositionPatient": None},
    ],
)
def test_what_differs_in_kind_is_never_one_stack(heap: Any, elements: dict[str, Any]) -> None:
    heap("stack", [0, 1, 2])
    heap("odd", [7], **elements)
    found = heap.group().series
    assert lengths(found) == [1, 3]
    assert all(one.part for one in found), "each says what tells it from the other"
    whole = next(one for one in found if len(one.frames) == 3)
    assert whole.stack is not None and not whole.stack.faults


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", (10, 10, 10, 80, 80, 80)),
        ("TemporalPositionIdentifier", (1, 1, 1, 2, 2, 2)),
        ("AcquisitionNumber", (1, 1, 1, 2, 2, 2)),
        ("DiffusionBValue", (0, 0, 0, 1000, 1000, 1000)),
    ],
)
def test_echoes_and_phases_at_one_position_come_apart(
    heap: Any, keyword: str, values: tuple[int, ...]
) -> None:
    heap("x", [0, 1, 2, 0, 1, 2], Modality="MR", **{keyword: values})
    found = heap.group().series
    assert lengths(found) == [3, 3]
    assert {one.part.split()[0] for one in found} == {keyword}
    assert all(one.stack is not None and not one.stack.faults for one in found)


def test_two_echoes_of_two_phases_make_four(heap: Any) -> None:
    heap(
        "x",
        [0, 0, 0, 0, 5, 5],
        Modality="MR",
        EchoTime=(10, 10, 80, 80, 10, 80),
        TemporalPositionIdentifier=(1, 2, 1, 2, 1, 1),
    )
    assert lengths(heap.group().series) == [1, 1, 2, 2]


def test_an_acquisition_number_that_counts_along_a_volume_does_not_split_it(heap: Any) -> None:
    heap("x", [0, 1, 2, 3], AcquisitionNumber=(1, 2, 3, 4), EchoTime=(1, 2, 3, 4))
    assert lengths(heap.group().series) == [4]
    heap("y", [1], AcquisitionNumber=9, SOPInstanceUID="1.77")
    (series,) = heap.group().series
    assert series.stack is not None
    assert [fault.code for fault in series.stack.faults] == ["duplicate"]


def test_a_copy_is_passed_over_and_a_changed_one_is_told(heap: Any, write_dicom: Any, tmp_path: Path) -> None:
    heap("x", [0, 1, 2], SOPInstanceUID=("1.10", "1.11", "1.12"))
    shutil.copy(tmp_path / "heap" / "x1.dcm", tmp_path / "heap" / "y.dcm")
    (series,) = heap.group().series
    assert len(series.frames) == 3 and not series.warnings
    heap("z", [1], SOPInstanceUID="1.11", RescaleIntercept=5)
    (series,) = heap.group().series
    assert [frame.path.name for frame in series.frames] == ["x0.dcm", "x1.dcm", "x2.dcm"], "the first is kept"
    assert series.warnings[0].startswith("copies: 1 instance lies there twice with different content")
    assert read_volume(series).warnings == series.warnings


def test_a_study_of_two_patients_is_refused_and_the_others_go_on(heap: Any) -> None:
    heap("x", [0, 1], SeriesInstanceUID="1.1")
    heap("y", [0, 1], SeriesInstanceUID="1.2", PatientID="B")
    heap("z", [0, 1], SeriesInstanceUID="9.2", StudyInstanceUID="9", PatientID="C")
    found = heap.group()
    assert [study.study_uid for study in found.studies] == ["9"]
    ((path, error),) = found.refused
    assert path.name == "x0.dcm"
    assert str(error) == f"{path}: its study holds 2 patients (`PatientID`), expected one"


def test_a_series_in_two_studies_is_refused(heap: Any) -> None:
    heap("x", [0, 1])
    heap("y", [0, 1], StudyInstanceUID="9")
    found = heap.group()
    assert not found.studies
    assert all("its series lies in two studies" in str(error) for _, error in found.refused)


def test_broken_files_and_other_objects_stop_nothing(heap: Any, write_dicom: Any, tmp_path: Path) -> None:
    heap("x", [0, 1])
    write_dicom("heap/seg.dcm", PIXELS[0], SOPClassUID=SegmentationStorage)
    write_dicom("heap/cut.dcm", PIXELS[0], PhotometricInterpretation=None)
    found = heap.group()
    assert lengths(found.series) == [2]
    assert [(path.name, kind) for path, kind in found.others] == [("seg.dcm", "a segmentation")]
    ((path, error),) = found.refused
    assert path.name == "cut.dcm" and "broken or cut off" in str(error)


def test_an_image_cut_off_before_its_pixels_is_refused_and_a_whole_copy_taken(
    heap: Any, write_dicom: Any, tmp_path: Path
) -> None:
    heap("x", [0, 1], SOPInstanceUID=("1.10", "1.11"))
    whole = tmp_path / "heap" / "x1.dcm"
    shutil.copy(whole, tmp_path / "heap" / "y.dcm")
    cut = pydicom.dcmread(whole)
    del cut.Rows, cut.Columns, cut.PixelData
    cut.save_as(whole)
    found = heap.group()
    assert lengths(found.series) == [2] and not found.others
    ((path, error),) = found.refused
    assert path == whole and "Image without its rows and pixels, cut off or broken" in str(error)


def test_damaged_headers_give_series_or_refusals_and_nothing_else(heap: Any, tmp_path: Path) -> None:
    heap("x", [0, 1, 2], SliceThickness=2.5, EchoTime=3, SeriesNumber=4, AccessionNumber="A")
    rng = np.random.default_rng(0)
    files = sorted((tmp_path / "heap").iterdir())
    whole = [path.read_bytes() for path in files]
    for _ in range(60):
        path, content = files[0], bytearray(whole[0])
        for place in rng.integers(132, len(content) - 40, 4):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        found = heap.group()
        assert all("\n" not in str(error) for _, error in found.refused)
        assert sum(lengths(found.series)) + len(found.refused) + len(found.others) >= 1
    path.write_bytes(whole[0].replace(b"2.5 ", b"2.\xe95"))
    assert lengths(heap.group().series) == [3]


def test_results_of_our_own_are_no_inputs(heap: Any, write_dicom: Any) -> None:
    heap("x", [0, 1])
    write_dicom("heap/sc.dcm", PIXELS[0], Manufacturer="FedMed Edge")
    found = heap.group()
    assert lengths(found.series) == [2]
    assert [kind for _, kind in found.others] == ["a result of FedMed Edge itself"]


def test_a_mosaic_is_no_picture(heap: Any, write_dicom: Any) -> None:
    path = write_dicom("heap/m.dcm", PIXELS[0], ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    found = heap.group()
    assert not found.series and [kind for _, kind in found.others] == ["a mosaic of slices"]
    with pytest.raises(InputError, match=r"m.dcm: file holds a mosaic of slices, expected an image"):
        read_dicom(path)


def test_whole_numbers_may_be_kept_in_half_the_memory(heap: Any, write_dicom: Any) -> None:
    heap("x", [0, 1, 2], PixelPaddingValue=(int(PIXELS[0, 0, 0]), 9999, 9999), RescaleIntercept=-100)
    (series,) = heap.group().series
    plain, compact = read_volume(series), read_volume(series, compact=True)
    assert (plain.pixels.dtype, compact.pixels.dtype) == (np.float32, np.int16)
    np.testing.assert_array_equal(plain.pixels, compact.pixels)
    assert plain.pixels[0, 0, 0, 0] == plain.pixels.min(), "padding has the smallest value of the others"
    heap("y", [7, 8], RescaleSlope=(1, 0.5), SeriesInstanceUID="1.99")
    other = next(one for one in heap.group().series if one.series_uid == "1.99")
    assert read_volume(other, compact=True).pixels.dtype == np.float32
    np.testing.assert_array_equal(read_volume(other, compact=True).pixels, read_volume(other).pixels)


def enhanced(write_dicom: Any, heights: list[float], echoes: list[float]) -> Path:
    def item(**values: Any) -> list[Dataset]:
        ds = Dataset()
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        return [ds]

    frames = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=[0, 0, height]),
            MREchoSequence=item(EffectiveEchoTime=echo),
            MRImageFrameTypeSequence=item(FrameType=["ORIGINAL", "PRIMARY", "T1", f"E{echo:.0f}"]),
            PixelValueTransformationSequence=item(RescaleSlope=1 + number, RescaleIntercept=0),
        )[0]
        for number, (height, echo) in enumerate(zip(heights, echoes, strict=True))
    ]
    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=AXIAL),
        PixelMeasuresSequence=item(PixelSpacing=[1, 1], SliceThickness=3),
    )
    path: Path = write_dicom(
        "heap/enhanced.dcm",
        PIXELS[0],
        SOPClassUID=EnhancedMRImageStorage,
        Modality="MR",
        NumberOfFrames=len(heights),
        PixelData=PIXELS[: len(heights)].tobytes(),
        SharedFunctionalGroupsSequence=shared,
        PerFrameFunctionalGroupsSequence=frames,
    )
    return path


def test_the_echoes_of_an_enhanced_file_come_apart_with_their_own_frames(heap: Any, write_dicom: Any) -> None:
    enhanced(write_dicom, [6, 0, 3, 0, 3, 6], [10, 10, 10, 80, 80, 80])
    first, second = sorted(heap.group().series, key=lambda one: one.part)
    assert first.part == r"EchoTime 10.0, FrameType ORIGINAL\PRIMARY\T1\E10"
    assert second.image_type == ("ORIGINAL", "PRIMARY", "T1", "E80")
    assert [frame.index for frame in first.frames] == [1, 2, 0]
    assert (first.thickness_mm == 3 and not first.is_cine) or first.is_volume
    image = read_volume(first)
    for place, index in enumerate([1, 2, 0]):
        np.testing.assert_array_equal(image.pixels[0, :, :, place].T, PIXELS[index] * (1.0 + index))
    mask = np.arange(image.pixels[0].size, dtype=np.uint8).reshape(image.shape)
    np.testing.assert_array_equal(frame_masks(mask, first)[1], mask[:, :, 1].T)


def test_a_cine_gives_its_frames_one_by_one(write_dicom: Any, heap: Any) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (3, 4, 5, 3)).astype(np.uint8)
    write_dicom("heap/us.dcm", colours[0], Modality="US", NumberOfFrames=3, PixelData=colours.tobytes())
    (series,) = heap.group().series
    assert series.is_cine and not series.is_volume and series.colour
    for frame, image in zip(colours, read_frames(series), strict=True):
        np.testing.assert_array_equal(image.pixels.transpose(1, 2, 0), frame)
        assert image.dimensions == 2


def test_the_headers_of_a_series_are_whole_and_without_pixels(heap: Any) -> None:
    heap("x", [1, 0], PatientName="Smith^Jane", StationName="north")
    (series,) = heap.group().series
    headers = series.headers()
    assert [float(header.ImagePositionPatient[2]) for header in headers] == [0, 1]
    assert all("PixelData" not in header and header.StationName == "north" for header in headers)


@pytest.mark.parametrize(
    ("numbers", "warned"),
    [
        ([1, 2, 3, 4, 5, 6], False),
        ([6, 5, 4, 3, 2, 1], False),
        ([1, 3, 5, 7, 9, 11], False),
        ([1, 1, 1, 1, 1, 1], False),
        ([3, 1, 2, 6, 4, 5], False),
        ([1, 2, 3, 5, 6, 7], True),
        ([9, 8, 7, 5, 4, 3], True),
    ],
)
def test_numbers_that_are_left_out_are_told(numbers, warned, write_series):
    folder = write_series(np.zeros((6, 4, 4), np.int16))
    for path, number in zip(sorted(folder.iterdir()), numbers, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number
        dataset.save_as(path)
    (series,) = group_files(folder.iterdir()).series
    told = "numbers: 1 instance number is left out along the stack, the first between slices 3 and 4; "
    assert series.warnings == ((f"{told}slices may be missing",) if warned else ())
