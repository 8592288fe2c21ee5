"""Recipes: what a task is and how its images are prepared, as data.

A recipe is written once (`models/NAME.toml`), shared by every site of a federation and named by its
digest. The same recipe prepares images for training, for extraction and at the scanner.
"""

import hashlib
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedmed_edge.atomic import read_regular, write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.kinds import mistaken
from fedmed_edge.validation import spelt, told_fault

Kind = Literal["classification", "segmentation"]
Name = Annotated[
    str,
    spelt(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
        "1 to 64 unaccented letters, digits, `_`, `.` and `-`, first a letter or digit",
    ),
]
"""Name of a site or a task: it may stand in a file's name."""

TOML_CAP = 1 << 16


class Frozen(BaseModel):
    """A settings table: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        """By itself `true` would be 1, and as a policy's `min_cohort` let out what it is to keep in."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            kinds = {
                getattr(one, "__origin__", one) for one in (field.annotation, *get_args(field.annotation))
            }
            if isinstance(values.get(name), bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{name}: has {str(values[name]).lower()}, expected a number")
        return values

    @property
    def text(self) -> str:
        """Canonical JSON: equal tables are equal texts."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


Settings = TypeVar("Settings", bound=Frozen)


class Intensity(Frozen):
    """How stored values become network input.

    `range` maps [low, high] to [0, 1] and clips; `percentile` does so with the image's own percentiles;
    `zscore` subtracts the image's mean and divides by its deviation (channel by channel).
    """

    rule: Literal["range", "percentile", "zscore"] = "percentile"
    low: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    high: Annotated[float, Field(allow_inf_nan=False)] = 99.5

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rule != "zscore" and self.low >= self.high:
            raise ValueError(f"low: has {self.low}, expected less than high, {self.high}")
        if self.rule == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ValueError(f"low, high: have {self.low} and {self.high}, expected 0 to 100")
        return self


class Backbone(Frozen):
    """The network that makes the features: one of ours (`residual_encoder`, `unet`) or a MONAI class name."""

    network: str = "residual_encoder"
    widths: tuple[int, ...] = (24, 48, 96, 192)
    arguments: dict[str, Any] = Field(default_factory=dict)


Range = tuple[
    Annotated[float, Field(ge=0, allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]
]
"""Least and most."""


class Lift(Frozen):
    """Fixed random features on top of the standardised ones (method §1: z = [relu(f R + b), f, 1])."""

    lift_dim: Annotated[int, Field(ge=0, le=1024)] = 512
    feature_dim: Annotated[int, Field(ge=1, le=1023)] = 512


Share = Annotated[float, Field(ge=0, le=1)]


class Training(Frozen):
    """How a backbone is trained on a site's images: which domain shifts are generated, and what holds it.

    Every batch is seen as it is and shifted, which takes twice as long, unless no share is above 0. What a
    recipe leaves out is as `TRAINING` has it for its kind of task.

    Attributes:
        amplitude: Share of the images whose low-frequency amplitude moves towards another site's style, where
            styles of other sites are known.
        maps: Share whose intensities go through a random smooth curve.
        inversion: Share of these that are turned from bright to dark.
        moments: Share whose channels' means and deviations move.
        consistency: Weight of the difference between the two answers, beside the task's loss on both.
        episodic: The loss on the shifted batch is that after a step on the original one (of first order).
        proximal: μ of μ/2 ‖w − w₀‖², w₀ the weights that training starts from.
        local_norms: Rounds of a federation from one generation: norm layers go on from where they were at
            this site.
        invariance: ν, the weight that the rebuilt head gives to how far its scores of a shifted view are from
            those of the image. Where `maps` is above 0 every image has one view, of a curve as `maps` and
            `inversion` draw them.

    Source: method §6; FedDG (Liu et al., CVPR 2021), FedProx (Li et al., MLSys 2020), FedBN (Li et al., ICLR
    2021).

    Example:
        >>> TRAINING["segmentation"].shifts, TRAINING["segmentation"].without_shifts().shifts
        (True, False)
    """

    amplitude: Share = 0.0
    maps: Share = 0.0
    inversion: Share = 0.5
    moments: Share = 0.0
    consistency: Annotated[float, Field(ge=0, le=100)] = 0.0
    episodic: bool = False
    proximal: Annotated[float, Field(ge=0, le=100)] = 0.0
    local_norms: bool = False
    invariance: Annotated[float, Field(ge=0, le=100)] = 0.0

    @property
    def shifts(self) -> bool:
        """Whether any shift is generated."""
        return max(self.amplitude, self.maps, self.moments) > 0

    @property
    def compares_views(self) -> bool:
        """Whether a site tells how rows of its images differ from those of shifted views."""
        return self.invariance > 0 and self.maps > 0

    def without_shifts(self) -> "Training":
        """The same on the images as they are."""
        return self.model_copy(update={"amplitude": 0.0, "maps": 0.0, "moments": 0.0})


TRAINING: dict[Kind, Training] = {
    "classification": Training(),
    "segmentation": Training(maps=1.0, invariance=0.1),
}
"""Kind of task → defaults, chosen by sites left out in turn; the figures stand in models/README.md."""


class SeriesRules(Frozen):
    """Which DICOM series of a study the task is about, beside `modality` and `size`; empty takes any.

    Attributes:
        orientation: What the slices are nearest to.
        image_type: Values that ImageType must hold; with `!` in front, must not hold.
        description: Regular expression that is looked for in SeriesDescription, upper or lower case.
        slices: Least and most slices of a volume.
        distance_mm: Least and most distance of neighbouring slices.
        thickness_mm: Least and most SliceThickness.

    Example:
        >>> SeriesRules(image_type=("ORIGINAL", "!LOCALIZER"), distance_mm=(0, 3)).image_type
        ('ORIGINAL', '!LOCALIZER')
    """

    orientation: tuple[Literal["axial", "coronal", "sagittal"], ...] = ()
    image_type: tuple[
        Annotated[
            str, spelt(r"!?[A-Z0-9 _]{1,16}", "1 to 16 of A to Z, digits, `_` and spaces, `!` in front")
        ],
        ...,
    ] = ()
    description: Annotated[str, Field(max_length=200)] = ""
    slices: tuple[Annotated[int, Field(ge=1)], int] | None = None
    distance_mm: Range | None = None
    thickness_mm: Range | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            re.compile(self.description)
        except re.error as error:
            raise ValueError(f"description: not a regular expression: {error}") from None
        for name in ("slices", "distance_mm", "thickness_mm"):
            ends = getattr(self, name)
            if ends and not ends[0] <= ends[1]:
                raise ValueError(f"{name}: has {ends[0]} to {ends[1]}, expected the least first")
        return self


class ClassCode(Frozen):
    """What a class is, as DICOM results say it: a coded concept, and the colour it is shown in.

    Attributes:
        scheme: Coding scheme of `value`: `SCT` is SNOMED CT.
        category: What kind of thing it is: part of the body, something abnormal in it, or just a region.
        colour: Red, green and blue in hexadecimal; None: one of ours.

    Example:
        >>> ClassCode(value="10200004", meaning="Liver", category="anatomy").scheme
        'SCT'
    """

    value: Annotated[str, spelt(r"[A-Za-z0-9._-]{1,16}", "1 to 16 letters, digits, `.`, `_` and `-`")]
    meaning: Annotated[
        str, spelt(r"[^\x00-\x1f\\]{1,64}", "1 to 64 characters, no control character or backslash")
    ]
    scheme: Annotated[str, spelt(r"[A-Z0-9_.-]{1,16}", "1 to 16 of A to Z, digits, `_`, `.` and `-`")] = "SCT"
    category: Literal["anatomy", "abnormality", "region"] = "region"
    colour: Annotated[str, spelt(r"#[0-9a-fA-F]{6}", "`#` and 6 hexadecimal digits")] | None = None


class Recipe(Frozen):
    """One task: its classes and its preprocessing; and what the next generation should be made of.

    Attributes:
        size: Rows and columns of the network's input (2-D), or the window in voxels along the patient's
            x, y, z axes (3-D).
        spacing_mm: Voxel spacing along x, y, z that volumes are resampled to (3-D only).
        modality: DICOM modalities that are taken; empty takes any.
        series: Which series of a DICOM study the task is about.
        codes: Class name → what DICOM results call it; a class without gets a private code.
        pixel_stride: Step of the grid on which segmentation rows are sampled, in pixels of `size`.
        priors: Class priors of the posteriors: `uniform`, `counted` from the contributions, or `dice`: for a
            segmentation, those between both whose masks have the greatest Dice that is to be expected.
        training: How the backbone is trained.

    Example:
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("benign", "malignant"))
        >>> recipe.dimensions, len(recipe.digest)
        (2, 64)
    """

    name: Name
    kind: Kind
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=1000)]
    modality: tuple[str, ...] = ()
    channels: Literal[1, 3] = 1
    size: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)] = (128, 128)
    spacing_mm: tuple[float, float, float] | None = None
    intensity: Intensity = Intensity()
    series: SeriesRules = SeriesRules()
    codes: dict[str, ClassCode] = Field(default_factory=dict)
    backbone: Backbone = Backbone()
    lift: Lift = Lift()
    training: Training = Training()
    pixel_stride: Annotated[int, Field(ge=1, le=64)] = 4
    priors: Literal["uniform", "counted", "dice"] = "uniform"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: has a name twice")
        if any(not name or len(name) > 64 for name in self.classes):
            raise ValueError("classes: a name is empty or longer than 64 characters")
        if not all(name.isprintable() for name in self.classes):
            raise ValueError("classes: a name has a control character")
        for name in self.codes:
            if name not in self.classes:
                raise ValueError(f"codes: has {name}, expected one of {', '.join(self.classes)}")
        if any(not 8 <= side <= 1024 for side in self.size):
            raise ValueError(f"size: has {self.size}, expected sides of 8 to 1024")
        if math.prod(self.size) > 1 << 24:
            raise ValueError(f"size: has {math.prod(self.size)} elements, expected at most {1 << 24}")
        if (self.dimensions == 3) != (self.spacing_mm is not None):
            raise ValueError("spacing_mm: expected for a size of three numbers, and only there")
        if self.spacing_mm is not None and any(not 0.05 <= mm <= 50 for mm in self.spacing_mm):
            raise ValueError(f"spacing_mm: has {self.spacing_mm}, expected 0.05 to 50")
        if self.priors == "dice" and self.kind != "segmentation":
            raise ValueError("priors: has dice, expected uniform or counted for a classification")
        return self

    @model_validator(mode="before")
    @classmethod
    def _trained_as_its_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kind, given = values.get("kind"), values.get("training", {})
        if not isinstance(kind, str) or kind not in TRAINING or not isinstance(given, dict):
            return values  # each field's own check says what is wrong
        return {**values, "training": {**TRAINING[kind].model_dump(), **given}}

    @model_serializer(mode="wrap")
    def _as_written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without tables that say nothing: recipes from before there were any keep their digests."""
        values: dict[str, Any] = serialise(self)
        if self.series == SeriesRules():
            values.pop("series", None)
        if self.training == TRAINING[self.kind]:
            values.pop("training", None)
        if not self.codes:
            values.pop("codes", None)
        return values

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.size)

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's content, in hexadecimal; layout and comments of its file do not count."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_recipe(path: Path | str) -> Recipe:
    r"""Read a recipe file.

    Raises:
        InputError: The file is missing, is no TOML, or has a key or value that a recipe cannot have.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lesion.toml"
        >>> lines = ['name = "lesion"', 'kind = "classification"', 'classes = ["benign", "malignant"]']
        >>> _ = path.write_text("\n".join(lines))
        >>> read_recipe(path).classes
        ('benign', 'malignant')
    """
    return parse_settings(Recipe, read_toml(Path(path)), str(path))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe file, whole or not at all.

    Raises:
        InputError: It cannot be written.

    Example:
        >>> import tempfile
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("benign", "malignant"))
        >>> path = Path(tempfile.mkdtemp()) / "lesion.toml"
        >>> write_recipe(path, recipe)
        >>> read_recipe(path) == recipe
        True
    """
    values = recipe.model_dump(mode="json", exclude_none=True)
    write_atomic(path, ("\n".join(toml_lines(values)) + "\n").encode())


def toml_lines(values: dict[str, Any], title: str = "") -> list[str]:
    """A table as lines of TOML, the tables in it behind its own keys; `title` is its name and a dot."""
    tables = {name: table for name, table in values.items() if isinstance(table, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{title}{name}]", *toml_lines(table, f"{title}{name}.")]
    return lines


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most 64 KiB.

    Raises:
        InputError: The file is missing, unreadable, too large or no TOML.
    """
    content = read_regular(path, TOML_CAP)
    if any(line.count(b".") + line.count(b"[") + line.count(b"{") > 200 for line in content.splitlines()):
        raise InputError(f"{path}: not a readable TOML file: a line is nested too deeply")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        if said := mistaken(content, "TOML file"):
            raise InputError(f"{path}: {said}") from None
        raise InputError(f"{path}: not a readable TOML file: {error}") from None


def parse_settings(model: type[Settings], values: dict[str, Any], where: str) -> Settings:
    """Check `values` against a settings table.

    Args:
        where: What the values come from, for the message.

    Raises:
        InputError: With the first fault; an unknown key names the nearest known one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        told, hint = told_fault(failure, _keys(model))
        raise InputError(f"{where}: {told}", hint=hint) from None


def _keys(model: type[BaseModel]) -> list[str]:
    keys = list(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation)
    return keys
