"""Results on disk: a folder for each input, and one table of all."""

import csv
import fcntl
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.images.image import Float64, UInt8
from fedmed_edge.inference.predict import Model, Prediction
from fedmed_edge.recipe import Kind

TABLE = "results.csv"
_LOCK = ".results.lock"
_RESULT = "result.json"
_ANSWERS = ("mask.png", "mask.nii.gz", "preview.png")
_ENDINGS = (".nii.gz", ".nii", ".dcm", ".dicom", ".png", ".jpg", ".jpeg")


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
        known: Whether the image is like those that the model was made from; None: the model cannot tell.
        distance, threshold: Squared Mahalanobis distance of the image, and the largest that counts as known.
        model: Digest of the model, as `fedmed-server rebuild` prints it.
        model_file_sha256: Of the file that it was in.
        error: What went wrong, and then nothing else is known.
        hint: What to do about it; not part of `document`.
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
    known: bool | None = None
    distance: float | None = None
    threshold: float | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None

    def document(self) -> dict[str, Any]:
        """As one JSON object: `label` for a classification, `mask` for a segmentation."""
        answer = {"mask": self.mask} if self.kind == "segmentation" else {"label": self.label}
        shares = self.probabilities
        return {
            "input": self.input,
            "output": self.output,
            "task": self.task,
            **answer,
            "probabilities": None if shares is None else {name: round(p, 6) for name, p in shares.items()},
            "known": self.known,
            "distance": None if self.distance is None else round(self.distance, 4),
            "threshold": None if self.threshold is None else round(self.threshold, 4),
            "model": self.model,
            "model_file_sha256": self.model_file_sha256,
            "device": self.device,
            "seconds": round(self.seconds, 4),
            "warnings": list(self.warnings),
            "error": self.error,
        }

    def line(self) -> str:
        """As one line for people."""
        if self.error is not None:
            return f"failed  {self.error}" + (f" ({self.hint})" if self.hint else "")
        shares = self.probabilities or {}
        answer = f"{self.label} {shares.get(self.label or '', 0):.2f}" if self.label else f"mask {self.mask}"
        warnings = "".join(f"  warning: {text}" for text in self.warnings)
        return f"{self.input}  {answer}  ({self.seconds:.2f} s){warnings}"


class ResultsFolder:
    """The output folder of one run; use it as a context, the table is written at its end.

    Each input gets a folder named after it with `result.json`, the mask and the preview. An input is known
    by its absolute path and the task: answered again, it is written over; another one of the same name gets
    its own folder, with a few characters of its path's digest behind the name. The table keeps the rows of
    earlier runs, so that many runs can share it.

    Args:
        out: Made where it is missing.
        preview: Write preview pictures, too.

    Raises:
        InputError: The folder cannot be made or written to, or holds a table of other columns.
    """

    def __init__(self, out: Path, model: Model, *, preview: bool = False) -> None:
        self.out, self.model, self.preview = out, model, preview
        self._given: dict[str, str] = {}
        self._rows: list[dict[str, str]] = []
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made: {error.strerror}") from None
        with _locked(out / _LOCK):  # says at once where nothing could be written at the end
            _read_table(out / TABLE)

    def __enter__(self) -> "ResultsFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.write_table()

    def add(self, path: Path, prediction: Prediction) -> Result:
        """Write the files of one answer.

        Raises:
            InputError: The folder is not writable, or the disk is full.
        """
        folder = self._folder(path)
        folder.mkdir(exist_ok=True)
        mask = self._write_mask(folder, prediction)
        if self.preview:
            # Draws text and pictures: only where it was asked for.
            from fedmed_edge.inference.preview import draw_preview

            write_atomic(folder / "preview.png", draw_preview(prediction))
        result = Result(
            input=str(path),
            output=str(folder),
            task=self.model.manifest.task,
            kind=self.model.recipe.kind,
            model=self.model.digest,
            model_file_sha256=self.model.file_sha256,
            device=self.model.device,
            seconds=prediction.seconds,
            label=prediction.label,
            mask=mask,
            probabilities=prediction.probabilities,
            known=prediction.known,
            distance=prediction.distance,
            threshold=prediction.threshold,
            warnings=prediction.warnings,
        )
        return self._keep(path, folder, result)

    def fail(self, path: Path, error: FedmedError, seconds: float) -> Result:
        """Record an input that could not be answered; an earlier answer in its folder is taken away."""
        folder = self._folder(path)
        earlier = folder.is_dir()
        for name in _ANSWERS if earlier else ():
            (folder / name).unlink(missing_ok=True)
        result = Result(
            input=str(path),
            output=str(folder) if earlier else None,
            task=self.model.manifest.task,
            kind=self.model.recipe.kind,
            model=self.model.digest,
            model_file_sha256=self.model.file_sha256,
            device=self.model.device,
            seconds=seconds,
            error=str(error),
            hint=error.hint,
        )
        return self._keep(path, folder if earlier else None, result)

    def write_table(self) -> None:
        """Merge this run's rows into `results.csv`: a row of the same input and task is replaced."""
        if not self._rows:
            return
        with _locked(self.out / _LOCK):
            rows = {(row["input"], row["task"]): row for row in [*_read_table(self.out / TABLE), *self._rows]}
            text = io.StringIO()
            writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())
            write_atomic(self.out / TABLE, text.getvalue().encode("utf-8", "backslashreplace"))
        self._rows.clear()

    def _keep(self, path: Path, folder: Path | None, result: Result) -> Result:
        document = result.document()
        if folder is not None:
            stored = {**document, "source": str(path.absolute())}
            write_atomic(folder / _RESULT, (json.dumps(stored, indent=1) + "\n").encode())
        self._rows.append(_row(result, document))
        return result

    def _folder(self, path: Path) -> Path:
        source, task = str(path.absolute()), self.model.manifest.task
        name = _stem(path)
        if self._given.get(name, source) != source or not _same(self.out / name / _RESULT, source, task):
            name += "-" + hashlib.sha256(f"{source}\0{task}".encode()).hexdigest()[:8]
        self._given[name] = source
        return self.out / name

    def _write_mask(self, folder: Path, prediction: Prediction) -> str | None:
        mask, affine_ras = prediction.mask, prediction.image.affine_ras
        if mask is None:
            return None
        path = folder / ("mask.png" if affine_ras is None else "mask.nii.gz")
        write_atomic(path, _png(mask) if affine_ras is None else _nifti(mask, affine_ras))
        return str(path)


_COLUMNS = (
    "input",
    "output",
    "task",
    "label",
    "mask",
    "probabilities",
    "known",
    "distance",
    "threshold",
    "model",
    "model_file_sha256",
    "device",
    "seconds",
    "warnings",
    "error",
)


def _row(result: Result, document: dict[str, Any]) -> dict[str, str]:
    values = {"label": None, "mask": None, **document}
    values["probabilities"] = json.dumps(values["probabilities"]) if result.probabilities else None
    values["warnings"] = "; ".join(result.warnings)
    values["known"] = {True: "yes", False: "no", None: None}[result.known]
    return {name: "" if values[name] is None else str(values[name]) for name in _COLUMNS}


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise InputError(
                    f"{path}: has columns {','.join(reader.fieldnames or ())}, expected {','.join(_COLUMNS)}",
                    hint="choose another output folder",
                )
            return [{name: row[name] or "" for name in _COLUMNS} for row in reader]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="choose another output folder") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs into one folder take turns at the table."""
    try:
        file = path.open("w")
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written: {error.strerror}", hint="choose another output folder"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
        return not path.parent.exists() or {p.name for p in path.parent.iterdir()} <= {*_ANSWERS}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _png(mask: UInt8) -> bytes:
    # Loaded with the image already where that was a raster.
    from PIL import Image as Picture

    out = io.BytesIO()
    Picture.fromarray(mask).save(out, "PNG")
    return out.getvalue()


def _nifti(mask: UInt8, affine_ras: Float64) -> bytes:
    from nibabel.nifti1 import Nifti1Image

    volume = Nifti1Image(mask, affine_ras)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = b"fedmed-edge class numbers"
    # Without a time in it: the same answer gives the same bytes.
    return gzip.compress(volume.to_bytes(), compresslevel=6, mtime=0)
