"""Masks that a hospital has as DICOM (SEG, RTSTRUCT): which series each is of, and what it says there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from fedmed_edge.errors import InputError
from fedmed_edge.images.contours import read_structures, structure_names
from fedmed_edge.images.dicom import grid_of
from fedmed_edge.images.dicom_files import read_elements, reading
from fedmed_edge.images.dicom_headers import LABEL_MAP, SEGMENTATION, STRUCTURE_SET
from fedmed_edge.images.image import UInt8
from fedmed_edge.images.segments import Target, read_segments, segment_labels
from fedmed_edge.images.series import Series, is_own_output


@dataclass
class MaskFile:
    """A SEG or RTSTRUCT file.

    Attributes:
        series: SeriesInstanceUIDs that it refers to.
        instances: SOPInstanceUIDs that it refers to; empty where it names series alone.
        names: Segment or ROI number → name.
        when: Date and time of its content, to tell the newer one.
        used: Whether a series that is taken has it.
    """

    path: Path
    kind: Literal["segmentation", "structure set"]
    series: frozenset[str]
    instances: frozenset[str]
    names: dict[int, str]
    when: str
    used: bool = False

    def concerns(self, series: Series) -> bool:
        """Whether it says something of a series: of its parts, of those that it names instances of."""
        if series.series_uid not in self.series:
            return False
        return not self.instances or not self.instances.isdisjoint(f.instance_uid for f in series.frames)


def mask_files(paths: Iterable[Path]) -> list[MaskFile]:
    """Those among `paths` that are SEG or RTSTRUCT; a broken one, or one of our own, is passed over."""
    found = []
    for path in paths:
        try:
            with reading(path):
                made = _mask_file(path)
        except InputError:
            continue
        if made is not None:
            found.append(made)
    return found


def _mask_file(path: Path) -> MaskFile | None:
    header = read_elements(path)
    if is_own_output(header):
        # A model that learns from its own answers learns its own mistakes.
        return None
    uid = str(header.get("SOPClassUID", ""))
    when = str(header.get("ContentDate") or header.get("StructureSetDate") or "")
    when += str(header.get("ContentTime") or header.get("StructureSetTime") or "")
    if uid in (SEGMENTATION, LABEL_MAP):
        referred = list(header.get("ReferencedSeriesSequence") or [])
        instances = _instances(referred, "ReferencedInstanceSequence")
        return MaskFile(path, "segmentation", _uids(referred), instances, segment_labels(path), when)
    if uid == STRUCTURE_SET:
        referred = _structured(header)
        instances = _instances(referred, "ContourImageSequence")
        return MaskFile(path, "structure set", _uids(referred), instances, structure_names(path), when)
    return None


def _structured(header: Dataset) -> list[Dataset]:
    return [
        series
        for frame in header.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    ]


def _uids(referred: Sequence[Dataset]) -> frozenset[str]:
    return frozenset(str(one.SeriesInstanceUID) for one in referred)


def _instances(referred: Sequence[Dataset], sequence: str) -> frozenset[str]:
    items = [item for one in referred for item in one.get(sequence) or []]
    return frozenset(str(item.ReferencedSOPInstanceUID) for item in items)


def mask_of(
    series: Series, masks: Sequence[MaskFile], classes: Sequence[str], renames: Mapping[str, str]
) -> tuple[UInt8 | None, list[tuple[Path, str]]]:
    """The mask of a series from all files that refer to it, and what of them was left out, and why.

    Where two files say something of the same class, the newer one counts.

    Args:
        classes: Class names in the order of their numbers.
        renames: Name of a segment or structure → class name.

    Returns:
        uint8 of the image's shape, or None where no file says anything of it.

    Raises:
        InputError: A file is broken or lies elsewhere.
    """
    own = [mask for mask in masks if mask.concerns(series)]
    own.sort(key=lambda mask: mask.when, reverse=True)
    numbers = {name.casefold(): number for number, name in enumerate(classes)}
    target, told = _target(series), list[tuple[Path, str]]()
    out: UInt8 | None = None
    taken: set[int] = set()
    for mask in own:
        mask.used = True
        wanted: dict[int, int] = {}
        for number, name in mask.names.items():
            class_number = numbers.get(_renamed(name, renames).casefold())
            if class_number is None:
                told.append((mask.path, f"`{name}` is no class, expected one of {', '.join(classes)}"))
            elif class_number in taken:
                told.append((mask.path, f"`{name}` is also in a newer file, which counts"))
            else:
                wanted[number] = class_number
        if not wanted:
            continue
        taken |= set(wanted.values())
        read = read_structures if mask.kind == "structure set" else read_segments
        values = read(mask.path, target, wanted)
        out = values if out is None else _merged(mask.path, out, values)
    return out, told


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    return {one.casefold(): to for one, to in renames.items()}.get(name.casefold(), name)


def _merged(path: Path, out: UInt8, values: UInt8) -> UInt8:
    if ((out != 0) & (values != 0) & (out != values)).any():
        raise InputError(f"{path}: its classes overlap those of another file of the series")
    return np.maximum(out, values)


def _target(series: Series) -> Target:
    name = f"series {series.number}" if series.number is not None else "its series"
    if series.stack is None:
        return Target((series.rows, series.columns), None, series.frames[0].instance_uid, name)
    affine, shape = grid_of(series)
    return Target(shape, affine, "", name)


def mask_content(mask: UInt8, series: Series) -> tuple[str, Iterable[bytes]]:
    """Ending and content, in pieces, of a mask's file: PNG of a 2-D image, NIfTI of a volume."""
    if series.stack is not None:
        from fedmed_edge.images.nifti import nifti_pieces

        return ".nii.gz", nifti_pieces(mask, grid_of(series)[0])
    from fedmed_edge.images.raster import png_bytes

    return ".png", [png_bytes(mask)]
