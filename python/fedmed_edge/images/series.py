"""Series: DICOM frames that belong together, as what is known of them without their pixels."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import Float64
from fedmed_edge.images.stacks import Stack

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "FedMed Edge"
"""Manufacturer (0008,0070) of every DICOM object that is written here."""

_LOCALIZERS = ("LOCALIZER", "SCOUT", "SURVIEW", "SURVEY")
_PATIENT_AXES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice, or one frame of a cine.

    Attributes:
        path: Its file.
        index: Place in its file, from 0; DICOM's own frame number is one more.
        instance_uid: SOPInstanceUID of the file.
        position: (3,) mm, ImagePositionPatient; None where the frame has no place in the patient.
        orientation: (6,) ImageOrientationPatient, or None.
        spacing_mm: Distance of its rows, then of its columns; None where the file does not say.
        slope, intercept: Its own rescale.
        told: What tells it from another frame at the same position, by keyword: echo, phase, acquisition.
    """

    path: Path
    index: int
    instance_uid: str
    position: Float64 | None
    orientation: Float64 | None
    spacing_mm: tuple[float, float] | None
    slope: float
    intercept: float
    told: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Series:
    """Frames that make one image: a stack of slices, or the images of one kind in a series.

    One SeriesInstanceUID may hold several: a localizer and a stack, two echoes, two phases.

    Attributes:
        part: What told this one from the others of its SeriesInstanceUID, such as `EchoTime 80`.
        frames: Of a stack, along its normal: frame k is slice k of the volume. Else by number, then by file.
        stack: How the slices lie; None where frames have no place in the patient or there is one alone.
        thickness_mm: SliceThickness; None where the files do not say.
        warnings: What a reader of the answer should know, each beginning with a stable code.
        patient_id, accession, description: Never in a message or a log.
    """

    study_uid: str
    series_uid: str
    sop_class_uid: str
    modality: str
    part: str
    rows: int
    columns: int
    colour: bool
    image_type: tuple[str, ...]
    frames: tuple[Frame, ...] = field(repr=False)
    stack: Stack | None = field(repr=False)
    number: int | None = None
    thickness_mm: float | None = None
    frame_of_reference_uid: str = ""
    warnings: tuple[str, ...] = ()
    patient_id: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    description: str = field(default="", repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Each file once, in the order of the frames."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def place(self) -> Path:
        """Its one file, or the folder that its files share."""
        files = self.files
        return files[0] if len(files) == 1 else Path(shared_folder([str(path) for path in files]))

    @property
    def is_volume(self) -> bool:
        """Whether the frames are a stack of slices."""
        return self.stack is not None

    @property
    def is_cine(self) -> bool:
        """Whether its one file has several frames, each an image of its own to a 2-D recipe."""
        return len(self.frames) > 1 and len(self.files) == 1

    @property
    def is_localizer(self) -> bool:
        """Whether it only shows where other series lie."""
        return is_localizer(self.image_type)

    @property
    def orientation(self) -> str:
        """`axial`, `coronal` or `sagittal`, whichever its planes are nearest to; empty without a place."""
        plane = self.frames[0].orientation
        if plane is None:
            return ""
        return _PATIENT_AXES[int(np.abs(np.cross(plane[:3], plane[3:])).argmax())]

    def headers(self) -> "list[Dataset]":
        """The header of each of `files` without its pixels: what results copy patient and study from.

        Raises:
            InputError: A file is gone or was damaged since.
        """
        from fedmed_edge.images.dicom_headers import whole_header

        return [whole_header(path) for path in self.files]


def is_localizer(image_type: Sequence[str]) -> bool:
    """Whether ImageType says so, in the standard's word or a vendor's.

    Example:
        >>> is_localizer(["DERIVED", "SECONDARY", "REF_SURVIEW"])
        True
    """
    return any(word in value for value in image_type for word in _LOCALIZERS)


def is_own_output(dataset: "Dataset") -> bool:
    """Whether a DICOM object was made by this program: such a one is never answered again.

    Example:
        >>> is_own_output({"Manufacturer": "FedMed Edge "})
        True
    """
    return str(dataset.get("Manufacturer") or "").strip() == MANUFACTURER


def shared_folder(names: Sequence[str]) -> str:
    """The deepest folder that files share, by their names.

    Example:
        >>> shared_folder(["scan/a/1.dcm", "scan/b/2.dcm"])
        'scan'
    """
    folders = [str(Path(name).parent) for name in names]
    try:
        return os.path.commonpath(folders) or "."
    except ValueError:  # some from the root, some from here
        return folders[0]


def safe_name(uid: str) -> str:
    """A UID as a name on the disk; what is none, and might lead elsewhere, by its digest.

    Example:
        >>> safe_name("1.2.840"), safe_name("../etc")[:12]
        ('1.2.840', 'uid-f7f9121f')
    """
    if re.fullmatch(r"[0-9][0-9.]{0,63}", uid):
        return uid
    return "uid-" + hashlib.sha256(uid.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Study:
    """The series of one study, all of one patient."""

    study_uid: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Grouped:
    """What a heap of DICOM files holds.

    Attributes:
        studies: In order of the first file of each.
        refused: Files and series that cannot be used, and why.
        others: Objects that are no images: what each is. Segmentations and reports are among them.
    """

    studies: tuple[Study, ...]
    refused: tuple[tuple[Path, InputError], ...]
    others: tuple[tuple[Path, str], ...]

    @property
    def series(self) -> tuple[Series, ...]:
        """Every series of every study."""
        return tuple(series for study in self.studies for series in study.series)


def instances(series: Series) -> list[Series]:
    """One for each file of a series, its frames in the file's own order."""
    found: dict[Path, list[int]] = {}
    for place, frame in enumerate(series.frames):
        found.setdefault(frame.path, []).append(place)
    return [
        replace(
            series,
            stack=None,
            frames=tuple(sorted((series.frames[place] for place in places), key=lambda frame: frame.index)),
        )
        for places in found.values()
    ]
