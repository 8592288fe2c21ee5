"""The DICOM objects of an answer: segmentation, report, capture. Loads highdicom."""

import logging
from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.dicom import frame_masks
from fedmed_edge.inference import dicom_sc, dicom_seg, dicom_sr, identity
from fedmed_edge.inference.answer import Answer
from fedmed_edge.inference.dicom_source import Source, encoded, quiet, read_source
from fedmed_edge.inference.options import DICOM_FORMATS, Options
from fedmed_edge.inference.preview import with_lines
from fedmed_edge.model.manifest import Manifest

log = logging.getLogger(__name__)

_NO_DIAGNOSIS = f"{identity.RESEARCH_USE} - not for diagnosis"


Made = dict[str, tuple[Dataset, Iterable[bytes]]]


def make_objects(answer: Answer, manifest: Manifest, options: Options) -> tuple[Made, dict[str, str]]:
    """Make what was asked for, as far as the source carries it.

    Returns:
        Kind → object and content of its file, in pieces; kind → why it was not made.
    """
    series = answer.input.series
    assert series is not None
    made: Made = {}
    refused: dict[str, str] = {}
    with quiet():
        try:
            source = read_source(series, manifest, options.setting)
        except FedmedError as error:  # a file that was there when its pixels were read
            return {}, dict.fromkeys(sorted(options.formats & {*DICOM_FORMATS}), str(error))
        for kind in DICOM_FORMATS:
            if kind not in options.formats or (kind == "seg" and answer.label is not None):
                continue
            reason = dicom_seg.refusal(source) if kind == "seg" else None
            if reason is None:
                reason = _make(kind, source, answer, options, made)
            if reason is not None:
                refused[kind] = reason
    return made, refused


def _make(kind: str, source: Source, answer: Answer, options: Options, made: Made) -> str | None:
    """Make one object; else why it cannot be: a strange source costs one object, not the others."""
    try:
        if kind == "seg":
            made[kind] = dicom_seg.make_segmentation(
                source, _masks(answer), options.seg, keep_empty=options.seg_keep_empty
            )
            return None
        if kind == "sr":
            segmentation = made["seg"][0] if "seg" in made else None
            built: Dataset = dicom_sr.make_report(source, _findings(answer), segmentation)
        else:
            assert answer.picture is not None
            picture = with_lines(answer.picture, _lines(answer, source.manifest))
            built = dicom_sc.make_capture(source, picture)
        made[kind] = built, [encoded(built)]
        return None
    except InputError as error:
        return str(error)
    except AttributeError as error:
        return f"the source has no {error.name}"
    except (LookupError, TypeError, ValueError) as error:
        log.debug("%s", kind, exc_info=True)
        return f"the source does not carry it ({type(error).__name__})"


def _masks(answer: Answer) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    series = answer.input.series
    masks = [frame.mask for frame in answer.frames if frame.mask is not None]
    assert series is not None
    return frame_masks(masks[0], series) if series.is_volume else np.stack(masks)


def _findings(answer: Answer) -> dicom_sr.Findings:
    remarks = list(answer.warnings)
    if answer.label is None and not answer.present - {next(iter(answer.probabilities))}:
        remarks.insert(0, "nothing found: no voxel of any class but the first")
    if len(answer.frames) > 1:
        remarks.append(f"frames: mean over {len(answer.frames)} frames of a cine")
    return dicom_sr.Findings(
        dict(answer.probabilities), answer.label, answer.present, dict(answer.sizes), answer.unit, remarks
    )


def _lines(answer: Answer, manifest: Manifest) -> list[str]:
    """Text of the capture; ASCII where the class names are."""
    lines = [_NO_DIAGNOSIS, f"{manifest.task}, model {manifest.model[:12]}, sites: {manifest.sites}"]
    if answer.label is not None:
        lines.append(f"{answer.label}  {answer.probabilities[answer.label]:.2f}")
    elif answer.sizes:
        unit = "ml" if answer.unit == "ml" else "mm²"
        lines += [f"{name}: {size:.1f} {unit}" for name, size in list(answer.sizes.items())[:8]]
    elif not answer.present - {manifest.classes[0]}:
        lines.append("nothing found")
    if answer.known is False:
        lines.append("unlike the images that the model was made from: may be wrong")
    return lines
