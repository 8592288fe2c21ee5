"""The pool: a folder of unlabelled images that are no site's, read by content.

Any folder does: images as they lie, a dataset folder, a task folder, a folder of those. Of a folder with a
`labels.csv` the images that it lists are taken, so that masks are not; labels are not looked at. Images are
ordered by what they hold, so that names, places and dates of files change nothing.

The server cannot check that the pool shares no patient with a site: it never sees a site's images, nor a
digest of one. Whoever lays out the pool answers for that.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.images.fingerprint import Stamp, content_digest, stamp
from fedmed_edge.images.image import read_image
from fedmed_edge.images.labels import listed_file, read_table
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.images.sources import Source, find_sources
from fedmed_edge.recipe import Recipe, SeriesRules
from fedmed_edge.words import counted

__all__ = ["LEAST_IMAGES", "Pool", "pool_recipe", "read_pool"]

log = logging.getLogger(__name__)

LEAST_IMAGES = 8
"""Fewer are no pool: nothing that is learned on them holds elsewhere."""

CACHE_BYTES = 1 << 29
"""Prepared images are kept in memory up to here; later ones are prepared again each time."""

_TABLE = "labels.csv"


@dataclass(frozen=True, eq=False)
class Pool:
    """Images that can be used, and what became of the other files.

    Attributes:
        recipe: What they are prepared by.
        paths: File, or folder of a DICOM series, in order of content; of equal files one.
        digest: SHA-256 over the contents, in hexadecimal.
        refused: Files that are or may be images and cannot be used, with the reason.
        copies: Files that hold what another one holds.
        passed_over: Other files: tables, masks beside a table, notes.
        stamps: Of each file or folder, what tells at a glance whether it is still what `digest` is of.
    """

    recipe: Recipe
    paths: tuple[Path, ...]
    digest: str
    refused: tuple[tuple[str, str], ...] = ()
    copies: int = 0
    passed_over: int = 0
    stamps: Mapping[Path, Stamp] = field(default_factory=dict, repr=False)
    _kept: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, index: int) -> npt.NDArray[np.float32]:
        """(channels, *grid) float32 of one image; the grid of a volume may be larger than the recipe's size.

        Raises:
            InputError: The file cannot be read any more, or has been changed.
        """
        if index in self._kept:
            return self._kept[index]
        path = self.paths[index]
        pixels = prepare(read_image(path), self.recipe).pixels
        _refuse_changed(path, self.stamps.get(path))
        self._keep(index, pixels)
        return pixels

    def refuse_changed(self, most: int) -> None:
        """Refuse to go on where one of the first `most` images is no longer what the pool's digest is of.

        Raises:
            InputError: Names the file.
        """
        for path in self.paths[:most]:
            _refuse_changed(path, self.stamps.get(path))

    def dataset(self, recipe: Recipe, most: int) -> Dataset:
        """The first `most` images as unlabelled items, each its own patient, for the rows of a recipe."""
        items = (Item(path, None, None, str(number), "train") for number, path in enumerate(self.paths))
        return Dataset(Path(), recipe, tuple(items)[:most])

    def _keep(self, index: int, pixels: npt.NDArray[np.float32]) -> None:
        if (len(self._kept) + 1) * pixels.nbytes <= CACHE_BYTES:
            self._kept[index] = pixels


def _refuse_changed(path: Path, before: Stamp | None) -> None:
    if before is not None and stamp(path) != before:
        raise InputError(
            f"{path}: changed since the pool was read",
            hint="put it back and the same command goes on; with the pool as it is now it begins anew",
        )


def pool_recipe(recipes: Sequence[Recipe]) -> Recipe:
    """How images of a pool are prepared, for tasks that share one encoder.

    As the tasks' own images: grey is repeated where the encoder takes colour, and a 2-D image is stretched to
    its size. Any modality is taken. Where the tasks differ in their intensity rule, nothing says which one an
    image of the pool is for, and its own percentiles make the scale.

    Raises:
        InputError: The tasks differ in what an encoder or a lift depends on.

    Example:
        >>> one = Recipe(name="a", kind="classification", classes=("x", "y"), modality=("DX",))
        >>> other = Recipe(name="b", kind="segmentation", classes=("x", "y"))
        >>> pool_recipe([one, other]).modality
        ()
    """
    first = recipes[0]
    for name in ("channels", "size", "spacing_mm", "lift"):
        for other in recipes[1:]:
            if getattr(other, name) != getattr(first, name):
                raise InputError(
                    f"stage: `{name}` of task {other.name} has {getattr(other, name)}, "
                    f"expected {getattr(first, name)} as task {first.name}",
                    hint="tasks of one encoder state the same; or name one with --task",
                )
    changed = {"modality": (), "series": SeriesRules()}
    if any(other.intensity != first.intensity for other in recipes):
        changed["intensity"] = type(first.intensity)()
    return first.model_copy(update=changed)


def read_pool(folder: Path, recipe: Recipe, *, progress: Callable[[str], None] | None = None) -> Pool:
    """Look at every file below a folder, and prepare each image once to see whether it can be used.

    Args:
        recipe: Of `pool_recipe`.
        progress: Called after every image with what to show.

    Raises:
        InputError: There is no such folder, a `labels.csv` in it cannot be read, or fewer than 8 images can
            be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    candidates, refused, passed_over = _candidates(folder, recipe)
    used: dict[str, Path] = {}
    stamps: dict[Path, Stamp] = {}
    early: dict[str, npt.NDArray[np.float32]] = {}
    copies = size = 0
    for path in candidates:
        try:
            before, digest = stamp(path), content_digest(path)
            if digest in used:
                copies += 1
                continue
            pixels = prepare(read_image(path), recipe).pixels
            _refuse_changed(path, before)
        except InputError as error:
            refused.append((str(path), str(error).removeprefix(f"{path}: ")))
            continue
        used[digest], stamps[path] = path, before
        size += pixels.nbytes
        if size <= CACHE_BYTES:
            early[digest] = pixels
        if progress:
            progress("")
    if len(used) < LEAST_IMAGES:
        told = f"; {refused[0][0]}: {refused[0][1]}" if refused else ""
        raise InputError(
            f"{folder}: pool has {counted(len(used), 'image')} that can be used, "
            f"expected at least {LEAST_IMAGES}{told}",
            hint="a pool is a folder of images that are of no patient of a site",
        )
    order = sorted(used)
    pool = Pool(
        recipe,
        tuple(used[digest] for digest in order),
        hashlib.sha256("".join(order).encode()).hexdigest(),
        tuple(refused),
        copies,
        passed_over,
        stamps,
        {index: early[digest] for index, digest in enumerate(order) if digest in early},
    )
    log.info(
        "pool of %s; %d cannot be used, %s, %s",
        counted(len(pool), "image"),
        len(refused),
        counted(copies, "copy", "copies"),
        counted(passed_over, "other file"),
    )
    return pool


def _candidates(folder: Path, recipe: Recipe) -> tuple[list[Path], list[tuple[str, str]], int]:
    """Files, or folders of series, that may be images; what was lost; how many others there are."""
    found: dict[Path, None] = {}
    lost: list[tuple[str, str]] = []
    others = 0
    with find_sources([folder]) as sources:
        files = sources.files
    listed = {source.path.parent: None for source in files if source.path.name == _TABLE}
    tables = {where: set(_listed(where / _TABLE, lost)) for where in listed}
    for source in files:
        above = next((one for one in source.path.parents if one in tables), None)
        named = above is None or bool({source.path, *source.path.parents} & tables[above])
        if source.kind is None or not named:
            others += not source.lost
            lost += [(source.name, source.reason.removeprefix(f"{source.name}: "))] if source.lost else []
        else:
            found[_whole(source, recipe)] = None
    return list(found), lost, others


def _listed(table: Path, lost: list[tuple[str, str]]) -> Iterator[Path]:
    """Images of a table; those that are not there are lost."""
    for row in read_table(table):
        try:
            yield listed_file(table, row.line, "image", row.image)
        except InputError as error:
            lost.append((f"{table.parent / row.image}", str(error).removeprefix(f"{table}: ")))


def _whole(source: Source, recipe: Recipe) -> Path:
    """The file; of slices of a volume the folder they lie in."""
    return source.path.parent if source.kind == "dicom" and recipe.dimensions == 3 else source.path
