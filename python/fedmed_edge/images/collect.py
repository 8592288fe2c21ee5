"""A DICOM tree and a table of labels → a dataset folder.

Series and rows find each other by accession number, study or patient; segmentations and radiotherapy
structures become masks on their image's grid. Images are linked, or copied. The table names patients and
files by keyed hashes: the key stays in the folder, readable by its owner alone, so that a patient keeps its
name.
"""

import csv
import hashlib
import hmac
import io
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedmed_edge.atomic import atomic_file, read_regular, write_atomic
from fedmed_edge.errors import FedmedError, InputError, NothingMatched
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.labels import COLUMNS
from fedmed_edge.images.masks import MaskFile, mask_content, mask_files, mask_of
from fedmed_edge.images.selection import Verdict, geometry_of, judge
from fedmed_edge.images.series import Grouped, Series, Study, instances, shared_folder
from fedmed_edge.images.sources import Source, find_sources
from fedmed_edge.images.spreadsheet import LabelRow, read_labels
from fedmed_edge.recipe import Recipe

log = logging.getLogger(__name__)

KEY_FILE = ".patient-key"
UNUSED = "unused.csv"
_TABLE = "labels.csv"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        out: The dataset folder.
        by: What a row of the table names.
        labels: The table; None: every series is taken, without a label.
        label: Its column with the class.
        recipe: Its rules choose series, its classes number masks; None: volumes where slices make one, else
            single images, and classes by the names found.
        renames: Name of a segment or structure → class.
        copy: Copy files instead of linking to them.
        lenient: Resample crooked stacks and keep them as NIfTI.
    """

    out: Path
    by: str = "AccessionNumber"
    labels: Path | None = None
    label: str = "label"
    recipe: Recipe | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    copy: bool = False
    lenient: bool = False


@dataclass(frozen=True)
class Collected:
    """What became of it.

    Attributes:
        images, patients, masks: How many are in the folder.
        classes: Class names, of masks in the order of their numbers.
        unused: What was left out, and why: series, rows, masks. Also in `unused.csv`.
        faults: How many of these are losses (a row without images, a file that cannot be read), not choices.
    """

    images: int
    patients: int
    masks: int
    classes: tuple[str, ...]
    unused: tuple[tuple[str, str], ...]
    faults: int


def collect(
    scan: Sequence[Path],
    plan: Plan,
    advance: Callable[[str], None] = lambda step: None,
    *,
    failed: Sequence[tuple[str, str]] = (),
) -> Collected:
    """Make a dataset folder.

    Args:
        scan: Files, folders, DICOMDIRs or zips.
        advance: Called with each image as it is written.
        failed: What was lost before: told with the rest.

    Raises:
        InputError: The table is none, the folder cannot be written, or a class is not the recipe's.
        NothingMatched: Not one image is left.
    """
    rows = read_labels(plan.labels, by=plan.by, label=plan.label) if plan.labels else None
    skip = None if any(path.is_relative_to(plan.out) for path in scan) else plan.out
    with find_sources(scan, skip=skip) as sources:
        dicom = {source.path: source.name for source in sources.files if source.kind == "dicom"}
        others = [source for source in sources.files if source.kind != "dicom"]
        work = _Work(plan, dicom, others, copy=plan.copy or sources.unpacked is not None)
        for name, reason in failed:
            work.leave(name, reason, fault=True)
        return work.run(group_files(dicom), rows, advance)


class _Work:
    """One run: what was written and what was left out."""

    def __init__(
        self, plan: Plan, names: Mapping[Path, str], others: Sequence[Source], *, copy: bool
    ) -> None:
        self.plan, self.names, self.others, self.copy = plan, names, others, copy
        self.lines: list[dict[str, str]] = []
        self.unused: list[tuple[str, str]] = []
        self.faults = 0
        self.key = b""

    def run(self, found: Grouped, rows: list[LabelRow] | None, advance: Callable[[str], None]) -> Collected:
        for source in self.others:
            reason = source.reason.removeprefix(f"{source.name}: ") or "is not DICOM"
            self.leave(source.name, reason, fault=source.lost)
        for path, error in found.refused:
            self.leave(self.names[path], str(error).replace(f"{path}: ", "", 1), fault=True)
        masks = mask_files([path for path, _ in found.others])
        for path, kind in found.others:
            if path not in {mask.path for mask in masks}:
                self.leave(self.names[path], f"holds {kind}, no image")
        classes = self.classes(masks)
        _make_folder(self.plan.out)
        self.key = _patient_key(self.plan.out)
        by_key = {row.key: row for row in rows} if rows is not None else None
        used: set[str] = set()
        for study in found.studies:
            for series in self.chosen(study):
                row = by_key.get(_key_of(series, self.plan.by)) if by_key is not None else None
                if by_key is not None and row is None:
                    self.leave(self.name(series), f"no row of the table has its {self.plan.by}")
                elif self.take(series, row, masks, classes):
                    used.update([row.key] if row else [])
                    advance("")
        self.check_left_over(rows or [], used, masks)
        if not self.lines:
            raise self.nothing()
        self.write_tables()
        return Collected(
            images=len(self.lines),
            patients=len({line["patient"] for line in self.lines}),
            masks=sum(bool(line["mask"]) for line in self.lines),
            classes=self.told_classes(classes),
            unused=tuple(self.unused),
            faults=self.faults,
        )

    def told_classes(self, classes: Sequence[str]) -> tuple[str, ...]:
        labels = {line["label"] for line in self.lines} - {""}
        return tuple(classes) if self.plan.recipe or not labels else tuple(sorted(labels))

    def leave(self, name: str, reason: str, *, fault: bool = False) -> None:
        self.unused.append((name, reason))
        self.faults += fault

    def nothing(self) -> NothingMatched:
        first = f": {self.unused[0][0]}: {self.unused[0][1]}" if self.unused else ""
        return NothingMatched(f"{self.plan.out}: no image for the dataset was found{first}")

    def name(self, series: Series) -> str:
        own = [self.names[path] for path in series.files]
        name = own[0] if len(own) == 1 else shared_folder(own)
        return f"{name} ({series.part})" if series.part else name

    def classes(self, masks: Sequence[MaskFile]) -> list[str]:
        """Class names in the order of their numbers: the recipe's, else those that masks have."""
        if self.plan.recipe is not None:
            known = {name.casefold() for name in self.plan.recipe.classes}
            for name, to in self.plan.renames.items():
                if to.casefold() not in known:
                    told = ", ".join(self.plan.recipe.classes)
                    raise InputError(f"class of `{name}` is `{to}`, expected one of the recipe's: {told}")
            return list(self.plan.recipe.classes)
        renames = {name.casefold(): to for name, to in self.plan.renames.items()}
        found = {renames.get(name.casefold(), name) for mask in masks for name in mask.names.values()}
        return ["background", *sorted(found - {"background"})]

    def chosen(self, study: Study) -> list[Series]:
        """The series of a study that are taken; why others are not is told."""
        recipe = self.plan.recipe
        verdicts = judge(study.series, recipe) if recipe else [_plain(series) for series in study.series]
        taken = []
        for verdict in verdicts:
            volume = verdict.series.is_volume and (recipe is None or recipe.dimensions == 3)
            crooked = volume and not verdict.sound and not self.plan.lenient
            if not verdict.taken or crooked:
                self.leave(self.name(verdict.series), verdict.reason, fault=verdict.taken)
            elif volume:
                taken.append(verdict.series)
            else:
                taken += self.single(verdict.series)
        return taken

    def single(self, series: Series) -> list[Series]:
        """The instances of a series as images of their own; a cine is none."""
        good = []
        for one in instances(series):
            if one.is_cine:
                self.leave(self.name(one), f"a cine of {len(one.frames)} frames, expected single images")
            else:
                good.append(one)
        return good

    def take(
        self, series: Series, row: LabelRow | None, masks: Sequence[MaskFile], classes: Sequence[str]
    ) -> bool:
        """Write one image, its mask and its line."""
        recipe = self.plan.recipe
        label = row.label if row else ""
        if recipe and recipe.kind == "classification" and label and label not in recipe.classes:
            reason = f"label `{label}` is no class of the recipe, expected {', '.join(recipe.classes)}"
            self.leave(self.name(series), reason, fault=True)
            return False
        patient = self.hash("patient", series.patient_id or series.study_uid)
        name = f"{patient}-{self.hash('image', series.series_uid, series.part, *_own(series))}"
        try:
            image = self.write_image(series, name)
            mask = self.write_mask(series, name, masks, classes)
        except FedmedError as error:
            self.leave(self.name(series), str(error), fault=True)
            return False
        values = (image, label, mask, patient, row.split if row else "")
        self.lines.append(dict(zip(COLUMNS, values, strict=True)))
        return True

    def hash(self, *parts: str) -> str:
        """A name for what must not be named: the same for the same parts, and nothing without the key."""
        return hmac.new(self.key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()[:12]

    def write_image(self, series: Series, name: str) -> str:
        """Link or copy the files of a series; what no folder of files can say is kept as NIfTI."""
        out = self.plan.out / "images"
        shared = series.is_volume and bool(series.part) and len(series.files) == 1
        if series.stack is not None and (series.stack.faults or shared):
            from fedmed_edge.images.dicom import read_volume
            from fedmed_edge.images.nifti import nifti_pieces

            image = read_volume(series, lenient=self.plan.lenient)
            assert image.affine_ras is not None
            write_atomic(out / f"{name}.nii.gz", nifti_pieces(image.pixels[0], image.affine_ras))
            return f"images/{name}.nii.gz"
        if len(series.files) == 1:
            self.place(series.files[0], out / f"{name}.dcm")
            return f"images/{name}.dcm"
        (out / name).mkdir(exist_ok=True)
        for number, path in enumerate(series.files):
            self.place(path, out / name / f"{number:05}.dcm")
        return f"images/{name}"

    def place(self, path: Path, to: Path) -> None:
        if self.copy:
            with path.open("rb") as file, atomic_file(to) as copied:
                shutil.copyfileobj(file, copied)
        else:
            to.unlink(missing_ok=True)
            real = Path(os.path.realpath(path))
            inside = real.is_relative_to(os.path.realpath(self.plan.out))
            # What was fetched into the folder moves with it.
            goal = os.path.relpath(real, os.path.realpath(to.parent)) if inside else real
            try:
                to.symlink_to(goal)
            except OSError as error:  # shares and memory sticks have no links
                raise InputError(
                    f"{to}: cannot be linked: {(error.strerror or '').lower()}",
                    hint="--copy copies the files",
                ) from None

    def write_mask(self, series: Series, name: str, masks: Sequence[MaskFile], classes: Sequence[str]) -> str:
        mask, told = mask_of(series, masks, classes, self.plan.renames)
        for path, reason in told:
            self.leave(self.names[path], reason)
        if mask is None:
            return ""
        ending, content = mask_content(mask, series)
        write_atomic(self.plan.out / "masks" / f"{name}{ending}", content)
        return f"masks/{name}{ending}"

    def check_left_over(self, rows: list[LabelRow], used: set[str], masks: Sequence[MaskFile]) -> None:
        table = self.plan.labels
        for row in rows:
            if row.key not in used:
                self.leave(f"{table}: row {row.line}", f"no image has its {self.plan.by}", fault=True)
        for mask in masks:
            if not mask.used:
                self.leave(self.names[mask.path], f"{mask.kind} of a series that was not taken")

    def write_tables(self) -> None:
        self.lines.sort(key=lambda line: line["image"])
        write_atomic(self.plan.out / _TABLE, _csv(COLUMNS, [list(line.values()) for line in self.lines]))
        write_atomic(self.plan.out / UNUSED, _csv(("what", "reason"), [list(one) for one in self.unused]))


def _plain(series: Series) -> Verdict:
    """Without a recipe everything is taken but localizers and coloured stacks."""
    geometry, sound = geometry_of(series)
    taken = not series.is_localizer and not (series.colour and series.is_volume)
    reason = "is a localizer" if series.is_localizer else "is a volume of colours"
    if taken:
        reason = "" if sound or series.stack is None else series.stack.faults[0].text
    return Verdict(series, (), geometry, sound, taken, reason)


def _own(series: Series) -> list[str]:
    """What tells an instance from the others of its series, where it is an image of its own."""
    return [] if series.is_volume else [series.frames[0].instance_uid]


def _key_of(series: Series, by: str) -> str:
    keys = {
        "AccessionNumber": series.accession,
        "StudyInstanceUID": series.study_uid,
        "PatientID": series.patient_id,
    }
    return keys[by].strip()


def _make_folder(out: Path) -> None:
    try:
        for folder in (out, out / "images", out / "masks"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from None
    if (out / _TABLE).exists() and not (out / KEY_FILE).exists():
        raise InputError(f"{out}: folder holds a dataset that was not made here", hint="choose a new folder")


def _patient_key(out: Path) -> bytes:
    path = out / KEY_FILE
    if not path.exists():
        write_atomic(path, secrets.token_bytes(_KEY_BYTES), mode=0o600)
    key = read_regular(path, _KEY_BYTES)
    if len(key) != _KEY_BYTES:  # with an empty one, names of patients could be guessed from their hashes
        raise InputError(
            f"{path}: has {len(key)} bytes, expected {_KEY_BYTES}", hint="make the dataset in a new folder"
        )
    return key


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
