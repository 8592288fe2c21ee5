"""An answer as Structured Report: TID 1500 in a Comprehensive SR, unverified."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from fedmed_edge.images.series import MANUFACTURER
from fedmed_edge.inference import identity
from fedmed_edge.inference.dicom_seg import segment_codes, tracking_uid
from fedmed_edge.inference.dicom_source import Source

SERIES_NUMBER = 9002

_Group = MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations
_PROCEDURE = CodedConcept("363679005", "SCT", "Imaging procedure")
_PERCENT = CodedConcept("%", "UCUM", "percent")
_PRESENCE = CodedConcept("705057003", "SCT", "Presence")
_PRESENT = CodedConcept("52101004", "SCT", "Present")
_ABSENT = CodedConcept("2667000", "SCT", "Absent")
_SIZES = {
    "ml": (codes.SCT.Volume, CodedConcept("ml", "UCUM", "milliliter")),
    "mm2": (codes.SCT.Area, CodedConcept("mm2", "UCUM", "square millimeter")),
}


@dataclass(frozen=True)
class Findings:
    """What a report says.

    Attributes:
        probabilities: Class name → probability, or share of the image.
        label: Most probable class of a classification, else None.
        present: Classes that were found.
        sizes: Class name → volume in ml or area in mm², of a segmentation whose voxels have a size.
        unit: `ml` or `mm2`.
        remarks: Warnings and other sentences, after the one about research use.
    """

    probabilities: dict[str, float]
    label: str | None
    present: Collection[str]
    sizes: dict[str, float]
    unit: str
    remarks: Sequence[str]


def make_report(source: Source, findings: Findings, segmentation: Dataset | None) -> ComprehensiveSR:
    """Make the object: a group of measurements for each class, present or absent.

    Args:
        segmentation: The object that holds the mask, where there is one: measurements refer to its segments.
    """
    classes = source.manifest.classes
    # Class 0 of a segmentation is what is left over.
    named = enumerate(classes) if findings.label is not None else list(enumerate(classes))[1:]
    groups = [_group(source, findings, number, segmentation) for number, _ in named]
    report = MeasurementReport(_context(source), _PROCEDURE, groups, title=codes.DCM.ImagingMeasurementReport)
    for remark in (
        f"{identity.RESEARCH_USE}. {identity.provenance(source.manifest)}",
        *findings.remarks,
    ):
        report[0].ContentSequence.append(
            TextContentItem(codes.DCM.Comment, remark, RelationshipTypeValues.CONTAINS)
        )
    evidence = source.headers if segmentation is None else [*source.headers, segmentation]
    made = ComprehensiveSR(evidence, report[0], is_complete=True, **source.identity("sr", SERIES_NUMBER))
    made.PreliminaryFlag = "PRELIMINARY"
    return made


def _context(source: Source) -> ObservationContext:
    version, _ = identity.software_versions(source.manifest)
    device = DeviceObserverIdentifyingAttributes(
        identity.device_uid(source.manifest),
        name=f"{MANUFACTURER} {version}",
        manufacturer_name=MANUFACTURER,
        model_name=source.manifest.task,
        serial_number=source.manifest.model,
    )
    return ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device))


def _algorithm(source: Source) -> AlgorithmIdentification:
    return AlgorithmIdentification(source.manifest.task, source.manifest.model)


def _images(source: Source) -> list[SourceImageForMeasurementGroup]:
    """The image that a finding is about; of a volume its first slice stands for all."""
    header = source.first
    return [SourceImageForMeasurementGroup(str(header.SOPClassUID), str(header.SOPInstanceUID))]


def _segmented(source: Source) -> dict[str, Any]:
    """What a segmentation is of: the series where it is whole, else each image."""
    if len(source.headers) > 1 and not source.series.part:
        return {"source_series": SourceSeriesForSegmentation(str(source.first.SeriesInstanceUID))}
    images = [(str(header.SOPClassUID), str(header.SOPInstanceUID)) for header in source.headers]
    return {"source_images": [SourceImageForSegmentation(*image) for image in images]}


def _group(source: Source, findings: Findings, number: int, segmentation: Dataset | None) -> _Group:
    name = source.manifest.classes[number]
    category, kind = segment_codes(source.manifest.recipe, name)
    given: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(tracking_uid(source, name), name),
        "finding_type": kind,
        "finding_category": category,
        "algorithm_id": _algorithm(source),
        "measurements": _measurements(findings, name),
        "qualitative_evaluations": [
            QualitativeEvaluation(_PRESENCE, _PRESENT if name in findings.present else _ABSENT)
        ],
    }
    if segmentation is None:
        return MeasurementsAndQualitativeEvaluations(**given, source_images=_images(source))
    segment = ReferencedSegment(
        str(segmentation.SOPClassUID),
        str(segmentation.SOPInstanceUID),
        number,
        **_segmented(source),
    )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(**given, referenced_segment=segment)


def _measurements(findings: Findings, name: str) -> list[Measurement]:
    if findings.label is not None:
        share = round(100 * findings.probabilities[name], 3)
        return [Measurement(codes.DCM.CertaintyOfFinding, share, _PERCENT)]
    if name not in findings.sizes:
        return []
    concept, unit = _SIZES[findings.unit]
    return [Measurement(concept, round(findings.sizes[name], 3), unit)]
