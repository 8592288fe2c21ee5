"""Where a series lies: random axes, flips and orders, against DICOM's formula, highdicom and dcm2niix."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from fedmed_edge.images.dicom import frame_masks, read_volume
from fedmed_edge.images.geometry import world_axes
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.image import Image, read_image
from fedmed_edge.images.preprocess import prepare, restore
from fedmed_edge.recipe import Intensity, Recipe

SHAPE, SPACING = (7, 12, 10), (0.8, 1.1, 2.5)  # slices, rows, columns; mm of columns, rows, slices
TO_RAS = np.diag([-1.0, -1.0, 1.0])
RECIPE = Recipe(
    name="t",
    kind="segmentation",
    classes=("no", "yes"),
    size=(8, 8, 8),
    spacing_mm=(1, 1, 1),
    intensity=Intensity(rule="range", low=0, high=1000),
)


class Phantom:
    """A bright place in a dark box, and the box cut into slices along random axes."""

    def __init__(self, seed: int, kind: str) -> None:
        rng = np.random.default_rng(seed)
        signs = rng.choice([-1.0, 1.0], 3)
        axes = np.eye(3)[:, rng.permutation(3)] * signs
        if kind == "oblique":
            axes = Rotation.random(random_state=seed).as_matrix()
        row, column = axes[:, 0], axes[:, 1]
        # DICOM has no handedness of its own for slices: they may be stored along the normal or against it.
        self.normal = np.cross(row, column) * rng.choice([-1, 1])
        self.row, self.column = row, column
        self.tilt = column * 0.7 if kind == "tilted" else np.zeros(3)
        if kind == "tilted":
            self.normal = np.cross(row, column)
        self.origin = rng.uniform(-100, 100, 3)
        self.seed = seed
        self.values = rng.integers(0, 400, SHAPE).astype(np.int16)
        self.bright = tuple(int(rng.integers(2, side - 2)) for side in SHAPE)
        k, r, c = self.bright
        self.values[k - 1 : k + 2, r - 1 : r + 2, c - 1 : c + 2] = 900
        self.values[self.bright] = 1000

    def position(self, k: int) -> np.ndarray:
        return self.origin + k * (self.normal * SPACING[2] + self.tilt)

    def world(self, k: int, r: int, c: int) -> np.ndarray:
        """RAS mm of a pixel. Source: DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1."""
        place = self.position(k) + self.row * c * SPACING[0] + self.column * r * SPACING[1]
        return TO_RAS @ place

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        names = np.random.default_rng(self.seed).permutation(SHAPE[0])
        series, frame = generate_uid(), generate_uid()
        for k in range(SHAPE[0]):
            ds = pydicom.Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.CTImageStorage, generate_uid()
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2", series, frame
            ds.PatientName = "Phantom^A"
            ds.PatientID = ds.AccessionNumber = ds.StudyID = "1"
            ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ""
            ds.StudyDate = ds.SeriesDate = "20240101"
            ds.StudyTime = ds.SeriesTime = "120000"
            ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 3, k + 1
            ds.Manufacturer, ds.ImageType = "phantoms", ["ORIGINAL", "PRIMARY", "AXIAL"]
            ds.Rows, ds.Columns, ds.SamplesPerPixel = SHAPE[1], SHAPE[2], 1
            ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 1
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
            ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
            ds.ImageOrientationPatient = [f"{x:.12f}"[:16] for x in (*self.row, *self.column)]
            ds.ImagePositionPatient = [f"{x:.10f}"[:16] for x in self.position(k)]
            ds.PixelData = self.values[k].tobytes()
            ds["PixelData"].VR = "OW"
            ds.file_meta = pydicom.dataset.FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.save_as(folder / f"{names[k]:03}.dcm", enforce_file_format=True)
        return folder


def index_of(image: Image, world: np.ndarray) -> np.ndarray:
    assert image.affine_ras is not None
    return np.linalg.solve(image.affine_ras, [*world, 1])[:3]


KINDS = [("turned", seed) for seed in range(12)] + [(k, s) for k in ("oblique", "tilted") for s in range(6)]


@pytest.mark.parametrize(("kind", "seed"), KINDS)
def test_a_pixel_lies_where_dicom_says_and_a_mask_comes_back_there(
    tmp_path: Path, kind: str, seed: int
) -> None:
    phantom = Phantom(seed, kind)
    folder = phantom.write(tmp_path / "scan")
    (series,) = group_files(sorted(folder.iterdir())).series
    image = read_volume(series)
    whole = read_image(folder)
    np.testing.assert_array_equal(image.pixels, whole.pixels)
    for k, r, c in [(0, 0, 0), (0, 11, 9), (6, 0, 9), (6, 11, 0), phantom.bright]:
        index = index_of(image, phantom.world(k, r, c))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        i, j, slab = np.rint(index).astype(int)
        assert image.pixels[0, i, j, slab] == phantom.values[k, r, c]
    # Through the model's grid and back onto the frames of the files themselves.
    prepared = prepare(image, RECIPE)
    shares = np.stack([0.5 - prepared.pixels[0], prepared.pixels[0] - 0.5]).astype(np.float32)
    found = restore(shares, prepared)
    exact = (image.pixels[0] >= 1000).astype(np.uint8)
    masks = frame_masks(exact, series)
    ((place, r, c),) = np.argwhere(masks)
    frame = series.frames[place]
    assert frame.position is not None
    lies = TO_RAS @ (frame.position + phantom.row * c * SPACING[0] + phantom.column * r * SPACING[1])
    np.testing.assert_allclose(lies, phantom.world(*phantom.bright), atol=1e-3)
    assert found.shape == image.shape and image.affine_ras is not None
    centre = (image.affine_ras @ [*np.argwhere(found).mean(axis=0), 1])[:3]
    off = np.linalg.norm(centre - phantom.world(*phantom.bright))
    assert off < 1.0, "less than a voxel of the model's grid"


@pytest.mark.parametrize(("kind", "seed"), [("turned", 1), ("turned", 2), ("oblique", 1), ("oblique", 5)])
def test_highdicom_puts_every_voxel_at_the_same_place(tmp_path: Path, kind: str, seed: int) -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = Phantom(seed, kind).write(tmp_path / "scan")
    image = read_image(folder)
    files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    volume = highdicom.get_volume_from_series(files)
    compare(image, volume.array, np.diag([-1.0, -1, 1, 1]) @ volume.affine)


@pytest.mark.parametrize(("kind", "seed"), [("turned", seed) for seed in range(6)] + [("oblique", 3)])
def test_dcm2niix_puts_every_voxel_at_the_same_place(
    tmp_path: Path, kind: str, seed: int, lacks: Callable[[str], NoReturn]
) -> None:
    if shutil.which("dcm2niix") is None:
        lacks("dcm2niix: sh tests/packages.sh installs it")
    folder = Phantom(seed, kind).write(tmp_path / "scan")
    out = tmp_path / "nifti"
    out.mkdir()
    asked = ["dcm2niix", "-b", "n", "-z", "n", "-m", "n", "-x", "n", "-o", str(out), str(folder)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    (file,) = out.glob("*.nii")
    theirs: Any = nibabel.load(file)
    assert done.returncode == 0
    compare(read_image(folder), np.asarray(theirs.dataobj), theirs.affine)


def compare(image: Image, values: np.ndarray, affine: np.ndarray) -> None:
    """Each of their voxels is one of ours, with the same value."""
    assert image.affine_ras is not None
    step = np.linalg.solve(image.affine_ras, affine)
    index = np.indices(values.shape).reshape(3, -1)
    ours = (step @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    np.testing.assert_allclose(ours, np.rint(ours), atol=2e-3)
    i, j, k = np.rint(ours).astype(int)
    np.testing.assert_allclose(image.pixels[0, i, j, k], values.reshape(-1), atol=8e-3)


@pytest.mark.parametrize("seed", range(4))
def test_an_enhanced_file_lies_where_its_single_slices_did(tmp_path: Path, seed: int) -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = Phantom(seed, "oblique" if seed % 2 else "turned").write(tmp_path / "scan")
    files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    legacy = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=files,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    path = tmp_path / "enhanced.dcm"
    legacy.save_as(path)
    one, many = read_image(path), read_image(folder)
    assert one.affine_ras is not None and many.affine_ras is not None
    np.testing.assert_allclose(one.affine_ras, many.affine_ras, atol=1e-6)
    np.testing.assert_array_equal(one.pixels, many.pixels)
    assert world_axes(one.affine_ras) == world_axes(many.affine_ras)
