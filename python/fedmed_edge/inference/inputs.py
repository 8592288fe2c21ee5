"""What the command line names → the images to answer: files, folders, DICOMDIRs, zips; series chosen."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from fedmed_edge.errors import FedmedError, InputError, NothingMatched
from fedmed_edge.images.image import Image, read_image
from fedmed_edge.images.selection import Verdict, judge
from fedmed_edge.images.series import Grouped, Series, instances, shared_folder
from fedmed_edge.images.sources import Sources, find_sources
from fedmed_edge.recipe import Recipe

log = logging.getLogger(__name__)

NO_IMAGE = "no image found among the inputs, expected DICOM, NIfTI, PNG or JPEG"


@dataclass(frozen=True, eq=False)
class Input:
    """One thing to answer.

    Attributes:
        name: What results call it: the path as given, of a zip's member the zip's path with its own behind,
            of several series in one folder the folder with `#1`, `#2`, … behind.
        path: File, or folder of a series; of an unpacked zip, temporary.
        series: DICOM only. For a recipe of volumes a stack; for a recipe of 2-D images one instance, which
            may hold the frames of a cine.
        tasks: Numbers of the recipes whose rules take it; of a picture that is found out as it is answered.
    """

    name: str
    path: Path
    series: Series | None = None
    tasks: tuple[int, ...] = (0,)

    def images(self, *, lenient: bool = False, compact: bool = False) -> Iterator[Image]:
        """Read it: one image, or those of a cine's frames one at a time.

        Args:
            lenient: Resample a volume whose slices are no regular stack.
            compact: Keep whole numbers of a DICOM volume as int16.

        Raises:
            InputError: As `read_image`, `read_volume` and `read_frames`.
        """
        try:
            if self.series is None:
                yield read_image(self.path)
            elif self.series.is_volume:
                from fedmed_edge.images.dicom import read_volume

                yield replace(read_volume(self.series, lenient=lenient, compact=compact), source=self.path)
            else:
                from fedmed_edge.images.dicom import read_frames

                yield from read_frames(self.series)
        except InputError as error:
            # What is unpacked goes by the zip's name.
            raise renamed(error, self.path, self.name.partition("#")[0]) from None


@dataclass(frozen=True, eq=False)
class Found:
    """What there is to answer; use it as a context, what was unpacked is deleted at its end.

    Attributes:
        inputs: In the order in which they are answered: by path.
        refused: What cannot be answered, and why: inputs that failed.
        not_taken: Series that the rules or the ranking passed over, and why: no failures.
        excluded: Those that rules passed over, with the numbers of these recipes: what was answered there by
            other rules stands no longer.
    """

    inputs: tuple[Input, ...]
    refused: tuple[tuple[str, FedmedError], ...] = ()
    not_taken: tuple[tuple[str, str], ...] = ()
    excluded: tuple[Input, ...] = ()
    sources: Sources = field(default_factory=Sources, repr=False)

    def __enter__(self) -> "Found":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sources.close()


def find_inputs(
    paths: Sequence[Path],
    *recipes: Recipe,
    skip: Path | None = None,
    series: str | None = None,
    every: bool = False,
) -> Found:
    """Find the images behind files, folders, DICOMDIRs and zips that a recipe, or one of several, is about.

    PNG, JPEG and NIfTI files are one input each. DICOM files are grouped into studies and series, wherever
    they lie; each recipe's rules choose among these, and of several volumes of a study behind one path the
    best is taken. What was named itself and is no image is refused; what lies in a folder is passed over,
    unless it is named like an image or cannot be looked into.

    Args:
        skip: Folder that is passed over where it lies inside a given one: the results' own.
        series: Take the series of this SeriesInstanceUID alone; nothing is told of the others.
        every: Take every volume of a study that the rules allow, not the best alone.

    Raises:
        NothingMatched: There is nothing to answer.

    Example:
        >>> import tempfile
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("benign", "malignant"))
        >>> find_inputs([Path(tempfile.mkdtemp())], recipe)
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.NothingMatched: no image found among the inputs, expected DICOM, NIfTI, PNG or JPEG
    """
    sources = find_sources(paths, skip=skip)
    try:
        found = _chosen(sources, recipes, series, every)
        for path in _without_images(paths, found) if series is None else ():
            log.warning("%s: %s holds no image", path, "folder" if path.is_dir() else "zip")
        if not found.inputs and not found.refused:
            raise _nothing(found, series)
    except BaseException:
        sources.close()
        raise
    return found


def _nothing(found: Found, series: str | None) -> NothingMatched:
    if series is not None and not found.not_taken:
        return NothingMatched(f"series {series}: is not among the inputs")
    if not found.not_taken:
        return NothingMatched(NO_IMAGE)
    name, reason = found.not_taken[0]
    more = f" (and {len(found.not_taken) - 1} more)" if len(found.not_taken) > 1 else ""
    return NothingMatched(
        f"{name}: {reason}{more}", hint="`fedmed-edge inspect PATH --model M` says so of every series"
    )


def _without_images(paths: Sequence[Path], found: Found) -> list[Path]:
    # Of what lies behind two paths, a copy too, results name one: neither is empty.
    behind = {source.root for source in found.sources.files if source.kind or source.given or source.lost}
    return [
        path for path in paths if path not in behind and not any(_lies_in(n, path) for n in _names(found))
    ]


def _names(found: Found) -> list[str]:
    taken = [one.name for one in found.inputs]
    return [*taken, *(name for name, _ in found.refused), *(name for name, _ in found.not_taken)]


def _lies_in(name: str, folder: Path) -> bool:
    return name.partition("#")[0] == str(folder) or Path(name).is_relative_to(folder)


def _chosen(sources: Sources, recipes: Sequence[Recipe], series: str | None, every: bool) -> Found:
    inputs, refused, not_taken = [], [], []
    for source in sources.files:
        if source.kind is None:
            if source.given or source.lost:
                refused.append((source.name, InputError(source.reason)))
            else:
                log.debug("passed over: %s", source.reason)
        elif source.kind != "dicom" and series is None:
            inputs.append(Input(source.name, source.path, tasks=tuple(range(len(recipes)))))
    names, grouped = grouped_dicom(sources)
    given = {source.path for source in sources.files if source.given}
    for path, error in grouped.refused:
        refused.append((names[path], renamed(error, path, names[path])))
    for path, kind in grouped.others:
        if path in given:
            refused.append((names[path], InputError(f"{names[path]}: file holds {kind}, expected an image")))
        elif series is None:
            not_taken.append((names[path], f"holds {kind}, no image"))
    taken, excluded, passed = _by_the_rules(sources, names, grouped, recipes, series, every)
    not_taken += [(name, "; ".join(why)) for name, why in passed.items() if len(why) == len(recipes)]
    return Found(
        _in_order([*inputs, *taken], sources), tuple(refused), tuple(not_taken), tuple(excluded), sources
    )


def _in_order(inputs: list[Input], sources: Sources) -> tuple[Input, ...]:
    """As the first files of their names were found: by path; series of one folder by their numbers."""
    places = {source.path: place for place, source in enumerate(sources.files)}
    firsts: dict[str, int] = {}
    for one in inputs:
        files = one.series.files if one.series else (one.path,)
        name, first = one.name.partition("#")[0], min(places[path] for path in files)
        firsts[name] = min(first, firsts.get(name, first))
    return tuple(sorted(inputs, key=lambda one: firsts[one.name.partition("#")[0]]))


def _by_the_rules(
    sources: Sources,
    names: dict[Path, str],
    grouped: Grouped,
    recipes: Sequence[Recipe],
    series: str | None,
    every: bool,
) -> tuple[list[Input], list[Input], dict[str, list[str]]]:
    """The series that a recipe takes, and those that its rules exclude, each once; why, by recipe."""
    taken: dict[tuple[object, ...], Input] = {}
    excluded: dict[tuple[object, ...], Input] = {}
    passed: dict[str, list[str]] = {}
    for number, recipe in enumerate(recipes):
        verdicts = judged(grouped, sources, recipe, every=every)
        for name, verdict in zip(series_names(verdicts, names), verdicts, strict=True):
            own = verdict.series
            if series not in (None, own.series_uid):
                continue
            into = taken
            if not (verdict.taken or (series is not None and verdict.matches)):
                why = f"{recipe.name}: {verdict.reason}" if len(recipes) > 1 else verdict.reason
                passed.setdefault(name, []).append(why)
                if verdict.matches:  # another volume is better: somebody may have asked for this one by name
                    continue
                into = excluded
            found = [Input(name, own.place, own)]
            if recipe.dimensions == 2:
                found = [Input(names[one.files[0]], one.files[0], one) for one in instances(own)]
            for one in found:
                key = (one.name, own.series_uid, own.part, recipe.dimensions)
                before = into[key].tasks if key in into else ()
                into[key] = replace(one, tasks=(*before, number))
    return list(taken.values()), list(excluded.values()), passed


def judged(grouped: Grouped, sources: Sources, recipe: Recipe, *, every: bool = False) -> list[Verdict]:
    """A verdict of every series; those of a study that lie behind one named path compete."""
    roots = {source.path: source.root for source in sources.files}
    verdicts = []
    for study in grouped.studies:
        rivals: dict[Path | None, list[Series]] = {}
        for series in study.series:
            behind = {roots[path] for path in series.files}
            rivals.setdefault(behind.pop() if len(behind) == 1 else None, []).append(series)
        for group in rivals.values():
            verdicts += judge(group, recipe, every=every)
    return verdicts


def grouped_dicom(sources: Sources) -> tuple[dict[Path, str], Grouped]:
    """Names of the DICOM files by path, and what they are grouped to; without any, no pydicom is loaded."""
    files = [source for source in sources.files if source.kind == "dicom"]
    if not files:
        return {}, Grouped((), (), ())
    # Loads pydicom: only where DICOM comes in.
    from fedmed_edge.images.grouping import group_files

    return {source.path: source.name for source in files}, group_files(source.path for source in files)


def renamed(error: InputError, path: Path, name: str) -> InputError:
    """What is unpacked goes by the zip's name."""
    return InputError(str(error).replace(str(path), name, 1), hint=error.hint)


def series_names(verdicts: list[Verdict], names: dict[Path, str]) -> list[str]:
    """What results call each series: its file, or its folder, numbered where that holds several."""
    plain = []
    for verdict in verdicts:
        own = [names[path] for path in verdict.series.files]
        plain.append(own[0] if len(own) == 1 else shared_folder(own))
    shared = {name for name in plain if plain.count(name) > 1}
    counted: dict[str, int] = {}
    told = []
    for name in plain:
        counted[name] = counted.get(name, 0) + 1
        told.append(f"{name}#{counted[name]}" if name in shared else name)
    return told
