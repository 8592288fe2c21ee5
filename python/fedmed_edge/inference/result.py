"""What became of one input: the record that `result.json`, `--json` and the table are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedmed_edge.recipe import Kind

FORMAT_VERSION = 1


@dataclass(frozen=True)
class DicomObject:
    """A DICOM object that was written for an input.

    Attributes:
        kind: `seg`, `sr` or `sc`; the last is what a peer shows that takes neither of the others.
        path: Its file.
    """

    kind: Literal["seg", "sr", "sc"]
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str

    def document(self) -> dict[str, str]:
        """As JSON; the file by its name, beside result.json."""
        return {
            "kind": self.kind,
            "file": self.path.name,
            "sop_class_uid": self.sop_class_uid,
            "sop_instance_uid": self.sop_instance_uid,
            "series_instance_uid": self.series_instance_uid,
        }


@dataclass(frozen=True)
class Result:
    """What became of one input; `document` is the line that `infer --json` prints.

    Attributes:
        input: The file or series folder, as it was given.
        output: Folder of its results; None where nothing was written.
        kind: `classification` or `segmentation`.
        label: Most probable class (classification).
        mask: Path of the mask file (segmentation).
        probabilities: Class name → probability (segmentation: mean over the image).
        sizes: Class name → volume in ml or area in mm² (`unit`), of a segmentation whose voxels have a size.
        known: Whether the image is like those that the model was made from; None: the model cannot tell.
        distance, threshold: Squared Mahalanobis distance of the image, and the largest that counts as known.
        model: Digest of the model, as `fedmed-server rebuild` prints it.
        model_file_sha256: Of the file that it was in.
        generation: Digest of the model's generation.
        sites: How many sites are in the model.
        device_asked, device: What was asked for, and what came up.
        seconds: From reading to the last file; `stages` by stage.
        peak_mib: The most memory that the process held meanwhile; `idle_mib` what it held before.
        study, series: StudyInstanceUID and SeriesInstanceUID of DICOM, else empty.
        objects: DICOM objects that were written; `not_written` kind → why one was not.
        frames: One short record for each frame of a cine, else empty.
        error: What went wrong, and then nothing else is known.
        hint: What to do about it.
    """

    input: str
    output: str | None
    task: str
    kind: Kind
    model: str
    model_file_sha256: str
    device: str
    seconds: float
    label: str | None = None
    mask: str | None = None
    probabilities: Mapping[str, float] | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""
    known: bool | None = None
    distance: float | None = None
    threshold: float | None = None
    generation: str = ""
    sites: int = 0
    device_asked: str = "auto"
    stages: Mapping[str, float] = field(default_factory=dict)
    peak_mib: float = 0.0
    idle_mib: float = 0.0
    study: str = ""
    series: str = ""
    objects: tuple[DicomObject, ...] = ()
    not_written: Mapping[str, str] = field(default_factory=dict)
    frames: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """The words that warnings begin with: stable between releases."""
        return tuple(dict.fromkeys(text.partition(":")[0] for text in self.warnings))

    def document(self) -> dict[str, Any]:
        """As one JSON object: `label` for a classification, `mask` and sizes for a segmentation."""
        shares = self.probabilities
        answer: dict[str, Any] = {"label": self.label}
        if self.kind == "segmentation":
            sizes = {name: round(size, 3) for name, size in self.sizes.items()}
            answer = {
                "mask": self.mask,
                "volumes_ml": sizes if self.unit == "ml" else None,
                "areas_mm2": sizes if self.unit == "mm2" else None,
            }
        return {
            "format_version": FORMAT_VERSION,
            "input": self.input,
            "output": self.output,
            "study": self.study or None,
            "series": self.series or None,
            "task": self.task,
            **answer,
            "probabilities": None if shares is None else {name: round(p, 6) for name, p in shares.items()},
            **({"frames": [dict(frame) for frame in self.frames]} if self.frames else {}),
            "known": self.known,
            "distance": None if self.distance is None else round(self.distance, 4),
            "threshold": None if self.threshold is None else round(self.threshold, 4),
            "flags": list(self.flags),
            "warnings": list(self.warnings),
            "model": self.model,
            "model_file_sha256": self.model_file_sha256,
            "generation": self.generation,
            "sites": self.sites,
            "device_asked": self.device_asked,
            "device": self.device,
            "seconds": round(self.seconds, 4),
            "stages": {name: round(seconds, 4) for name, seconds in self.stages.items()},
            "peak_mib": round(self.peak_mib, 1),
            "idle_mib": round(self.idle_mib, 1),
            "objects": [one.document() for one in self.objects],
            "not_written": dict(self.not_written),
            "error": self.error,
            "hint": self.hint,
        }

    def line(self) -> str:
        """As one line for people."""
        if self.error is not None:
            return f"failed  {self.error}" + (f" ({self.hint})" if self.hint else "")
        shares = self.probabilities or {}
        if self.label:
            answer = f"{self.label} {shares.get(self.label, 0):.2f}"
        else:
            unit = "ml" if self.unit == "ml" else "mm²"
            sizes = "".join(f"  {name} {size:.1f} {unit}" for name, size in self.sizes.items())
            answer = (f"mask {self.mask}" if self.mask else "segmented") + sizes
        warnings = "".join(f"  warning: {text}" for text in self.warnings)
        left_out = "".join(f"  no {kind}: {why}" for kind, why in self.not_written.items())
        return f"{self.input}  {answer}  ({self.seconds:.2f} s){left_out}{warnings}"
