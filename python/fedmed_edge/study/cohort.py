"""A synthetic cohort of four sites whose scanners differ, written as real DICOM.

Two task folders: `chest_findings`, single DX images in three classes, and `abdomen_ct`, axial CT series with
an organ and its lesions as NIfTI masks. The last site by name, `westfield`, is the one that joins later: its
radiographs have inverted contrast and its CT is taken in a phase where lesions are brighter than the organ.
"""

import csv
import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fedmed_edge.study.phantoms import FINDINGS, ORGANS, Array64, Labels, abdomen, blur, radiograph

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

SITES = ("harbour", "lakeside", "northgate", "westfield")
CHEST, ABDOMEN = "chest_findings", "abdomen_ct"

Split = Literal["train", "test"]
Row = tuple[str, str, str, str, Split]

_NAMESPACE = uuid.UUID("6d8f3a52-7c1e-5b04-9a38-4f7f0c2b91de")
_DX_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"
_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_HEADER = ("image", "label", "mask", "patient", "split")


@dataclass(frozen=True)
class CohortSize:
    """Images and volumes of one site; radiographs are dealt over about three patients for four images."""

    train_images: int
    test_images: int
    train_volumes: int
    test_volumes: int


SIZES = {
    "tiny": CohortSize(9, 6, 2, 1),
    "small": CohortSize(40, 20, 6, 3),
    "large": CohortSize(160, 60, 16, 6),
}


@dataclass(frozen=True)
class RadiographScanner:
    """How one site's X-ray unit renders the same anatomy.

    Attributes:
        pixels: Rows and columns.
        blur_px: Point spread, in pixels.
        noise: Standard deviation of the noise, as a share of the full range.
        gain, gamma: Contrast: `gain * value ** gamma + offset`.
        bits: Bits stored.
        photometric: `MONOCHROME1` stores bright as low and says so, which a reader undoes.
        inverted: The stored contrast is inverted and nothing says so: a true domain shift.
    """

    pixels: int
    blur_px: float
    noise: float
    gain: float
    gamma: float
    offset: float
    bits: int
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    inverted: bool = False


@dataclass(frozen=True)
class CtScanner:
    """How one site's CT renders the same anatomy.

    Attributes:
        rows, columns, spacing_mm: In-plane grid.
        slice_mm: Distance and thickness of slices.
        blur_px, noise_hu: In-plane point spread and noise.
        organ_hu, lesion_hu: Contrast phase: organ level, and lesions against it.
        signed, slope, intercept: How values are stored.
        padding: Value outside the round field of view; None: all pixels are measured.
        prone: Rows and columns run the other way round.
    """

    rows: int
    columns: int
    spacing_mm: float
    slice_mm: float
    blur_px: float
    noise_hu: float
    organ_hu: float
    lesion_hu: float
    signed: bool
    slope: float = 1.0
    intercept: float = -1024.0
    padding: int | None = None
    prone: bool = False


RADIOGRAPHY = {
    "harbour": RadiographScanner(96, 0.5, 0.015, 0.80, 1.0, 0.05, 12),
    "lakeside": RadiographScanner(88, 0.8, 0.020, 0.60, 1.2, 0.20, 12, photometric="MONOCHROME1"),
    "northgate": RadiographScanner(112, 0.4, 0.020, 0.95, 0.7, 0.00, 14),
    "westfield": RadiographScanner(96, 0.8, 0.025, 0.70, 1.1, 0.10, 10, inverted=True),
}
TOMOGRAPHY = {
    "harbour": CtScanner(60, 72, 2.5, 2.5, 0.6, 10, 130, -85, signed=False),
    "lakeside": CtScanner(56, 64, 2.8, 3.0, 0.8, 13, 115, -75, signed=True, intercept=0.0),
    "northgate": CtScanner(64, 72, 2.4, 2.0, 0.5, 16, 140, -90, signed=True, padding=-2000, prone=True),
    "westfield": CtScanner(56, 64, 2.7, 3.0, 0.7, 12, 80, 85, signed=False, slope=2.0, intercept=-1000.0),
}


def write_cohort(
    out: Path, *, seed: int = 0, size: Literal["tiny", "small", "large"] = "small"
) -> dict[str, Path]:
    """Write the cohort; the same seed and size give the same bytes.

    Args:
        out: Folder that gets one folder a task; files of the same name are replaced.
        size: 9/6, 40/20 or 160/60 training/test radiographs a site, and 2/1, 6/3 or 16/6 CT series.

    Returns:
        The task folders by task name.

    Source: DICOM PS3.3 A.26 (DX), A.3 (CT); PS3.5 B.2 (UIDs under 2.25).

    Example:
        >>> import tempfile
        >>> tasks = write_cohort(Path(tempfile.mkdtemp()), size="tiny")
        >>> list(tasks), sorted(path.name for path in tasks["abdomen_ct"].iterdir())[:2]
        (['chest_findings', 'abdomen_ct'], ['harbour', 'lakeside'])
    """
    folders = {CHEST: out / CHEST, ABDOMEN: out / ABDOMEN}
    amounts = SIZES[size]
    _write_task(folders[CHEST], "classification", FINDINGS, "DX", "size = [96, 96]")
    in_3d = "dimensions = 3\nsize = [32, 32, 32]\nspacing_mm = [4.0, 4.0, 4.0]"
    soft_tissue = '[intensity]\nrule = "range"\nlow = -200\nhigh = 250'
    _write_task(folders[ABDOMEN], "segmentation", ORGANS, "CT", in_3d, soft_tissue)
    for number, site in enumerate(SITES):
        _write_labels(folders[CHEST] / site, _write_radiographs(folders[CHEST] / site, number, seed, amounts))
        _write_labels(folders[ABDOMEN] / site, _write_series(folders[ABDOMEN] / site, number, seed, amounts))
    return folders


def _write_task(
    folder: Path, kind: str, classes: tuple[str, ...], modality: str, grid: str, table: str = ""
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{name}"' for name in classes)
    lines = [
        f'kind = "{kind}"',
        f"classes = [{names}]",
        f'modality = "{modality}"',
        "channels = 1",
        grid,
        'source = "synthetic cohort of FedMed Edge: procedural phantoms, no patient"',
        'licence = "Apache-2.0"',
        *([table] if table else []),
    ]
    (folder / "task.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_labels(folder: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(rows)
    (folder / "labels.csv").write_text(text.getvalue(), encoding="utf-8")


def _deal(count: int, split: Split, first: int) -> Iterator[tuple[str, int, Split]]:
    """Patients of one split and the number of each patient's image: every third patient has two."""
    patient, made = first, 0
    while made < count:
        for image in range(min(2 if patient % 3 == 0 else 1, count - made)):
            yield f"p{patient:03d}", image, split
            made += 1
        patient += 1


def _write_radiographs(folder: Path, site: int, seed: int, amounts: CohortSize) -> list[Row]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    scanner = RADIOGRAPHY[SITES[site]]
    rows: list[Row] = []
    dealt = [*_deal(amounts.train_images, "train", 0), *_deal(amounts.test_images, "test", 500)]
    for number, (patient, image, split) in enumerate(dealt):
        rng = np.random.default_rng((seed, 2, site, number))
        label = number % len(FINDINGS)
        stored = _expose(radiograph(label, scanner.pixels, rng), scanner, rng)
        name = f"images/{patient}_{image}.dcm"
        _save(_dx_file(stored, scanner, f"{seed}/{SITES[site]}", patient, image), folder / name)
        rows.append((name, FINDINGS[label], "", patient, split))
    return rows


def _expose(image: Array64, scanner: RadiographScanner, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    seen = blur(image, scanner.blur_px).clip(0, 1) ** scanner.gamma * scanner.gain + scanner.offset
    seen += scanner.noise * rng.standard_normal(seen.shape)
    if scanner.inverted != (scanner.photometric == "MONOCHROME1"):
        seen = 1 - seen
    top = 2**scanner.bits - 1
    return np.asarray(np.rint(seen * top).clip(0, top), np.uint16)


def _dx_file(
    stored: npt.NDArray[np.uint16], scanner: RadiographScanner, where: str, patient: str, image: int
) -> "FileDataset":
    file = _file(_DX_STORAGE, where, "dx", patient, f"image{image}", image + 1)
    dataset: Dataset = file
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PresentationIntentType, dataset.ImageLaterality = "FOR PRESENTATION", "U"
    dataset.ImageType, dataset.PatientOrientation = ["ORIGINAL", "PRIMARY", ""], ["L", "F"]
    dataset.AcquisitionContextSequence, dataset.DetectorType = [], "DIRECT"
    dataset.AnatomicRegionSequence = [_code("43799004", "SCT", "Thorax")]
    dataset.ViewCodeSequence = [_code("399348003", "SCT", "postero-anterior")]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = []
    dataset.ImagerPixelSpacing = [f"{400 / scanner.pixels:.4f}"] * 2
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", -1
    dataset.PositionerType, dataset.LossyImageCompression = "NONE", "00"
    dataset.BurnedInAnnotation = "NO"
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    inverse = scanner.photometric == "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = str(2 ** (scanner.bits - 1)), str(2**scanner.bits)
    _pixels(dataset, stored, scanner.bits, scanner.photometric)
    return file


def _write_series(folder: Path, site: int, seed: int, amounts: CohortSize) -> list[Row]:
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    scanner = TOMOGRAPHY[SITES[site]]
    rows: list[Row] = []
    for number in range(amounts.train_volumes + amounts.test_volumes):
        split: Split = "train" if number < amounts.train_volumes else "test"
        rng = np.random.default_rng((seed, 3, site, number))
        patient = f"p{number:03d}"
        affine_lps, shape = _grid(scanner, rng)
        values, labels = _scan(affine_lps, shape, scanner, rng)
        _write_slices(folder / "series" / patient, values, affine_lps, scanner, f"{seed}/{SITES[site]}", rng)
        _write_mask(folder / "masks" / f"{patient}.nii.gz", labels, affine_lps)
        rows.append((f"series/{patient}", "", f"masks/{patient}.nii.gz", patient, split))
    return rows


def _grid(scanner: CtScanner, rng: np.random.Generator) -> tuple[Array64, tuple[int, int, int]]:
    """Voxel (column, row, slice) → patient left, posterior, head in mm, the phantom's centre at an offset."""
    shape = (scanner.columns, scanner.rows, round(rng.uniform(108, 126) / scanner.slice_mm))
    turn = -1.0 if scanner.prone else 1.0
    steps = np.array([turn * scanner.spacing_mm, turn * scanner.spacing_mm, scanner.slice_mm])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(shape) - 1) / 2
    affine[2, 3] += np.round(rng.uniform(-300, -100), 1)
    return affine, shape


def _scan(
    affine_lps: Array64, shape: tuple[int, int, int], scanner: CtScanner, rng: np.random.Generator
) -> tuple[Array64, Labels]:
    """Hounsfield units and labels, both (columns, rows, slices)."""
    index = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))
    points_mm = index * np.diag(affine_lps)[:3, None, None, None]
    values, labels = abdomen(points_mm, scanner.spacing_mm, scanner.lesion_hu, scanner.organ_hu, rng)
    in_plane = (scanner.blur_px, scanner.blur_px, 0.0)
    noise = blur(rng.standard_normal(shape), in_plane)
    return blur(values, in_plane) + scanner.noise_hu / noise.std() * noise, labels


def _write_slices(
    folder: Path,
    values: Array64,
    affine_lps: Array64,
    scanner: CtScanner,
    where: str,
    rng: np.random.Generator,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    low, high = (-(2**15), 2**15 - 1) if scanner.signed else (0, 2**12 - 1)
    stored = np.rint((values - scanner.intercept) / scanner.slope).clip(low, high)
    stored = stored.astype(np.int16 if scanner.signed else np.uint16)
    if scanner.padding is not None:
        stored[_outside(stored.shape[:2])] = scanner.padding
    # File names say nothing about the order, as on many a hospital's disk.
    names = rng.permutation(values.shape[2])
    for position, name in enumerate(names):
        file = _ct_file(stored[:, :, position].T, scanner, where, folder.name, position)
        at = affine_lps @ np.array([0, 0, position, 1.0])
        file.ImagePositionPatient = [f"{mm:.4f}" for mm in at[:3]]
        file.SliceLocation = f"{at[2]:.4f}"
        _save(file, folder / f"{name:03d}.dcm")


def _outside(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """True outside the largest ellipse that fits the image."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return np.asarray(x**2 + y**2 > 1.0)


def _ct_file(
    stored: npt.NDArray[np.generic], scanner: CtScanner, where: str, patient: str, position: int
) -> "FileDataset":
    file = _file(_CT_STORAGE, where, "ct", patient, f"slice{position}", position + 1)
    dataset: Dataset = file
    dataset.Modality, dataset.PatientPosition = "CT", "HFP" if scanner.prone else "HFS"
    dataset.ImageType, dataset.BodyPartExamined = ["ORIGINAL", "PRIMARY", "AXIAL"], "ABDOMEN"
    dataset.FrameOfReferenceUID = _uid(where, "frame", patient)
    dataset.PositionReferenceIndicator, dataset.KVP, dataset.AcquisitionNumber = "", "120", 1
    turn = -1 if scanner.prone else 1
    dataset.ImageOrientationPatient = [turn, 0, 0, 0, turn, 0]
    dataset.PixelSpacing = [f"{scanner.spacing_mm:.4f}"] * 2
    dataset.SliceThickness = f"{scanner.slice_mm:.4f}"
    dataset.RescaleIntercept, dataset.RescaleSlope = f"{scanner.intercept:g}", f"{scanner.slope:g}"
    dataset.RescaleType, dataset.WindowCenter, dataset.WindowWidth = "HU", "40", "400"
    if scanner.padding is not None:
        dataset.add_new("PixelPaddingValue", "SS", scanner.padding)
    _pixels(dataset, stored, 16 if scanner.signed else 12, "MONOCHROME2")
    return file


def _write_mask(path: Path, labels: Labels, affine_lps: Array64) -> None:
    import nibabel

    affine_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps
    image = nibabel.Nifti1Image(labels, affine_ras)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _uid(*parts: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}"


def _code(value: str, scheme: str, meaning: str) -> "Dataset":
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _file(sop_class: str, where: str, study: str, patient: str, instance: str, number: int) -> "FileDataset":
    """A file with the modules that both kinds share; `where` is seed and site."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    site = where.split("/")[-1]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(_uid(where, study, patient, instance))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = f"SYNTHETIC^{site}", f"{site}-{study}-{patient}"
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.StudyInstanceUID = _uid(where, study, patient, "study")
    dataset.StudyDate, dataset.StudyTime, dataset.ContentDate = "20240101", "120000", "20240101"
    dataset.ContentTime, dataset.AcquisitionDate, dataset.AcquisitionTime = "120000", "20240101", "120000"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    # Every radiograph is a series of its own; the slices of a CT share one.
    series = instance if study == "dx" else "series"
    dataset.SeriesInstanceUID = _uid(where, study, patient, series, "uid")
    dataset.SeriesNumber, dataset.InstanceNumber = (number, 1) if study == "dx" else (1, number)
    dataset.Manufacturer, dataset.ManufacturerModelName = "phantoms", f"phantom {site}"
    dataset.ImageComments = "synthetic phantom, no patient"
    return dataset


def _pixels(dataset: "Dataset", stored: npt.NDArray[np.generic], bits: int, photometric: str) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    little_endian = stored.dtype.newbyteorder("<")
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(stored, little_endian).tobytes())


def _save(file: "FileDataset", path: Path) -> None:
    file.save_as(path, enforce_file_format=True)
