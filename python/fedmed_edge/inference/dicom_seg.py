"""A mask as DICOM Segmentation: one segment a class but the first, on the source's own frames."""

import re
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from highdicom.color import CIELabColor
from highdicom.enum import CoordinateSystemNames
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from fedmed_edge.images.image import UInt8
from fedmed_edge.inference import identity
from fedmed_edge.inference.dicom_source import Source, encoded
from fedmed_edge.inference.dicom_stream import frame_by_frame
from fedmed_edge.inference.preview import PALETTE
from fedmed_edge.recipe import Recipe

SegKind = Literal["binary", "labelmap"]

SERIES_NUMBER = 9001
_PATIENT = CoordinateSystemNames.PATIENT
# A class of which the recipe names no code is a region, and no more is claimed.
_CATEGORIES = {
    "anatomy": CodedConcept("123037004", "SCT", "Anatomical Structure"),
    "abnormality": CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
    "region": CodedConcept("309825002", "SCT", "Spatial and Relational Concept"),
}
_OWN_SCHEME = "99FEDMED"


def refusal(source: Source) -> str | None:
    """Why no segmentation can be made for a source; None where one can."""
    if not source.series.frame_of_reference_uid and source.series.frames[0].position is not None:
        return "the source has no FrameOfReferenceUID"
    if source.series.is_cine and source.series.frames[0].position is None:
        return "frames of a cine have no place in the patient"
    return None


def make_segmentation(
    source: Source, masks: UInt8, kind: SegKind, *, keep_empty: bool = False
) -> tuple[Segmentation, Iterable[bytes]]:
    """Make the object.

    A mask of nothing is a finding, too: every segment is described, and one empty frame stored for it.

    Args:
        masks: (frames, rows, columns) class numbers, in the order of the frames of `source.series`.
        keep_empty: Store frames that hold nothing, too, between the first and the last that do: of a binary
            one, of the same segment.

    Returns:
        The object, and its file in pieces; a binary one has its frames there alone.

    Raises:
        InputError: It has more frames than a file takes.
    """
    held = np.asarray(masks.any(axis=(1, 2)), np.bool_)
    stored = _stored(held, keep_empty=keep_empty)
    masks, held = masks[stored], held[stored]
    places = _places(source, stored)
    if kind == "labelmap":
        # A byte a voxel, nearly all of them 0.
        how = (SegmentationTypeValues.LABELMAP, RLELossless, places)
        made = _segmentation(source, masks, *how, omit_empty=bool(held.any()) and not keep_empty)
        return made, [encoded(made)]
    described = np.full_like(held, held.any()) if keep_empty else held
    filled = np.broadcast_to(described.astype(np.uint8)[:, None, None], masks.shape)
    binary = (SegmentationTypeValues.BINARY, ExplicitVRLittleEndian, places)
    made = _segmentation(source, filled, *binary, omit_empty=bool(held.any()))
    planes = [masks[number] for number in _order(made, places)]
    return made, frame_by_frame(made, planes, len(source.manifest.classes) - 1, keep_empty=keep_empty)


def _stored(held: npt.NDArray[np.bool_], *, keep_empty: bool) -> slice:
    """Frames to choose from: all; of none that holds anything the first, to keep empty ones the inner."""
    if not held.any():
        return slice(0, 1)
    first, last = np.flatnonzero(held)[[0, -1]]
    return slice(int(first), int(last) + 1) if keep_empty else slice(0, len(held))


def _segmentation(
    source: Source,
    frames: UInt8,
    kind: SegmentationTypeValues,
    syntax: str,
    places: dict[str, Any],
    *,
    omit_empty: bool,
) -> Segmentation:
    made = Segmentation(
        source.headers,
        frames,
        kind,
        [_described(source, number) for number in range(1, len(source.manifest.classes))],
        **places,
        omit_empty_frames=omit_empty,
        content_label="FEDMED_SEG",
        content_description=identity.description(source.manifest, "SEG"),
        **{**source.identity("seg", SERIES_NUMBER), "transfer_syntax_uid": syntax},
    )
    if not places:
        # Type 2C without a place in the patient: empty where the source does not say.
        made.PatientOrientation = source.first.get("PatientOrientation") or []
    # highdicom draws a new one each time.
    organisation = identity.derived_uid("dimensions", made.SOPInstanceUID)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = organisation
    for index in made.DimensionIndexSequence:
        index.DimensionOrganizationUID = organisation
    return made


def _places(source: Source, stored: slice) -> dict[str, Any]:
    """Where the stored frames lie.

    Not left to the library: it wants a SliceThickness, and frames of one file in the order of the file.
    """
    series = source.series
    places = [list(frame.position) for frame in series.frames[stored] if frame.position is not None]
    if not places:
        return {}
    distance = series.stack.distance_mm if series.stack and not series.stack.faults else None
    measures = PixelMeasuresSequence(
        list(series.frames[0].spacing_mm or (1.0, 1.0)), series.thickness_mm or distance, distance
    )
    _share_orientation(source, measures)
    return {
        "plane_positions": [PlanePositionSequence(_PATIENT, place) for place in places],
        "pixel_measures": measures,
    }


def _order(made: Segmentation, places: dict[str, Any]) -> list[int]:
    """Number of the plane of each frame: the library sorts them its own way."""
    if not places:
        return [0]
    number_of: dict[tuple[float, ...], int] = {}
    for number, planes in enumerate(places["plane_positions"]):
        number_of.setdefault(_position(planes[0]), number)
    frames = made.PerFrameFunctionalGroupsSequence
    return [number_of[_position(frame.PlanePositionSequence[0])] for frame in frames]


def _position(plane: Dataset) -> tuple[float, ...]:
    return tuple(float(mm) for mm in plane.ImagePositionPatient)


def _share_orientation(source: Source, measures: PixelMeasuresSequence) -> None:
    """Give every header the first frame's: they may differ by a rounding, or stand frame by frame."""
    orientation = source.series.frames[0].orientation
    if orientation is None or not source.series.is_volume:
        return
    for header in source.headers:
        if "SharedFunctionalGroupsSequence" in header:
            shared = header.SharedFunctionalGroupsSequence[0]
            shared.PlaneOrientationSequence = PlaneOrientationSequence(_PATIENT, list(orientation))
            shared.PixelMeasuresSequence = measures
        else:
            header.ImageOrientationPatient = [float(cosine) for cosine in orientation]


def _described(source: Source, number: int) -> SegmentDescription:
    name = source.manifest.classes[number]
    category, kind = segment_codes(source.manifest.recipe, name)
    return SegmentDescription(
        number,
        name,
        category,
        kind,
        SegmentAlgorithmTypeValues.AUTOMATIC,
        source.algorithm(),
        tracking_uid=tracking_uid(source, name),
        tracking_id=name,
        display_color=_colour(source.manifest.recipe, number),
    )


def tracking_uid(source: Source, name: str) -> str:
    """What ties a segment to its measurements."""
    return identity.derived_uid("tracking", source.sop_uid("seg"), name)


def segment_codes(recipe: Recipe, name: str) -> tuple[CodedConcept, CodedConcept]:
    """Category and type of a class: the recipe's codes, else a code of our own."""
    code = recipe.codes.get(name)
    if code is None:
        return _CATEGORIES["region"], own_code(name)
    return _CATEGORIES[code.category], CodedConcept(code.value, code.scheme, code.meaning)


def _colour(recipe: Recipe, number: int) -> CIELabColor:
    code = recipe.codes.get(recipe.classes[number])
    if code is None or code.colour is None:
        return CIELabColor.from_rgb(*PALETTE[(number - 1) % len(PALETTE)])
    return CIELabColor.from_rgb(*bytes.fromhex(code.colour[1:]))


def own_code(name: str) -> CodedConcept:
    """A private code for a class that has none.

    Example:
        >>> own_code("left kidney").value
        'LEFT_KIDNEY'
    """
    return CodedConcept(
        re.sub(r"[^A-Z0-9]+", "_", name.upper())[:16].strip("_") or "CLASS", _OWN_SCHEME, name
    )
