"""RTSTRUCT polygons as masks, against matplotlib's own polygons."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy.spatial.transform import Rotation

from fedmed_edge.errors import InputError
from fedmed_edge.images.contours import polygon_mask, read_structures, structure_names
from fedmed_edge.images.image import read_image
from fedmed_edge.images.segments import target_of

ROWS, COLUMNS, SLICES = 20, 24, 5
# Off the grid points, where which side counts is a matter of convention.
OUTER = np.array([[3.3, 2.2], [15.6, 4.1], [16.4, 15.7], [8.2, 9.3], [2.4, 17.1]])
HOLE = np.array([[5.3, 5.4], [9.1, 5.6], [6.2, 8.3]])


def reference(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    path = pytest.importorskip("matplotlib.path")
    grid = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), -1)
    inside = path.Path(points).contains_points(grid.reshape(-1, 2))
    return np.asarray(inside).reshape(shape)


corners = st.lists(st.tuples(st.integers(-30, 250), st.integers(-30, 250)), min_size=3, max_size=3)


@given(corners)
def test_a_triangle_is_matplotlibs(points: list[tuple[int, int]]) -> None:
    shape = (20, 22)
    exact = np.array(points) / 10 + 0.037 * np.array([1, 1.3])
    np.testing.assert_array_equal(polygon_mask(exact, shape), reference(exact, shape))


def test_a_hollow_polygon_is_matplotlibs() -> None:
    np.testing.assert_array_equal(polygon_mask(OUTER, (20, 24)), reference(OUTER, (20, 24)))


def written(path: Path, structures: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR") -> Path:
    """A structure set of polygons (n, 3) in the patient's mm."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    ds.Modality, ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "RTSTRUCT", "A", "1.2.3", "9.9"
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, polygons) in enumerate(structures.items(), start=7):
        roi, contours = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        contours.ReferencedROINumber, contours.ContourSequence = number, []
        for points in polygons:
            one = Dataset()
            one.ContourGeometricType, one.NumberOfContourPoints = kind, len(points)
            one.ContourData = [f"{mm:.8f}"[:16] for mm in points.ravel()]
            contours.ContourSequence.append(one)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(contours)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


class Scan:
    """An oblique series, and where its pixels lie."""

    def __init__(self, write_series: Any, seed: int = 0) -> None:
        self.axes = Rotation.random(random_state=seed).as_matrix()
        self.origin = np.array([10.0, -20, 30])
        positions = self.origin + np.arange(SLICES)[:, None] * self.axes[:, 2] * 2.5
        orientation = tuple(self.axes[:, :2].T.ravel())
        zeros = np.zeros((SLICES, ROWS, COLUMNS), np.int16)
        self.image = read_image(write_series(zeros, positions, orientation))
        self.target = target_of(self.image)

    def polygon(self, points: np.ndarray, k: float) -> np.ndarray:
        """Corners (row, column) on slice k, in the patient's mm (DICOM's axes)."""
        rows, columns = points[:, :1], points[:, 1:]
        return (
            self.origin
            + self.axes[:, 2] * 2.5 * k
            + columns * self.axes[:, 0] * 0.75
            + rows * self.axes[:, 1] * 0.5
        )


@pytest.fixture
def scan(write_series: Any) -> Scan:
    return Scan(write_series)


@pytest.mark.parametrize("seed", range(4))
def test_structures_become_classes_on_the_grid(write_series: Any, tmp_path: Path, seed: int) -> None:
    scan = Scan(write_series, seed)
    polygons = [scan.polygon(OUTER, 1), scan.polygon(HOLE, 1), scan.polygon(OUTER, 3)]
    small = np.array([[17.3, 19.2], [18.7, 19.4], [18.2, 22.6]])
    path = written(tmp_path / "rs.dcm", {"Liver": polygons, "Lesion": [scan.polygon(small, 1)], "other": []})
    assert structure_names(path) == {7: "Liver", 8: "Lesion", 9: "other"}
    found = read_structures(path, scan.target, {7: 1, 8: 2})
    shape = (ROWS, COLUMNS)
    wanted = np.zeros((SLICES, *shape), np.uint8)
    wanted[1][reference(OUTER, shape) ^ reference(HOLE, shape)] = 1
    wanted[1][reference(small, shape)] = 2
    wanted[3][reference(OUTER, shape)] = 1
    np.testing.assert_array_equal(found, wanted.T)
    assert wanted.any() and not read_structures(path, scan.target, {9: 1}).any()


def test_a_polygon_between_slices_or_outside_is_refused(scan: Scan, tmp_path: Path) -> None:
    path = written(tmp_path / "rs.dcm", {"a": [scan.polygon(OUTER, 1.4)]})
    with pytest.raises(
        InputError, match=r"rs.dcm: a polygon lies 0.40 slices off one of series, expected on"
    ):
        read_structures(path, scan.target, {7: 1})
    path = written(tmp_path / "rs.dcm", {"a": [scan.polygon(OUTER, 5)]})
    with pytest.raises(InputError, match=r"rs.dcm: a polygon lies outside series, expected inside"):
        read_structures(path, scan.target, {7: 1})


def test_structures_that_overlap_are_refused_unless_of_one_class(scan: Scan, tmp_path: Path) -> None:
    path = written(tmp_path / "rs.dcm", {"a": [scan.polygon(OUTER, 1)], "b": [scan.polygon(HOLE, 1)]})
    with pytest.raises(InputError, match=r"rs.dcm: structures of two classes overlap"):
        read_structures(path, scan.target, {7: 1, 8: 2})
    np.testing.assert_array_equal(
        read_structures(path, scan.target, {7: 1, 8: 1})[:, :, 1].T, reference(OUTER, (ROWS, COLUMNS))
    )


def test_points_and_lines_enclose_nothing(scan: Scan, tmp_path: Path) -> None:
    path = written(tmp_path / "rs.dcm", {"a": [scan.polygon(OUTER, 1)]}, kind="OPEN_PLANAR")
    assert not read_structures(path, scan.target, {7: 1}).any()


def test_other_objects_are_refused(scan: Scan, write_dicom: Any) -> None:
    path = write_dicom("a.dcm", np.zeros((4, 4), np.int16))
    with pytest.raises(InputError, match=r"a.dcm: file holds no structure set, expected an RTSTRUCT"):
        read_structures(path, scan.target, {})
    flat = target_of(read_image(path))
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = RTStructureSetStorage
    ds.save_as(path)
    with pytest.raises(InputError, match=r"structures lie in a volume, expected one, not a.dcm"):
        read_structures(path, flat, {})
