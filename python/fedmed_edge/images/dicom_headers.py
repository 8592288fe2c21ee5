"""DICOM headers: what a file is, and where each of its frames lies, before one pixel is decoded."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import read_elements, reading
from fedmed_edge.images.image import check_size
from fedmed_edge.images.series import MANUFACTURER, Frame, is_own_output
from fedmed_edge.words import counted

# pydicom's log lines and warnings quote the values they stumble over.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

# A file can state any number; each frame becomes an object before its pixels are there.
FRAMES_CAP = 1 << 16

# Elements that tell slices at one position apart, the likeliest first. Acquisition comes late: many scanners
# count it up along one volume.
APART = (
    "EchoNumbers",
    "EchoTime",
    "InversionTime",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "FrameReferenceDateTime",
    "StackID",
    "ImageType",
    "FrameType",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "AcquisitionTime",
    "TriggerTime",
)
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "AccessionNumber", "SeriesDescription", "SeriesNumber", "InstanceNumber", "Modality"),
    *("Manufacturer", "ImageType", "SliceThickness", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("ImagerPixelSpacing", "RescaleSlope", "RescaleIntercept", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", *(keyword for keyword in APART if keyword not in ("FrameType",))),
]
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
# Objects with pixel data that are no acquired image.
_NO_IMAGES = {
    SEGMENTATION: "a segmentation",
    LABEL_MAP: "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}
# Samples a pixel of what is taken. Others (HSV, CMYK, YBR_PARTIAL) are retired or mean no single colour.
_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
# Functional groups that hold a frame's own values of elements that tell frames apart.
_GROUPS = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIndex": ("FrameContentSequence", "TemporalPositionIndex"),
    "StackID": ("FrameContentSequence", "StackID"),
    "FrameAcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "FrameReferenceDateTime": ("FrameContentSequence", "FrameReferenceDateTime"),
}
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def read_header(path: Path, *, need_image: bool = True) -> Dataset:
    """Read what this room needs of a file's header.

    Args:
        need_image: Refuse a file without pixels.

    Raises:
        InputError: The file is broken, holds a derived object in place of an image, or samples that have no
            single meaning.
    """
    with reading(path):
        header = read_elements(path, tags=_TAGS)
        for _ in header:
            # pydicom converts a value when it is first looked at: now, where a broken one names its file.
            pass
        kind = derived_kind(header)
        if kind and need_image:
            raise InputError(f"{path}: file holds {kind}, expected an image")
        if "Rows" not in header and need_image:
            raise InputError(f"{path}: DICOM file holds no image")
        if "Rows" in header and not kind:
            _check_kind(path, header)
    return header


def whole_header(path: Path) -> Dataset:
    """Every element of a file but its pixels.

    Raises:
        InputError: The file is broken.
    """
    with reading(path):
        return read_elements(path)


def derived_kind(header: Dataset) -> str:
    """What an object with pixels is that is no acquired image, else nothing; results of ours among them."""
    if is_own_output(header):
        return f"a result of {MANUFACTURER} itself"
    if "MOSAIC" in image_type(header):
        # Siemens' way of one file for a volume: its slices lie side by side in one picture.
        return "a mosaic of slices"
    return _NO_IMAGES.get(str(header.get("SOPClassUID", "")), "")


def image_type(header: Dataset) -> tuple[str, ...]:
    """Values of ImageType."""
    value = header.get("ImageType") or ()
    return (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def _check_kind(path: Path, header: Dataset) -> None:
    # A missing one is a broken file: reading it raises.
    samples, photometric = int(header.SamplesPerPixel), str(header.PhotometricInterpretation)
    _ = int(header.Rows), int(header.Columns)
    if samples != _SAMPLES.get(photometric):
        has = counted(samples, "sample")
        raise InputError(f"{path}: image has {has} of {photometric}, expected grey, RGB or YBR")


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The frames of a file: each with its place where all have one, else all without.

    Raises:
        InputError: There are too many, or a place is none.
    """
    count = int(header.get("NumberOfFrames") or 1)
    # Before one object a frame is made.
    check_size(path, (int(header.Rows), int(header.Columns)), count)
    if count < 1:
        raise InputError(f"{path}: `NumberOfFrames` has {count}, expected at least 1")
    if count > FRAMES_CAP:
        raise InputError(f"{path}: image has {count} frames, expected at most {FRAMES_CAP}")
    places = [_place(header, index) for index in range(count)]
    uid = str(header.get("SOPInstanceUID", ""))
    if any(place is None for place in places):
        spacing_mm = stated_spacing(header)
        return [
            Frame(path, index, uid, None, None, spacing_mm, *rescale(header, index)) for index in range(count)
        ]
    with reading(path):
        return [_placed(path, index, header, *place) for index, place in enumerate(places) if place]


def _place(header: Dataset, index: int) -> tuple[Dataset, Dataset, Dataset] | None:
    """The items that hold a frame's position, its orientation and its spacing."""
    if int(header.get("NumberOfFrames") or 1) == 1 and "PerFrameFunctionalGroupsSequence" not in header:
        keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        return (header, header, header) if all(header.get(keyword) for keyword in keywords) else None
    place = functional_group(header, index, "PlanePositionSequence", "ImagePositionPatient")
    plane = functional_group(header, index, "PlaneOrientationSequence", "ImageOrientationPatient")
    measures = functional_group(header, index, "PixelMeasuresSequence", "PixelSpacing")
    return None if place is None or plane is None or measures is None else (place, plane, measures)


def _placed(
    path: Path, index: int, header: Dataset, place: Dataset, plane: Dataset, measures: Dataset
) -> Frame:
    position = np.array([float(mm) for mm in place.ImagePositionPatient])
    orientation = np.array([float(cosine) for cosine in plane.ImageOrientationPatient])
    row_mm, column_mm = (float(mm) for mm in measures.PixelSpacing)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise InputError(f"{path}: `ImagePositionPatient` has no three numbers")
    axes = orientation.reshape(2, 3)
    if not np.abs(axes @ axes.T - np.eye(2)).max() <= 0.01:
        raise InputError(f"{path}: `ImageOrientationPatient` has no two unit vectors at a right angle")
    if not (0 < row_mm < 1e4 and 0 < column_mm < 1e4):
        raise InputError(f"{path}: `PixelSpacing` has {row_mm} and {column_mm} mm, expected more than 0")
    return Frame(
        path,
        index,
        str(header.get("SOPInstanceUID", "")),
        position,
        orientation,
        (row_mm, column_mm),
        *rescale(header, index),
        _told(header, index),
    )


def _told(header: Dataset, index: int) -> dict[str, str]:
    told = {
        keyword: _text(header.get(keyword))
        for keyword in APART
        if keyword in header and header.get(keyword) is not None
    }
    for keyword, (sequence, own) in _GROUPS.items():
        item = functional_group(header, index, sequence, own)
        if item is not None:
            told[keyword] = _text(item.get(own))
    for sequence in _FRAME_TYPES:
        item = functional_group(header, index, sequence, "FrameType")
        if item is not None:
            told["FrameType"] = _text(item.FrameType)
    return told


def _text(value: object) -> str:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return "\\".join(str(part) for part in value) if several else str(value)  # type: ignore[attr-defined]


def functional_group(header: Dataset, index: int, sequence: str, keyword: str) -> Dataset | None:
    """The functional group item of a frame that holds `keyword`: its own, else the one all frames share.

    Source: DICOM PS3.3 C.7.6.16 (multi-frame functional groups).
    """
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in [*per_frame[index : index + 1], *shared[:1]]:
        items = group.get(sequence) or []
        if items and keyword in items[0]:
            item: Dataset = items[0]
            return item
    return None


def rescale(header: Dataset, index: int) -> tuple[float, float]:
    """Slope and intercept of a frame."""
    item = functional_group(header, index, "PixelValueTransformationSequence", "RescaleSlope") or header
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def stated_spacing(header: Dataset) -> tuple[float, float] | None:
    """Distance of rows and of columns in mm: in the patient, else at the detector, else unknown."""
    measures = functional_group(header, 0, "PixelMeasuresSequence", "PixelSpacing") or header
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        stated = measures.get(keyword)
        if stated and len(stated) == 2 and min(float(mm) for mm in stated) > 0:
            return float(stated[0]), float(stated[1])
    return None
