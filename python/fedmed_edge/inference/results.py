"""Results on disk: a folder for each input, and one table of all."""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from fedmed_edge.atomic import TEMPORARY, alone_in, write_together
from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.series import safe_name
from fedmed_edge.inference.answer import Answer
from fedmed_edge.inference.inputs import Input
from fedmed_edge.inference.options import DICOM_FORMATS, Options
from fedmed_edge.inference.predict import Model
from fedmed_edge.inference.result import DicomObject, Result
from fedmed_edge.inference.table import Row, check_table, merge_rows, row_of
from fedmed_edge.inference.usage import MemoryMeter

_RESULT = "result.json"
_ANSWERS = ("mask.png", "mask.nii.gz", "preview.png", "seg.dcm", "sr.dcm", "sc.dcm")
_CINE_MASK = re.compile(r"mask-\d+\.png")
_DESCRIPTION = "fedmed-edge class numbers"
_ENDINGS = (".nii.gz", ".nii", ".dcm", ".dicom", ".png", ".jpg", ".jpeg")

_Files = dict[str, Iterable[bytes]]


class ResultsFolder:
    """The output folder of one run; use it as a context, the table is written at its end.

    A DICOM input gets the folder StudyInstanceUID/SeriesInstanceUID, and in that one for each instance where
    the model takes single images; any other a folder named after it. An input is known by its UIDs, or its
    absolute path, and the task: answered again, it is written over; another one of the same name gets its own
    folder, with a few characters of a digest behind the name. The files of an answer appear together, once
    all of them are on the disk. The table keeps the rows of earlier runs, so that many runs can share it.

    Args:
        out: Made where it is missing.
        options: What is written.
        apart: Other tasks answer the same inputs: in the folder of each input this one has a folder.

    Raises:
        InputError: The folder cannot be made or written to, or holds a table of other columns.
    """

    def __init__(self, out: Path, model: Model, options: Options, *, apart: bool = False) -> None:
        self.out, self.model, self.options = out, model, options
        self._inside = model.manifest.task if apart else ""
        self._given: dict[str, str] = {}
        self._rows: list[Row] = []
        self._gone: set[tuple[str, str]] = set()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made: {error.strerror}") from None
        if "csv" in options.formats:
            check_table(out)

    def __enter__(self) -> "ResultsFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.write_table()

    def add(self, answer: Answer, started: float, memory: MemoryMeter) -> Result:
        """Write the files of one answer.

        Args:
            started: `time.perf_counter()` when its input was taken up.
            memory: Of the process since then.

        Raises:
            InputError: The folder is not writable, the disk is full, or a source file is gone.
        """
        writing = time.perf_counter()
        folder = self._folder(answer.input)
        files = self._masks(answer)
        mask = next(iter(files), None)
        if answer.preview is not None:
            files["preview.png"] = [answer.preview]
        objects, refused = self._dicom(answer, folder, files)
        result = Result(
            **self._of(answer.input),
            output=str(folder),
            seconds=0.0,
            label=answer.label,
            mask=None if mask is None else str(folder / mask),
            probabilities=answer.probabilities,
            sizes=answer.sizes,
            unit=answer.unit,
            known=answer.known,
            distance=answer.distance,
            threshold=answer.threshold,
            idle_mib=memory.idle_mib,
            objects=objects,
            not_written={**(unfit(answer, self.options.formats) if self.options.named else {}), **refused},
            frames=tuple(_frames(answer)),
            warnings=answer.warnings,
        )

        def measured() -> Result:
            now = time.perf_counter()
            stages = {**answer.stages, "write": answer.stages["write"] + now - writing}
            return replace(result, seconds=now - started, stages=stages, peak_mib=memory.peak_mib())

        return self._keep(answer.input, folder, measured, files)

    def fail(self, given: Input, error: FedmedError, seconds: float, *, known: bool | None = None) -> Result:
        """Record an input that could not be answered; an earlier answer in its folder is taken away."""
        folder = self._folder(given)
        earlier = folder.is_dir()
        result = Result(
            **self._of(given),
            output=str(folder) if earlier else None,
            seconds=seconds,
            known=known,
            error=str(error),
            hint=error.hint,
        )
        return self._keep(given, folder if earlier else None, lambda: result, {}, always=True)

    def pass_over(self, given: Input) -> None:
        """Take away an earlier answer to an input that is not, or no longer, this task's.

        Files that do not say whose they are stay: without `json` another task's lie in the same folder.
        """
        folder = self._folder(given)
        if self._inside or (folder / _RESULT).exists():
            for left in _answers_in(folder) if folder.is_dir() else ():
                (folder / left).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # none is there, or something else is in it
                folder.rmdir()
        self._gone.add((given.name, self.model.manifest.task))

    def write_table(self) -> None:
        """Merge this run's rows into `results.csv`: a row of the same input and task is replaced."""
        if (self._rows or self._gone) and "csv" in self.options.formats:
            merge_rows(self.out, self._rows, self._gone)
        self._rows.clear()
        self._gone.clear()

    def _of(self, given: Input) -> dict[str, Any]:
        model, series = self.model, given.series
        return {
            "input": given.name,
            "study": series.study_uid if series else "",
            "series": series.series_uid if series else "",
            "task": model.manifest.task,
            "kind": model.recipe.kind,
            "model": model.digest,
            "model_file_sha256": model.file_sha256,
            "generation": model.manifest.generation,
            "sites": model.manifest.sites,
            "device_asked": model.device_asked,
            "device": model.device,
        }

    def _masks(self, answer: Answer) -> _Files:
        formats, affine_ras = self.options.formats, answer.image.affine_ras
        masks = [frame.mask for frame in answer.frames if frame.mask is not None]
        if affine_ras is not None:
            wanted = masks and "nifti" in formats
            if not wanted:
                return {}
            from fedmed_edge.images.nifti import nifti_pieces

            return {"mask.nii.gz": nifti_pieces(masks[0], affine_ras, description=_DESCRIPTION)}
        if "png" not in formats or not masks:
            return {}
        # Loaded with the image already where that was a raster.
        from fedmed_edge.images.raster import png_bytes

        if len(masks) == 1:
            return {"mask.png": [png_bytes(masks[0])]}
        return {f"mask-{number:04d}.png": [png_bytes(mask)] for number, mask in enumerate(masks, start=1)}

    def _dicom(
        self, answer: Answer, folder: Path, files: _Files
    ) -> tuple[tuple[DicomObject, ...], dict[str, str]]:
        if answer.input.series is None or not self.options.formats & {*DICOM_FORMATS}:
            return (), {}
        # Loads highdicom: only where a DICOM object is written.
        from fedmed_edge.inference.dicom_objects import make_objects

        made, refused = make_objects(answer, self.model.manifest, self.options)
        objects = []
        for kind, (dataset, content) in made.items():
            files[f"{kind}.dcm"] = content
            objects.append(
                DicomObject(
                    cast(Any, kind),
                    folder / f"{kind}.dcm",
                    str(dataset.SOPClassUID),
                    str(dataset.SOPInstanceUID),
                    str(dataset.SeriesInstanceUID),
                )
            )
        return tuple(objects), refused

    def _keep(
        self,
        given: Input,
        folder: Path | None,
        told: Callable[[], Result],
        files: _Files,
        *,
        always: bool = False,
    ) -> Result:
        """Write what there is; the result is asked for once all else is written, and knows what that cost."""
        results: list[Result] = []

        def document() -> Iterator[bytes]:
            results.append(told())
            stored = {**results[0].document(), "source": _identity(given)}
            yield (json.dumps(stored, indent=1) + "\n").encode()

        if folder is not None:
            if always or "json" in self.options.formats:
                files = {**files, _RESULT: document()}
            _make(folder)
            with alone_in(folder):
                write_together({folder / name: content for name, content in files.items()})
                for left in _answers_in(folder) - {*files}:
                    (folder / left).unlink(missing_ok=True)
        result = results[0] if results else told()
        self._rows.append(row_of(result.document()))
        return result

    def _folder(self, given: Input) -> Path:
        source, task = _identity(given), self.model.manifest.task
        parent, name = _place(given)
        if self._given.get(f"{parent}/{name}", source) != source or not _same(
            self.out / parent / name / self._inside / _RESULT, source, task
        ):
            name += "-" + hashlib.sha256(f"{source}\0{task}".encode()).hexdigest()[:8]
        self._given[f"{parent}/{name}"] = source
        return self.out / parent / name / self._inside


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None


def _identity(given: Input) -> str:
    """What an input is known by when it is answered again."""
    if given.series is None:
        return str(Path(given.name).absolute())
    instance = "" if given.series.is_volume else given.series.frames[0].instance_uid
    return " ".join((given.series.study_uid, given.series.series_uid, given.series.part, instance)).rstrip()


def _place(given: Input) -> tuple[str, str]:
    """Folder of an input below the output folder: parent and name, both safe."""
    series = given.series
    if series is None:
        return "", _stem(Path(given.name))
    place = safe_name(series.series_uid)
    if series.is_volume:
        part = re.sub(r"[^A-Za-z0-9.]+", "-", series.part).strip("-.")[:40]
        return safe_name(series.study_uid), f"{place}-{part}" if part else place
    return f"{safe_name(series.study_uid)}/{place}", safe_name(series.frames[0].instance_uid)


def _stem(path: Path) -> str:
    """Name of the input without its ending, safe as a folder's name."""
    name = path.absolute().name
    for ending in _ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
            break
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:100].lstrip(".") or "input"


def _same(path: Path, source: str, task: str) -> bool:
    """True where no result stands there yet, or one of the same input and task."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        return bool(earlier["source"] == source and earlier["task"] == task)
    except FileNotFoundError:
        # No result: a new folder, or one that a run was cut off in.
        if not path.parent.exists():
            return True
        inside = {one.name for one in path.parent.iterdir() if not one.name.startswith(TEMPORARY)}
        return inside <= _answers_in(path.parent)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _answers_in(folder: Path) -> set[str]:
    """Names of files in a folder that an answer of ours may have left there."""
    return {
        inside.name
        for inside in folder.iterdir()
        if inside.name in _ANSWERS or inside.name == _RESULT or _CINE_MASK.fullmatch(inside.name)
    }


def unfit(answer: Answer, formats: Set[str]) -> dict[str, str]:
    """Formats that an input or its answer is not fit for, and why."""
    reasons = {}
    volume = answer.image.affine_ras is not None
    for name in formats:
        if name in ("seg", "nifti", "png") and answer.label is not None:
            reasons[name] = "a classification has no mask"
        elif name in DICOM_FORMATS and answer.input.series is None:
            reasons[name] = "the input is no DICOM"
        elif name == "nifti" and not volume:
            reasons[name] = "the image has no place in the patient, its mask is `png`"
        elif name == "png" and volume:
            reasons[name] = "the image is a volume, its mask is `nifti`"
    return dict(sorted(reasons.items()))


def _frames(answer: Answer) -> Iterator[dict[str, Any]]:
    if len(answer.frames) == 1:
        return
    for number, frame in enumerate(answer.frames, start=1):
        shares = {name: round(share, 6) for name, share in frame.probabilities.items()}
        told = {"label": frame.label} if frame.mask is None else {}
        yield {"frame": number, **told, "probabilities": shares, "known": frame.known}
