"""What an exported model says of itself: all that inference needs to know, as data.

Importing this module loads no runtime, no ONNX and no torch.
"""

import base64
import binascii
import json
import math
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import Frozen, Recipe, parse_settings

METADATA_KEY = "fedmed"
"""Key of the manifest among an ONNX model's metadata."""


Precision = Literal["fp32", "fp16", "int8"]
"""Numbers that a network is computed with."""

TOLERANCES: dict[Precision, tuple[float, float]] = {
    "fp32": (1e-3, 1e-2),
    "fp16": (1e-2, 5e-2),
    "int8": (1e-1, 2e-1),
}
"""How far probabilities may be off, and a distance relative to it: as `Sample.difference`."""

Float32 = npt.NDArray[np.float32]
Side = Annotated[int, Field(ge=1, le=1024)]


class Sample(Frozen):
    """An image that every machine can make from a few numbers, and what the model answers to it.

    Attributes:
        shape: Channels and sides of the coarse image.
        values: Its values 0 to 255 as bytes, in base64; stretched linearly to the network's input, 255 is 1.
        at: Indices along each axis whose probabilities were kept; empty for a classification.
        probabilities: Class by class, of the image or of each place of `at`, the last axis running fastest.
        distance: Squared Mahalanobis distance.
    """

    shape: tuple[Side, ...]
    values: Annotated[str, Field(max_length=1 << 14)]
    at: tuple[tuple[int, ...], ...] = ()
    probabilities: Annotated[tuple[float, ...], Field(min_length=1, max_length=1 << 17)]
    distance: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            count = len(base64.b64decode(self.values, validate=True))
        except binascii.Error:
            raise ValueError("values: not base64") from None
        if count != math.prod(self.shape):
            raise ValueError(f"values: has {count} bytes, expected {math.prod(self.shape)}")
        return self

    def image(self, size: tuple[int, ...]) -> Float32:
        """The image (channels, *size) float32."""
        coarse = np.frombuffer(base64.b64decode(self.values), np.uint8).reshape(self.shape)
        return stretched(coarse, size)

    def difference(self, probabilities: npt.NDArray[np.float32], distance: float) -> tuple[float, float]:
        """How far an answer is off.

        Args:
            probabilities: (C,) or (C, *size) float32.
            distance: Squared Mahalanobis distance.

        Returns:
            The largest difference of a class's probability, its mean over the places; the difference of the
            distance, relative to it.

        Raises:
            InputError: `probabilities` has other classes or sides than the sample.
        """
        rows = probabilities[None]
        try:
            if self.at:
                places: tuple[Any, ...] = (slice(None), *np.ix_(*self.at))
                rows = np.moveaxis(probabilities[places], 0, -1).reshape(-1, len(probabilities))
            off = np.abs(rows - np.reshape(self.probabilities, rows.shape))
        except (IndexError, ValueError):
            raise InputError(
                f"sample: `probabilities` has shape {probabilities.shape}, expected one that fits the sample"
            ) from None
        return float(off.max(axis=1).mean()), abs(distance - self.distance) / max(self.distance, 1.0)


def stretched(coarse: npt.NDArray[np.uint8], size: tuple[int, ...]) -> Float32:
    """Stretch values 0 to 255 of a coarse image linearly from corner to corner, to 0 to 1.

    Args:
        coarse: (channels, *cells) uint8.
        size: Sides of the image.

    Returns:
        (channels, *size) float32.

    Example:
        >>> stretched(np.array([[0, 255]], np.uint8), (5,))
        array([[0.  , 0.25, 0.5 , 0.75, 1.  ]], dtype=float32)
    """
    image = coarse / 255.0
    for axis, side in enumerate(size, start=1):
        place = np.linspace(0, image.shape[axis] - 1, side)
        low = np.minimum(place.astype(np.intp), image.shape[axis] - 1)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        share = (place - low).reshape(-1, *[1] * (image.ndim - axis - 1))
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return np.ascontiguousarray(image, np.float32)


class Manifest(Frozen):
    """The manifest of an exported model, in its metadata as JSON.

    Attributes:
        format_version: 2; a manifest of version 1 has no `precision`, `built_for` and `sample`.
        recipe: The whole recipe: preprocessing as data, classes, task.
        recipe_digest, generation, model: Digests of what it was made from.
        known_threshold: Squared Mahalanobis distance of an image above which it is unlike the sites' images;
            None: cannot be told.
        priors: Class priors of the probabilities, in the order of `recipe.classes`.
        temperature: The one temperature in them.
        absent: Classes that no site had; they always come out as 0.
        sites: How many sites are in it; their names stay at the server.
        refined_for: The site that it was refined for, and whether the refined head is in it.
        contributions: Ids of the contributions in it.
        provenance: In words, for the model card.
        withdrawn_notice: What a withdrawal does and does not take out of it.
        precision: Numbers that its network is computed with.
        built_for: GPU, driver and versions that an engine within the file was built for; empty: any machine.
        sample: An input with the answer of the reference in it; None where it was made without a runtime.
    """

    format_version: Literal[1, 2] = 2
    recipe: Recipe
    recipe_digest: str
    generation: str
    model: str
    known_threshold: float | None
    priors: tuple[float, ...]
    temperature: float
    ridge: float
    absent: tuple[str, ...] = ()
    sites: int = Field(ge=1)
    refined_for: str | None = None
    kept: Literal["global", "refined"] | None = None
    contributions: tuple[str, ...]
    provenance: str
    withdrawn_notice: str
    precision: Precision = "fp32"
    built_for: str = ""
    sample: Sample | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.recipe.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.recipe.classes

    def sample_fault(self, probabilities: npt.NDArray[np.float32], distance: float) -> str:
        """What is wrong with an answer to the sample; empty where nothing is, or there is no sample.

        Args:
            probabilities: (C,) or (C, *size) float32.
            distance: Squared Mahalanobis distance.

        Raises:
            InputError: `probabilities` does not fit the sample.
        """
        if self.sample is None:
            return ""
        off = self.sample.difference(probabilities, distance)
        for name, got, wanted in zip(
            ("probabilities", "distance"), off, TOLERANCES[self.precision], strict=True
        ):
            if not got <= wanted:
                return f"sample: `{name}` is off by {got:.2g}, expected at most {wanted:g}"
        return ""


class Ports(NamedTuple):
    """Names in the graph: of a task's input, and of the two outputs that answer it."""

    image: str = "image"
    probabilities: str = "probabilities"
    distance: str = "distance"


ONE_TASK = Ports()
"""Of a file of one task."""


class TasksManifest(Frozen):
    """The manifest of a file that answers several tasks: theirs, one beside the other.

    Attributes:
        format_version: 3; that of one task is a `Manifest`.
        tasks: In the order of their names, each once.
    """

    format_version: Literal[3] = 3
    tasks: Annotated[tuple[Manifest, ...], Field(min_length=2, max_length=64)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [one.task for one in self.tasks]
        if names != sorted(set(names)):
            raise ValueError(f"tasks: have the names {', '.join(names)}, expected each once, in their order")
        if any(one.precision != "fp32" or one.built_for for one in self.tasks):
            raise ValueError("tasks: one is not fp32 for any machine, as files of several tasks are")
        inputs: dict[str, set[tuple[int, ...]]] = {}
        for one in self.tasks:
            inputs.setdefault(one.generation, set()).add((one.recipe.channels, *one.recipe.size))
        if any(len(shapes) > 1 for shapes in inputs.values()):
            raise ValueError("tasks: those of one generation have images of different size or channels")
        return self

    @property
    def ports(self) -> tuple[Ports, ...]:
        """Of each task: the outputs go by its name, the input by the number of its generation."""
        generations = list(dict.fromkeys(one.generation for one in self.tasks))
        images = [f"image{generations.index(one.generation)}" for one in self.tasks]
        return tuple(
            Ports(image, f"{one.task}/probabilities", f"{one.task}/distance")
            for image, one in zip(images, self.tasks, strict=True)
        )


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse and check the manifest of a file of one task; `where` names the file in messages.

    Raises:
        InputError: It is no JSON, lacks a field, contradicts itself, or is of several tasks.
    """
    ((manifest, _), *others) = parse_manifests(text, where)
    if others:
        names = ", ".join([manifest.task, *(one.task for one, _ in others)])
        raise InputError(
            f"{where}: answers {1 + len(others)} tasks, {names}, expected one",
            hint="`fedmed-server export --task T` writes the model of one",
        )
    return manifest


def parse_manifests(text: str, where: str) -> tuple[tuple[Manifest, Ports], ...]:
    """Parse and check the manifest of every task of a file, and where in the graph it is answered.

    Raises:
        InputError: It is no JSON, lacks a field, or contradicts itself.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: manifest: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: manifest: has {type(values).__name__}, expected a JSON object")
    if "tasks" not in values:
        manifest = parse_settings(Manifest, values, f"{where}: manifest")
        _check(manifest, where)
        return ((manifest, ONE_TASK),)
    several = parse_settings(TasksManifest, values, f"{where}: manifest")
    for manifest in several.tasks:
        _check(manifest, where)
    return tuple(zip(several.tasks, several.ports, strict=True))


def _check(manifest: Manifest, where: str) -> None:
    if manifest.recipe.digest != manifest.recipe_digest:
        raise InputError(
            f"{where}: manifest: `recipe_digest` has {manifest.recipe_digest[:12]}, "
            f"expected {manifest.recipe.digest[:12]}"
        )
    if len(manifest.priors) != len(manifest.classes):
        raise InputError(
            f"{where}: manifest: `priors` has {len(manifest.priors)} values, expected {len(manifest.classes)}"
        )
