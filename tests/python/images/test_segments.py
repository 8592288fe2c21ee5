"""DICOM SEG as masks, made by highdicom."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import read_dataset
from fedmed_edge.images.image import mask_classes, read_image, read_mask
from fedmed_edge.recipe import Recipe

highdicom = pytest.importorskip("highdicom")
seg = highdicom.seg

NAMES = ("background", "liver", "lesion")
TRUTH = np.zeros((5, 8, 6), np.uint8)  # slices, rows, columns
TRUTH[1:4, 2:6, 1:5] = 1
TRUTH[2, 3:5, 2:4] = 2


def described(number: int, label: str) -> Any:
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=seg.SegmentAlgorithmTypeValues.MANUAL,
    )


@pytest.fixture
def scan(write_series: Any) -> Path:
    """A series with what highdicom wants of a source, leaning slices."""
    positions = np.array([[1, 2, 3]]) + np.arange(5)[:, None] * np.array([0, 0.5, 2.0])
    folder: Path = write_series(
        np.zeros(TRUTH.shape, np.int16),
        positions,
        (1, 0, 0, 0, 1, 0),
        FrameOfReferenceUID="1.9",
        PatientName="Phantom^A",
        PatientBirthDate="",
        PatientSex="",
        StudyID="1",
        StudyDate="20240101",
        StudyTime="120000",
        AccessionNumber="",
        ReferringPhysicianName="",
        SeriesNumber=1,
        InstanceNumber=1,
        Manufacturer="phantoms",
        SliceThickness=2,
    )
    return folder


def written(
    folder: Path, to: Path, masks: np.ndarray, labels: list[str], kind: str = "BINARY", **settings: Any
) -> Path:
    """A SEG of (slices, rows, columns) label numbers, in the files' own order."""
    sources = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = seg.Segmentation(
            source_images=sources,
            pixel_array=masks,
            segmentation_type=getattr(seg.SegmentationTypeValues, kind),
            segment_descriptions=[described(n + 1, label) for n, label in enumerate(labels)],
            series_instance_uid=generate_uid(),
            series_number=9,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="a reader",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
            **settings,
        )
        made.save_as(to)
    return to


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("keep_empty", [False, True])
def test_segments_come_onto_the_images_grid_by_name(
    scan: Path, tmp_path: Path, kind: str, keep_empty: bool
) -> None:
    # Named the other way round than numbered: the name counts.
    masks = np.where(TRUTH == 1, 2, np.where(TRUTH == 2, 1, 0)).astype(np.uint8)
    path = written(
        scan, tmp_path / "m.dcm", masks, ["Lesion", "Liver"], kind, omit_empty_frames=not keep_empty
    )
    image = read_image(scan)
    np.testing.assert_array_equal(read_mask(path, image, 3, NAMES), TRUTH.T)
    assert mask_classes(path, 3, NAMES) == (0, 1, 2)


def test_highdicom_reads_the_same(scan: Path, tmp_path: Path) -> None:
    path = written(scan, tmp_path / "m.dcm", TRUTH, ["x", "y"])
    sources = [str(pydicom.dcmread(file).SOPInstanceUID) for file in sorted(scan.iterdir())]
    theirs = seg.segread(path).get_pixels_by_source_instance(
        sources, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(read_mask(path, read_image(scan), 3).T, theirs)


def test_numbers_count_where_no_name_is_a_class(scan: Path, tmp_path: Path) -> None:
    path = written(scan, tmp_path / "m.dcm", TRUTH, ["segment a", "segment b"])
    np.testing.assert_array_equal(read_mask(path, read_image(scan), 3, NAMES), TRUTH.T)
    with pytest.raises(InputError, match=r"m.dcm: segment 2 `segment b` is no class, expected 1 to 1"):
        read_mask(path, read_image(scan), 2, ("a", "b"))


def test_some_names_that_are_classes_and_some_that_are_not_are_refused(scan: Path, tmp_path: Path) -> None:
    path = written(scan, tmp_path / "m.dcm", TRUTH, ["liver", "kidney"])
    with pytest.raises(InputError, match=r"m.dcm: segment `kidney` is no class, but others are"):
        read_mask(path, read_image(scan), 3, NAMES)


def test_overlapping_segments_are_refused(scan: Path, tmp_path: Path) -> None:
    both = np.stack([TRUTH > 0, TRUTH == 2], axis=-1).astype(np.uint8)
    path = written(scan, tmp_path / "m.dcm", both, ["liver", "lesion"])
    with pytest.raises(InputError, match=r"m.dcm: segments of two classes overlap on series"):
        read_mask(path, read_image(scan), 3, NAMES)


def test_the_segmentation_of_another_series_is_refused(scan: Path, tmp_path: Path, write_series: Any) -> None:
    path = written(scan, tmp_path / "m.dcm", TRUTH, ["liver", "lesion"])
    other = write_series(np.zeros((5, 8, 6), np.int16), np.arange(5)[:, None] * [0, 0, 2.0])
    with pytest.raises(InputError, match=r"m.dcm: frame \d lies on no slice of series, expected the same"):
        read_mask(path, read_image(other), 3, NAMES)


def test_flipped_and_turned_frames_come_right(scan: Path, tmp_path: Path) -> None:
    """The same SEG with its frames turned by half a turn in their plane, and its place moved with them."""
    path = written(scan, tmp_path / "m.dcm", TRUTH, ["liver", "lesion"])
    ds = pydicom.dcmread(path)
    pixels = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    frames = pixels[: int(ds.NumberOfFrames) * 48].reshape(-1, 8, 6)[:, ::-1, ::-1]
    ds.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    plane = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    for group in ds.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x + 5 * 0.75, y + 7 * 0.5, z]
    ds.save_as(path)
    np.testing.assert_array_equal(read_mask(path, read_image(scan), 3, NAMES), TRUTH.T)


def test_a_2d_image_takes_the_frames_that_are_about_it(scan: Path, tmp_path: Path) -> None:
    path = written(scan, tmp_path / "m.dcm", TRUTH, ["liver", "lesion"])
    for k, file in enumerate(sorted(scan.iterdir())):
        np.testing.assert_array_equal(read_mask(path, read_image(file), 3, NAMES), TRUTH[k])


def test_what_is_no_segmentation_is_refused(scan: Path) -> None:
    file = sorted(scan.iterdir())[0]
    with pytest.raises(
        InputError, match=r"000.dcm: file holds no segmentation, expected a DICOM SEG as a mask"
    ):
        read_mask(file, read_image(scan), 3)


def test_a_dataset_takes_a_seg_as_a_mask(scan: Path, tmp_path: Path) -> None:
    written(scan, tmp_path / "m.dcm", TRUTH, ["liver", "lesion"])
    (tmp_path / "labels.csv").write_text("image,mask,patient\nseries,m.dcm,a\n")
    recipe = Recipe(name="t", kind="segmentation", classes=NAMES, size=(16, 16, 16), spacing_mm=(1, 1, 1))
    dataset = read_dataset(tmp_path, recipe)
    (item,) = dataset.items
    assert dataset.classes_of(item) == (0, 1, 2)
    np.testing.assert_array_equal(dataset.load_mask(item, dataset.load(item)), TRUTH.T)
