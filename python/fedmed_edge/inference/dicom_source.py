"""What every DICOM object of an answer copies from the instances that were answered, and what it adds."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from fedmed_edge.images.dicom_headers import whole_header
from fedmed_edge.images.series import MANUFACTURER, Frame, Series
from fedmed_edge.inference import identity
from fedmed_edge.model.manifest import Manifest

# Its log lines quote the values they stumble over.
logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)

# Patient and study elements of type 2: where the source lacks one it is written empty, never invented.
_EMPTY_WHERE_MISSING = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_READ_AS: dict[str, Any] = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
_OF_THE_SERIES = (
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows", "Columns"),
    *("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "PatientID"),
)
_SEXES = ("", "M", "F", "O")
_UNICODE = "ISO_IR 192"


@dataclass(frozen=True, eq=False)
class Source:
    """The instances that were answered, and the model that did.

    Attributes:
        headers: Of each file of the series in the order of its frames, without pixels: the first whole and
            completed, the others as far as objects refer to them.
        setting: What else the answer depends on: part of every UID.
    """

    series: Series
    manifest: Manifest
    setting: str
    headers: list[Dataset] = field(repr=False)

    @property
    def first(self) -> Dataset:
        """Header of the first file: patient and study."""
        return self.headers[0]

    def sop_uid(self, kind: str) -> str:
        """SOPInstanceUID of the object of a kind: the same for the same frames, model and setting."""
        frames = [f"{frame.instance_uid} {frame.index}" for frame in self.series.frames]
        return identity.derived_uid(kind, *self._made_by, *frames)

    def series_uid(self, kind: str) -> str:
        """SeriesInstanceUID of the objects of a kind."""
        return identity.derived_uid("series", kind, *self._made_by, self.series.series_uid, self.series.part)

    @property
    def _made_by(self) -> tuple[str, str, str]:
        return self.manifest.model, self.manifest.generation, self.setting

    def identity(self, kind: str, series_number: int) -> dict[str, Any]:
        """Arguments that every object of highdicom takes."""
        texts = (self.manifest.task, *self.manifest.classes)
        charset = self.first.get("SpecificCharacterSet")
        plain = all(text.isascii() for text in texts)
        return {
            "series_instance_uid": self.series_uid(kind),
            "series_number": series_number,
            "sop_instance_uid": self.sop_uid(kind),
            "instance_number": max(1, int(self.first.get("InstanceNumber") or 1)) if self._is_flat else 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.manifest.task,
            "software_versions": identity.software_versions(self.manifest),
            "device_serial_number": self.manifest.model,
            "series_description": identity.description(self.manifest, kind.upper()),
            "specific_character_set": charset if charset and plain else _UNICODE,
            "transfer_syntax_uid": ExplicitVRLittleEndian,
            "contributing_equipment": [self._equipment()],
        }

    @property
    def _is_flat(self) -> bool:
        return not self.series.is_volume

    def _equipment(self) -> ContributingEquipment:
        item = ContributingEquipment(
            MANUFACTURER,
            codes.DCM.ProcessingEquipment,
            manufacturer_model_name=self.manifest.task,
            software_versions=identity.software_versions(self.manifest),
            device_serial_number=self.manifest.model,
            contribution_description=f"{identity.RESEARCH_USE}: {identity.provenance(self.manifest)}",
        )
        item.DeviceUID = identity.device_uid(self.manifest)
        return item

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """The model, as segments name it."""
        version, digest = identity.software_versions(self.manifest)
        return AlgorithmIdentificationSequence(
            name=self.manifest.task,
            family=codes.DCM.ArtificialIntelligence,
            version=digest,
            source=f"{MANUFACTURER} {version}",
        )


def read_source(series: Series, manifest: Manifest, setting: str) -> Source:
    """Read what objects copy from a series.

    Raises:
        InputError: Its first file is gone or was damaged since.
    """
    first = _completed(whole_header(series.files[0]))
    # highdicom looks for it in every slice.
    if first.get("SliceThickness") is None:
        first.SliceThickness = series.thickness_mm or (series.stack.distance_mm if series.stack else None)
    if len(series.files) == 1:
        return Source(series, manifest, setting, [first])
    shared = Dataset()
    shared.SOPClassUID = series.sop_class_uid
    for keyword in _OF_THE_SERIES:
        if keyword in first:
            shared[keyword] = first[keyword]
    return Source(series, manifest, setting, [first, *(_slice(shared, one) for one in series.frames[1:])])


def _slice(shared: Dataset, frame: Frame) -> Dataset:
    """What an object refers to another slice by; patient and study are the first one's."""
    header = Dataset()
    header.update(shared)
    header.SOPInstanceUID = frame.instance_uid
    if frame.position is not None:
        header.ImagePositionPatient = [float(mm) for mm in frame.position]
    return header


def _completed(header: Dataset) -> Dataset:
    # What is written may be of another character set than what was read.
    header.decode()
    for keyword in _EMPTY_WHERE_MISSING:
        if keyword not in header or header[keyword].value is None:
            setattr(header, keyword, "")
    if header.PatientSex not in _SEXES:
        header.PatientSex = ""
    for keyword, kind in _READ_AS.items():
        try:
            value = kind(header[keyword].value)
            if isinstance(value, DA):
                # Dates had dots in them before DICOM.
                setattr(header, keyword, value.strftime("%Y%m%d"))
        except (TypeError, ValueError):
            setattr(header, keyword, "")
    # A part of an answer would else name another machine as its own maker.
    header.pop("ContributingEquipmentSequence", None)
    return header


def encoded(dataset: Dataset) -> bytes:
    """A DICOM file's bytes."""
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings, which quote the values they stumble over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
