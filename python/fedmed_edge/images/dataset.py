"""Dataset folders (the images of one site) and task folders (one dataset folder a site)."""

import difflib
import itertools
import logging
import re
import unicodedata
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.images.image import Image, UInt8, mask_classes, read_image, read_mask
from fedmed_edge.images.labels import (
    Row,
    Split,
    class_folders,
    listed_file,
    read_table,
    split_of,
    split_rows,
)
from fedmed_edge.recipe import (
    Backbone,
    Frozen,
    Intensity,
    Kind,
    Lift,
    Recipe,
    parse_settings,
    read_toml,
)

log = logging.getLogger(__name__)

_LOOKED_AT = 8
"""Images of a site that tell what kind of images there are, where no `task.toml` does."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Item:
    """One image of a dataset.

    Attributes:
        image: File, or folder of a DICOM series.
        label: Class index (classification); None where it is not known.
        mask: Mask file (segmentation); None where there is none.
        patient: Patient id; where none is given, the image's path in the folder: its own patient.
        split: Whether the site trains on it or holds it out.
    """

    image: Path
    label: int | None
    mask: Path | None
    patient: str
    split: Split


@dataclass(frozen=True)
class Dataset:
    """The images of one site for one recipe: paths and labels; pixels are read when asked for.

    Attributes:
        folder: The dataset folder.
        recipe: What the images are for.
        items: In the order of `labels.csv`, or of class and file name.
    """

    folder: Path
    recipe: Recipe
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def train(self) -> "Dataset":
        """The items that are trained on."""
        return replace(self, items=tuple(item for item in self.items if item.split == "train"))

    @property
    def test(self) -> "Dataset":
        """The items that are held out."""
        return replace(self, items=tuple(item for item in self.items if item.split == "test"))

    @property
    def labelled(self) -> "Dataset":
        """The items with what their kind of task learns from: a label, or for a segmentation a mask."""
        wanted = "label" if self.recipe.kind == "classification" else "mask"
        return replace(self, items=tuple(item for item in self.items if getattr(item, wanted) is not None))

    @property
    def patients(self) -> frozenset[str]:
        """Ids of the patients of all items."""
        return frozenset(item.patient for item in self.items)

    @property
    def without_labels(self) -> "Dataset":
        """The same images without their labels and masks."""
        return replace(self, items=tuple(replace(item, label=None, mask=None) for item in self.items))

    def by_patient(self, patients: Collection[str]) -> tuple["Dataset", "Dataset"]:
        """The items of these patients, and those of all others, in their order."""
        sides: tuple[list[Item], list[Item]] = ([], [])
        for item in self.items:
            sides[item.patient not in patients].append(item)
        theirs, others = (replace(self, items=tuple(side)) for side in sides)
        return theirs, others

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """The items at `indices`, in that order."""
        return replace(self, items=tuple(self.items[index] for index in indices))

    def load(self, item: Item) -> Image:
        """Read an item's image.

        Raises:
            InputError: As `read_image`.
        """
        return read_image(item.image)

    def load_mask(self, item: Item, image: Image) -> UInt8:
        """Read an item's mask on the grid of its image.

        Raises:
            InputError: As `read_mask`; or the item has no mask.
        """
        if item.mask is None:
            raise InputError(f"{item.image}: image has no mask")
        return read_mask(item.mask, image, len(self.recipe.classes), self.recipe.classes)

    def classes_of(self, item: Item) -> tuple[int, ...]:
        """Class indices of an item: its label, or those that occur in its mask; none where it is unlabelled.

        Raises:
            InputError: The mask cannot be read.
        """
        if item.mask is not None:
            return mask_classes(item.mask, len(self.recipe.classes), self.recipe.classes)
        return () if item.label is None else (item.label,)

    def counts(self) -> dict[str, int]:
        """Patients of each class, by class name; reads every mask.

        Raises:
            InputError: A mask cannot be read.
        """
        patients: list[set[str]] = [set() for _ in self.recipe.classes]
        for item in self.items:
            for number in self.classes_of(item):
                patients[number].add(item.patient)
        return {name: len(ids) for name, ids in zip(self.recipe.classes, patients, strict=True)}


def read_dataset(folder: Path, recipe: Recipe) -> Dataset:
    """Read what a dataset folder lists: `labels.csv`, or one folder a class.

    Rows without label or mask are unlabelled items. Where `split` is empty, 30 % of the patients are held
    out, by a hash of the patient id.

    Args:
        folder: With `labels.csv` (columns image, label, mask, patient, split; UTF-8) and files beside it,
            named relative to the folder; or with one folder of images a class.

    Raises:
        InputError: The folder is missing or empty; a row names a class that the recipe has not, a file that
            is not there, lies outside the folder or is listed twice, or another split; a patient is on both
            sides.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    table = folder / "labels.csv"
    if table.is_file():
        return Dataset(folder, recipe, _table_items(table, recipe))
    classes = class_folders(folder)
    if not classes:
        found = "has neither labels.csv nor a folder of images" if any(folder.iterdir()) else "is empty"
        raise InputError(f"{folder}: folder {found}, expected labels.csv or one folder of images a class")
    if recipe.kind == "segmentation":
        raise InputError(f"{folder}: folder has no labels.csv, which names the masks of a segmentation")
    return Dataset(folder, recipe, _folder_items(folder, classes, recipe))


def _table_items(table: Path, recipe: Recipe) -> tuple[Item, ...]:
    rows = read_table(table)
    _warn_unlabelled(table, rows, recipe)
    listed: dict[Path, int] = {}
    items = []
    for row, (patient, split) in zip(rows, split_rows(table, rows), strict=True):
        image = listed_file(table, row.line, "image", row.image)
        if image in listed:
            raise InputError(
                f"{table}: row {row.line} lists `{row.image}` again, first in row {listed[image]}"
            )
        listed[image] = row.line
        label, mask = None, None
        if recipe.kind == "classification" and row.label:
            label = _class_index(f"{table}: row {row.line}", row.label, recipe)
        if recipe.kind == "segmentation" and row.mask:
            mask = listed_file(table, row.line, "mask", row.mask)
        items.append(Item(image, label, mask, patient, split))
    return tuple(items)


def _warn_unlabelled(table: Path, rows: Sequence[Row], recipe: Recipe) -> None:
    """Say so where a table has what the other kind of task learns from, and nothing of this one's."""
    wanted, other = ("label", "mask") if recipe.kind == "classification" else ("mask", "label")
    if any(getattr(row, other) for row in rows) and not any(getattr(row, wanted) for row in rows):
        log.warning(
            "warning: %s: rows have a `%s` and none a `%s`, which a %s learns from: all count as unlabelled",
            table,
            other,
            wanted,
            recipe.kind,
        )


def _class_index(where: str, name: str, recipe: Recipe) -> int:
    if name in recipe.classes:
        return recipe.classes.index(name)
    nearest = difflib.get_close_matches(name, recipe.classes, n=1)
    raise InputError(
        f"{where}: label `{name}` is not in the recipe, expected one of {', '.join(recipe.classes)}",
        hint=f"did you mean `{nearest[0]}`?" if nearest else None,
    )


def _folder_items(folder: Path, classes: dict[str, list[Path]], recipe: Recipe) -> tuple[Item, ...]:
    items = []
    for name, files in classes.items():
        label = _class_index(str(folder / name), name, recipe)
        for path in files:
            patient = path.relative_to(folder).as_posix()
            items.append(Item(path, label, None, patient, split_of(patient)))
    return tuple(items)


@dataclass(frozen=True)
class Task:
    """A task and the sites that have images for it.

    Attributes:
        name: Of the recipe.
        folder: The task folder.
        recipe: From `task.toml`, else read off the sites' tables and some images.
        sites: Dataset folder of each site, by site name: that of its folder as a federation can spell it.
        skipped: Folders that hold no dataset, with the reason.
    """

    name: str
    folder: Path
    recipe: Recipe
    sites: dict[str, Path]
    skipped: dict[str, str]

    def site_named(self, name: str) -> str:
        """The name of a site that is called by its folder's name; any other name as it is."""
        return next((site for site, folder in self.sites.items() if folder.name == name), name)

    def datasets(self) -> dict[str, Dataset]:
        """The data set of every site, in order of name.

        Raises:
            InputError: As `read_dataset`.
        """
        return {site: read_dataset(folder, self.recipe) for site, folder in sorted(self.sites.items())}


class TaskFile(Frozen):
    """`task.toml`: what a task folder says of itself.

    Attributes:
        mask_classes: Classes of masks that lie beside labels, where `kind` is classification; not read.
        source, licence: Where the images come from and what may be done with them; not read.
    """

    kind: Kind
    classes: tuple[str, ...]
    mask_classes: tuple[str, ...] = ()
    modality: str | tuple[str, ...] = ()
    channels: Literal[1, 3] = 1
    dimensions: Literal[2, 3] = 2
    size: tuple[int, ...] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    intensity: Intensity | None = None
    source: str = ""
    licence: str = ""


def read_task(folder: Path, recipe: Recipe | None = None) -> Task:
    """Read a task folder: one dataset folder a site, and `task.toml` where there is one.

    Args:
        recipe: Taken as it is; else it is made by `default_recipe`.

    Raises:
        InputError: The folder is missing, holds no dataset folder, its `task.toml` has an unknown key, or a
            class has no patient at any site.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    sites, skipped = _sites(folder)
    if not sites:
        hint = "it is a dataset folder itself: give the folder above it" if _is_dataset(folder) else None
        raise InputError(f"{folder}: folder holds no dataset folder, expected one a site", hint=hint)
    for left_out, why in skipped.items():
        log.warning("warning: %s is passed over: it %s", folder / left_out, why)
    if recipe is None:
        name = _spelt(folder.resolve().name) or "task"
        stated = folder / "task.toml"
        facts = (
            parse_settings(TaskFile, read_toml(stated), str(stated))
            if stated.is_file()
            else _infer(folder, sites)
        )
        modality = (facts.modality,) if isinstance(facts.modality, str) else facts.modality
        recipe = default_recipe(
            name,
            facts.kind,
            facts.classes,
            tuple(code for code in modality if code),
            facts.channels,
            facts.dimensions,
            size=facts.size,
            spacing_mm=facts.spacing_mm,
            intensity=facts.intensity,
        )
    if recipe.kind == "classification":
        labels = set[str]().union(*(_labels(site) for site in sites.values()))
        missing = [name for name in recipe.classes if name not in labels]
        if labels and missing:
            raise InputError(
                f"{folder}: class `{missing[0]}` has no patient at any site, expected at least one"
            )
    return Task(recipe.name, folder, recipe, sites, skipped)


def default_recipe(
    name: str,
    kind: Kind,
    classes: Sequence[str],
    modality: Sequence[str] = (),
    channels: int = 1,
    dimensions: int = 2,
    *,
    size: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    intensity: Intensity | None = None,
) -> Recipe:
    """A recipe whose backbone, size, lift and intensity rule follow from the kind of task and of image.

    Raises:
        InputError: A value is none that a recipe can have.

    Example:
        >>> default_recipe("cells", "segmentation", ["background", "cell"], channels=3).backbone.network
        'unet'
    """
    volume = dimensions == 3
    segmentation = kind == "segmentation"
    usual = Intensity()
    if tuple(modality) == ("CT",):
        usual = Intensity(rule="range", low=-1000, high=1000)
    elif channels == 3:
        usual = Intensity(rule="range", low=0, high=255)
    widths = (8, 16, 32, 64) if volume else (16, 32, 64, 128) if segmentation else (24, 48, 96, 192)
    values: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "classes": tuple(classes),
        "modality": tuple(modality),
        "channels": channels,
        "size": tuple(size) if size else (48, 48, 48) if volume else (128, 128),
        "spacing_mm": tuple(spacing_mm) if spacing_mm else (2.0, 2.0, 2.0) if volume else None,
        "intensity": intensity or usual,
        "backbone": Backbone(network="unet" if segmentation else "residual_encoder", widths=widths),
        "lift": Lift(lift_dim=256) if volume else Lift(),
        "pixel_stride": 4,
        "priors": "dice" if segmentation else "uniform",
    }
    return parse_settings(Recipe, values, f"recipe {name}")


def _is_dataset(folder: Path) -> bool:
    return (folder / "labels.csv").is_file() or bool(class_folders(folder))


def _sites(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    sites: dict[str, Path] = {}
    skipped = {}
    # names that need no other spelling first: they stay as they are
    for child in sorted(folder.iterdir(), key=lambda child: (_spelt(child.name) != child.name, child.name)):
        if not child.is_dir() or child.name.startswith("."):
            continue
        if not _is_dataset(child):
            skipped[child.name] = "has neither labels.csv nor one folder of images a class"
        elif not (child / "labels.csv").is_file() and {"images", "masks"} & class_folders(child).keys():
            skipped[child.name] = "has folders of images but no labels.csv that lists them"
        else:
            name = _site_name(child.name, sites)
            if name != child.name:
                log.info("%s: site is called `%s`", child, name)
            sites[name] = child
    return dict(sorted(sites.items())), skipped


def _site_name(folder: str, taken: Container[str]) -> str:
    """A name that keys and contributions can carry; numbered where another site has it."""
    name = _spelt(folder) or "site"
    others = (f"{name[:60]}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], others) if one not in taken)


def _spelt(name: str) -> str:
    """A folder's name without accents, in letters, digits, `_`, `.` and `-`; empty where none is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-_.")[:64]


def _labels(site: Path) -> set[str]:
    table = site / "labels.csv"
    return {row.label for row in read_table(table)} - {""} if table.is_file() else set(class_folders(site))


def _infer(folder: Path, sites: dict[str, Path]) -> TaskFile:
    labels = set[str]().union(*(_labels(site) for site in sites.values()))
    images: list[Sequence[Path]] = []
    masks: list[Path] = []
    for site in sites.values():
        table = site / "labels.csv"
        if table.is_file():
            rows = read_table(table)
            images.append([listed_file(table, row.line, "image", row.image) for row in _some(rows)])
            masks += [
                listed_file(table, row.line, "mask", row.mask) for row in rows if row.mask and not labels
            ]
        else:
            images.append(_some([path for files in class_folders(site).values() for path in files]))
    if not labels and not masks:
        raise InputError(
            f"{folder}: no labels.csv names a label or a mask", hint="or state the classes in task.toml"
        )
    classes = sorted(labels)
    if not labels:
        highest = max(number for mask in masks for number in mask_classes(mask, 255))
        classes = ["background", *(f"class{number}" for number in range(1, max(highest, 1) + 1))]
    seen = [_Look.at(paths[0]) for paths in images]
    if seen[0].dimensions == 2:  # of volumes the first must do
        seen += [_Look.at(path) for paths in images for path in paths[1:]]
    return TaskFile(
        kind="classification" if labels else "segmentation",
        classes=tuple(classes),
        modality=tuple(sorted({look.modality for look in seen if look.modality})),
        channels=3 if any(look.coloured for look in seen) else 1,
        dimensions=3 if seen[0].dimensions == 3 else 2,
    )


def _some(all_of_it: Sequence[_T]) -> Sequence[_T]:
    """A few from beginning to end: grey and colour, or two modalities, may be mixed."""
    return all_of_it[:: -(-len(all_of_it) // _LOOKED_AT)]


@dataclass(frozen=True)
class _Look:
    """What an image tells of its task; its pixels are not held."""

    modality: str
    coloured: bool
    dimensions: int

    @classmethod
    def at(cls, path: Path) -> "_Look":
        image = read_image(path)
        coloured = any(not np.array_equal(image.pixels[0], other) for other in image.pixels[1:])
        return cls(image.modality, coloured, image.dimensions)
