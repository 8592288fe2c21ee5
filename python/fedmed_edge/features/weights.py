"""Backbone files, and averages of the weights of several sites."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedmed_edge.atomic import read_regular, write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.generation import Architecture
from fedmed_edge.recipe import Backbone, Frozen, Kind, Recipe, parse_settings
from fedmed_edge.statistics.header import Privacy
from fedmed_edge.tensorfile import load_tensors, parse_layout, refuse_unusable, strict_json, tensor_file

__all__ = [
    "BackboneFile",
    "BackboneHeader",
    "Weights",
    "average_weights",
    "image_weights",
    "moved_weights",
    "parse_backbone",
    "read_backbone",
    "write_backbone",
]

FILE_CAP = 1 << 30
METADATA_KEY = "fedmed_backbone"

MOST_MEDIANS = 2
"""Medians of the sites' images that one site can weigh."""

_MOST_IMAGES = 1 << 20

Weights = Mapping[str, npt.NDArray[np.generic]]


Error = Literal["tuned_error", "head_error"]


class BackboneHeader(Frozen):
    """What a backbone file says of itself.

    Attributes:
        trained_by: Sites whose data it learned from.
        images: Training images behind it.
        privacy: The noise that it was trained with.
        training: Id of the training with noise, which the site has written down.
        errors: `tuned_error` of the whole trained network on the site's held-out images, and `head_error` of
            a head solved on the generation that it started from; 0 to 1.
        start: Of norm layers that a site keeps, the training in whose rounds they go on.
    """

    format_version: Literal[1] = 1
    kind: Kind
    channels: int
    size: tuple[int, ...]
    backbone: Backbone
    recipe: str
    trained_by: tuple[str, ...] = ()
    images: int = Field(default=0, ge=0)
    errors: dict[Error, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    privacy: Privacy | None = None
    training: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""
    start: str = ""


@dataclass(frozen=True, eq=False)
class BackboneFile:
    """A trained backbone: header and weights by name."""

    header: BackboneHeader
    weights: dict[str, npt.NDArray[np.generic]] = field(repr=False)


def write_backbone(
    path: Path,
    weights: Weights,
    recipe: Recipe,
    *,
    architecture: Architecture | None = None,
    trained_by: Sequence[str] = (),
    images: int = 0,
    errors: Mapping[Error, float] | None = None,
    privacy: Privacy | None = None,
    training: str = "",
    start: str = "",
) -> None:
    """Write a backbone file (safetensors), whole or not at all.

    Args:
        weights: Tensors by name, as `backbones.state_of` gives them.
        recipe: What it was trained for.
        architecture: Of the backbone, such as the header of a generation; default the recipe's own.
        trained_by: Sites whose data it learned from.
        images: Training images behind it.
        errors, privacy, training, start: As of `BackboneHeader`.

    Raises:
        InputError: The file cannot be written.
    """
    made = architecture or recipe
    header = BackboneHeader(
        kind=made.kind,
        channels=made.channels,
        size=made.size,
        backbone=made.backbone,
        recipe=recipe.digest,
        trained_by=tuple(sorted(set(trained_by))),
        images=images,
        errors=dict(errors or {}),
        privacy=privacy,
        training=training,
        start=start,
    )
    said = json.dumps(header.model_dump(mode="json"), sort_keys=True)
    write_atomic(path, tensor_file(dict(sorted(weights.items())), METADATA_KEY, said), mode=0o600)


def read_backbone(path: Path) -> BackboneFile:
    """Read a backbone file.

    Raises:
        InputError: The file is missing, cut off, too large, no backbone file, or has NaN, Inf or
            giant values.
    """
    return parse_backbone(read_regular(path, FILE_CAP), str(path))


def parse_backbone(content: bytes, where: str) -> BackboneFile:
    """Parse the bytes of a backbone file; `where` names them in messages.

    Raises:
        InputError: As `read_backbone`.
    """
    layout = parse_layout(content, METADATA_KEY, where)
    header = parse_settings(BackboneHeader, strict_json(layout.said, where), where)
    weights = load_tensors(content, layout, where)
    for name, value in weights.items():
        refuse_unusable(name, value, where)
    return BackboneFile(header, weights)


def image_weights(images: Sequence[int]) -> list[int]:
    """What every site weighs in a mean: its training images, at most twice the median of all sites.

    Nobody can check how many images a site has. Of four sites or more none weighs more than all others
    together, whatever it claims; of an even number the lower median counts.

    Args:
        images: That each site says it has; 0 where it does not say, as with noise: it counts as the median.

    Example:
        >>> image_weights([90, 100, 120, 1_000_000])
        [90, 100, 120, 200]
        >>> image_weights([0, 100, 300])
        [100, 100, 200]
    """
    counts = [min(max(0, count), _MOST_IMAGES) for count in images]
    typical = statistics.median_low([count for count in counts if count] or [1])
    return [min(count or typical, MOST_MEDIANS * typical) for count in counts]


def average_weights(states: Sequence[Weights], counts: Sequence[float]) -> dict[str, npt.NDArray[np.generic]]:
    """FedAvg: mean of the sites' weights, each weighted by its training images.

    Sums are float64 in the given order; a tensor of whole numbers is taken from the first site.

    Args:
        states: One set of tensors a site, of equal names and shapes.
        counts: Training images of each site, not all 0.

    Raises:
        ValueError: No site, another number of counts, counts that sum to 0, or names that differ.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks, AISTATS 2017.

    Example:
        >>> average_weights([{"w": np.float32([0])}, {"w": np.float32([4])}], [3, 1])
        {'w': array([1.], dtype=float32)}
    """
    total = float(sum(counts))
    if len(states) != len(counts) or total <= 0:
        raise ValueError(f"`counts` has {list(counts)}, expected {len(states)} numbers with a positive sum")
    if any(set(state) != set(states[0]) for state in states):
        raise ValueError("weights: the sites' tensors have other names")
    average: dict[str, npt.NDArray[np.generic]] = {}
    for name, first in states[0].items():
        if first.dtype.kind != "f":
            average[name] = first.copy()
            continue
        mixed = np.zeros(first.shape, np.float64)
        for state, count in zip(states, counts, strict=True):
            mixed += np.asarray(state[name], np.float64) * (count / total)
        average[name] = mixed.astype(first.dtype)
    return average


def moved_weights(
    start: Weights, differences: Weights, where: str = "weights"
) -> dict[str, npt.NDArray[np.generic]]:
    """θ⁰ + (θ_s − θ⁰): a generation's weights, moved by the differences that were handed over.

    Sums are float64, rounded to the type of `start`.

    Args:
        where: What moves them, for the message.

    Raises:
        InputError: The differences have other names or shapes.

    Example:
        >>> moved_weights({"w": np.float32([1])}, {"w": np.float32([0.5])})
        {'w': array([1.5], dtype=float32)}
    """
    if set(start) != set(differences):
        raise InputError(f"{where}: the sites' weights have other names than the generation's")
    for name, value in start.items():
        if value.shape != differences[name].shape:
            raise InputError(f"{where}: `{name}` has shape {differences[name].shape}, expected {value.shape}")
    return {
        name: (value.astype(np.float64) + differences[name].astype(np.float64)).astype(value.dtype)
        for name, value in start.items()
    }
