"""Grouping: a heap of DICOM files → studies, and in each the series that make one image each.

A series is what shares SeriesInstanceUID, SOP class, size, spacing, colour and orientation; localizers stand
alone. Where slices still lie at one position, the first element that tells them apart (echo, b-value, phase,
acquisition) splits them.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from fedmed_edge.errors import InputError
from fedmed_edge.images.dicom_files import reading
from fedmed_edge.images.dicom_headers import (
    APART,
    derived_kind,
    frames_of,
    functional_group,
    image_type,
    read_header,
)
from fedmed_edge.images.dicom_pixels import is_colour
from fedmed_edge.images.series import Frame, Grouped, Series, Study, is_localizer
from fedmed_edge.images.stacks import SAME_PLACE_MM, diagnose
from fedmed_edge.words import counted

log = logging.getLogger(__name__)


@dataclass
class _File:
    """A file on its way into a series."""

    path: Path
    header: Dataset
    frames: list[Frame]


@dataclass
class _Heap:
    files: list[_File] = field(default_factory=list)
    refused: list[tuple[Path, InputError]] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    """SeriesInstanceUID → instances of it that lay there twice with different content."""


def group_files(paths: Iterable[Path]) -> Grouped:
    """Read the headers of DICOM files and group them; no file stops another.

    A copy of an instance is passed over; one with another content is, too, and the series says so.
    """
    heap = _Heap()
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            _take(path, heap, seen)
        except InputError as error:
            heap.refused.append((path, error))
    studies = []
    for uid, files in _by(heap.files, lambda file: _uid(file, "StudyInstanceUID")):
        try:
            _check_one_patient(files)
            studies.append(Study(uid, _study_series(files, heap)))
        except InputError as error:
            heap.refused.append((files[0].path, error))
    studies = _without_shared_series(studies, heap)
    return Grouped(tuple(studies), tuple(heap.refused), tuple(heap.others))


def _take(path: Path, heap: _Heap, seen: dict[str, Path]) -> None:
    header = read_header(path, need_image=False)
    with reading(path):
        uid = str(header.get("SOPInstanceUID", "")) or str(path)
        if uid in seen:
            if _content(path) != _content(seen[uid]):
                series = str(header.get("SeriesInstanceUID", ""))
                heap.changed[series] = heap.changed.get(series, 0) + 1
            return
        kind = derived_kind(header)
        if not kind and "Rows" not in header and "Image" in _class_name(header):
            raise InputError(f"{path}: {_class_name(header)} without its rows and pixels, cut off or broken")
        seen[uid] = path
        if kind or "Rows" not in header:
            heap.others.append((path, kind or _class_name(header)))
            return
        heap.files.append(_File(path, header, frames_of(path, header)))


def _class_name(header: Dataset) -> str:
    uid = header.get("SOPClassUID")
    name = getattr(uid, "name", "") or ""
    return name.removesuffix(" Storage") if name and name != str(uid) else "an object of no known class"


def _uid(file: _File, keyword: str) -> str:
    return str(file.header.get(keyword, ""))


def _by(files: Sequence[_File], key: Callable[[_File], str]) -> list[tuple[str, list[_File]]]:
    found: dict[str, list[_File]] = {}
    for file in files:
        found.setdefault(key(file), []).append(file)
    return list(found.items())


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _check_one_patient(files: list[_File]) -> None:
    patients = {_uid(file, "PatientID") for file in files}
    if len(patients) > 1:
        raise InputError(
            f"{files[0].path}: its study holds {len(patients)} patients (`PatientID`), expected one",
            hint="a result must reach one patient: find out which instances do not belong",
        )


def _study_series(files: list[_File], heap: _Heap) -> tuple[Series, ...]:
    found: list[Series] = []
    for uid, own in _by(files, lambda file: _uid(file, "SeriesInstanceUID") or str(file.path)):
        try:
            with reading(own[0].path):
                parts = [_series(part) for group in _alike(own) for part in _apart(group)]
                found += _named([_noted(part, heap.changed.get(uid, 0)) for part in parts])
        except InputError as error:
            heap.refused.append((own[0].path, error))
    return tuple(found)


def _noted(part: Series, changed: int) -> Series:
    if not changed:
        return part
    lie = counted(changed, "instance lies", "instances lie")
    note = f"copies: {lie} there twice with different content, the first was kept"
    return replace(part, warnings=(*part.warnings, note))


def _without_shared_series(studies: list[Study], heap: _Heap) -> list[Study]:
    """Refuse a SeriesInstanceUID that occurs in two studies: whose result would it be?"""
    where: dict[str, set[str]] = {}
    for study in studies:
        for series in study.series:
            where.setdefault(series.series_uid, set()).add(study.study_uid)
    kept = []
    for study in studies:
        good = []
        for series in study.series:
            if len(where[series.series_uid]) == 1 or not series.series_uid:
                good.append(series)
                continue
            heap.refused.append(
                (
                    series.files[0],
                    InputError(f"{series.files[0]}: its series lies in two studies, expected one"),
                )
            )
        if good:
            kept.append(Study(study.study_uid, tuple(good)))
    return kept


# --- splitting one SeriesInstanceUID ---------------------------------------------------------------------

_Placed = tuple[_File, Frame]


def _alike(files: list[_File]) -> list[list[_Placed]]:
    """Frames that could lie in one stack: same class, size, spacing, colour, orientation."""
    groups: list[tuple[tuple[object, ...], Frame, list[_Placed]]] = []
    for file in files:
        header = file.header
        kind = (
            str(header.get("SOPClassUID", "")),
            str(header.get("Modality") or ""),
            int(header.Rows),
            int(header.Columns),
            "colour" if is_colour(header) else str(header.PhotometricInterpretation),
            is_localizer(image_type(header)),
        )
        for frame in file.frames:
            for other, first, members in groups:
                if kind == other and _same_plane(frame, first):
                    members.append((file, frame))
                    break
            else:
                groups.append((kind, frame, [(file, frame)]))
    return [members for _, _, members in groups]


def _same_plane(frame: Frame, first: Frame) -> bool:
    if frame.orientation is None or first.orientation is None:
        return frame.orientation is first.orientation
    turned = np.abs(frame.orientation - first.orientation).max()
    return bool(turned <= 1e-3 and np.allclose(frame.spacing_mm or (), first.spacing_mm or (), rtol=1e-3))


def _apart(members: list[_Placed]) -> list[list[_Placed]]:
    """Split slices at one position by the first element that tells them apart."""
    most = _most_at_one_place([frame for _, frame in members])
    if most < 2:
        return [members]
    for keyword in APART:
        parts: dict[str, list[_Placed]] = {}
        for member in members:
            parts.setdefault(member[1].told.get(keyword, ""), []).append(member)
        # One that counts up along a volume makes more parts than there are slices at a position.
        if 1 < len(parts) <= most:
            split = [part for value in parts.values() for part in _apart(value)]
            return split
    return [members]


def _most_at_one_place(frames: list[Frame]) -> int:
    if frames[0].position is None or len(frames) < 2:
        return 1
    plane = frames[0].orientation
    assert plane is not None
    normal = np.cross(plane[:3], plane[3:])
    heights = np.sort([float(frame.position @ normal) for frame in frames if frame.position is not None])
    runs = itertools.groupby(np.cumsum(np.diff(heights, prepend=heights[0]) >= SAME_PLACE_MM))
    return max(len(list(run)) for _, run in runs)


def _named(parts: list[Series]) -> list[Series]:
    """Say of the parts of one series what tells each from the others."""
    if len(parts) < 2:
        return parts
    named = []
    for place, part in enumerate(parts):
        others = parts[:place] + parts[place + 1 :]
        said = [
            f"{keyword} {value}"
            for keyword, value in part.frames[0].told.items()
            if keyword in APART
            and len({frame.told.get(keyword) for frame in part.frames}) == 1
            and any(other.frames[0].told.get(keyword) != value for other in others)
        ]
        planes = {(other.orientation, other.rows, other.columns) for other in parts}
        where = f"{part.orientation} {part.rows}x{part.columns}".strip() if len(planes) > 1 else ""
        named.append(replace(part, part=", ".join(filter(None, [where, *said[:2]])) or f"part {place + 1}"))
    return named


def _series(members: list[_Placed]) -> Series:
    members = sorted(members, key=lambda member: _number(member[0].header))
    header, frames = members[0][0].header, [frame for _, frame in members]
    stack = None
    warnings: tuple[str, ...] = ()
    if frames[0].position is not None and len(frames) > 1:
        positions = np.stack([frame.position for frame in frames if frame.position is not None])
        orientations = np.stack([frame.orientation for frame in frames if frame.orientation is not None])
        stack = diagnose(positions, orientations)
        frames = [frames[index] for index in stack.order]
        warnings = _jump([_whole(members[index][0].header.get("InstanceNumber")) for index in stack.order])
    return Series(
        study_uid=str(header.get("StudyInstanceUID", "")),
        series_uid=str(header.get("SeriesInstanceUID", "")),
        sop_class_uid=str(header.get("SOPClassUID", "")),
        modality=str(header.get("Modality") or ""),
        part="",
        rows=int(header.Rows),
        columns=int(header.Columns),
        colour=is_colour(header),
        # Of an enhanced file, the frames' own: it may hold magnitudes and a field map.
        image_type=tuple(told.split("\\"))
        if (told := frames[0].told.get("FrameType"))
        else image_type(header),
        frames=tuple(frames),
        stack=stack,
        number=_whole(header.get("SeriesNumber")),
        thickness_mm=_thickness(header),
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID", "")),
        warnings=warnings,
        patient_id=str(header.get("PatientID", "")),
        accession=str(header.get("AccessionNumber", "")),
        description=str(header.get("SeriesDescription", "")),
    )


def _jump(numbers: list[int | None]) -> tuple[str, ...]:
    """A warning where the numbers of slices, which else run one by one along the stack, leave some out.

    A slice that is missing at the end of a stack, or one in so many, leaves no other trace.
    """
    known = [number for number in numbers if number is not None]
    steps = np.diff(known) if len(known) == len(numbers) else np.zeros(1)
    steps = -steps if (steps < 0).all() else steps
    if (steps < 1).any() or np.median(steps) != 1 or steps.max() == 1:
        return ()
    place, left_out = int(np.argmax(steps)) + 1, int((steps - 1).sum())
    missing = counted(left_out, "instance number is", "instance numbers are")
    return (
        f"numbers: {missing} left out along the stack, the first between slices {place} and {place + 1}; "
        "slices may be missing",
    )


def _number(header: Dataset) -> int:
    return _whole(header.get("InstanceNumber")) or 0


def _whole(value: object) -> int | None:
    return int(str(value)) if str(value).lstrip("-").isdigit() else None


def _thickness(header: Dataset) -> float | None:
    item = functional_group(header, 0, "PixelMeasuresSequence", "SliceThickness") or header
    try:
        return float(item.get("SliceThickness") or 0) or None
    except ValueError:  # nothing hangs on it but the ranking
        return None
