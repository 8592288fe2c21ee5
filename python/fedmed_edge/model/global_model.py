"""A model: one linear head over lifted rows, its posterior, and what it was made of."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedmed_edge.atomic import read_regular
from fedmed_edge.errors import InputError
from fedmed_edge.model.posterior import Posterior, softmax
from fedmed_edge.recipe import Frozen, Recipe, parse_settings
from fedmed_edge.statistics.feature_statistics import Array64
from fedmed_edge.tensorfile import load_tensors, parse_layout, strict_json, tensor_file

FILE_CAP = 1 << 30
HEADER_CAP = 1 << 22
METADATA_KEY = "fedmed_model"

_TENSORS = ("head", "posterior_weight", "posterior_bias", "priors")


class ModelHeader(Frozen):
    """Everything about a model but its tensors."""

    format_version: Literal[1] = 1
    recipe: Recipe
    generation: str
    ridge: float = Field(ge=0)
    temperature: float = Field(gt=0)
    known_threshold: float | None
    sites: tuple[str, ...]
    contributions: tuple[str, ...]
    site_weights: dict[str, float]
    refined_for: str | None = None
    kept: Literal["global", "refined"] | None = None
    reason: str = ""
    figures: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GlobalModel:
    """What `rebuild` and `refine` make. D row width, C classes in the recipe's order.

    Attributes:
        generation: Digest of the generation that its rows come from.
        head: (D, C) float64, scores = rows · head.
        ridge: λ of the fit.
        known_threshold: Squared Mahalanobis distance above which an image is unlike those of the sites.
        sites, contributions: Names of the sites in it and ids of their contributions, in order of name.
        site_weights: a_s of the fit.
        refined_for: The site that it was refined for; then `kept` says whether the refined head or the global
            one is in it, and `reason` why.
        figures: What the fit learned on the way, as JSON values.

    Example:
        >>> recipe = Recipe(name="r", kind="classification", classes=("a", "b"))
        >>> even = Posterior(np.array([[4.0, -4.0], [-4.0, 4.0]]), np.zeros(2), 1.0, np.full(2, 0.5))
        >>> model = GlobalModel(recipe, "0" * 64, np.array([[1.0, 0.0], [0.0, 1.0]]), 1e-2, even)
        >>> model.probabilities(np.array([[1, 1]], np.float32))
        array([[0.5, 0.5]], dtype=float32)
    """

    recipe: Recipe
    generation: str
    head: Array64 = field(repr=False)
    ridge: float
    posterior: Posterior = field(repr=False)
    known_threshold: float | None = None
    sites: tuple[str, ...] = ()
    contributions: tuple[str, ...] = field(default=(), repr=False)
    site_weights: dict[str, float] = field(default_factory=dict)
    refined_for: str | None = None
    kept: Literal["global", "refined"] | None = None
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict, repr=False)

    def linear(self) -> tuple[Array64, Array64]:
        """The model in one matrix product: probabilities = softmax(rows · W + b).

        Returns:
            W (D, C) and b (C,), float64; posterior, priors and temperature included.
        """
        temperature = self.posterior.temperature
        return self.head @ self.posterior.weight / temperature, self.posterior.bias / temperature

    def probabilities(self, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Class probabilities (N, C) float32 of lifted rows (N, D): the reference for every exported form.

        Raises:
            InputError: The rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.head):
            raise InputError(f"model: `rows` has shape {rows.shape}, expected (N, {len(self.head)})")
        weight, bias = self.linear()
        return softmax(rows.astype(np.float64) @ weight + bias).astype(np.float32)

    @cached_property
    def content(self) -> bytes:
        """The file's bytes; they hold no time, counter, path or key, so equal models are equal files."""
        names = ModelHeader.model_fields.keys() - {"format_version", "temperature"}
        header = ModelHeader(
            temperature=self.posterior.temperature, **{name: getattr(self, name) for name in names}
        )
        tensors = dict(
            zip(
                _TENSORS,
                (self.head, self.posterior.weight, self.posterior.bias, self.posterior.priors),
                strict=True,
            )
        )
        return tensor_file(tensors, METADATA_KEY, header.text)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `content`, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def read_model(path: Path) -> GlobalModel:
    """Read a model file.

    Raises:
        InputError: The file is missing, cut off, or no model.
    """
    return parse_model(read_regular(path, FILE_CAP), str(path))


def parse_model(content: bytes, where: str) -> GlobalModel:
    """Parse the bytes of a model file; `where` names them in messages.

    Raises:
        InputError: The content is cut off, or no model.
    """
    layout = parse_layout(content, METADATA_KEY, where, header_cap=HEADER_CAP)
    values, tensors = strict_json(layout.said, where), load_tensors(content, layout, where)
    header = parse_settings(ModelHeader, values, where)
    _check(tensors, len(header.recipe.classes), where)
    posterior = Posterior(
        tensors["posterior_weight"], tensors["posterior_bias"], header.temperature, tensors["priors"]
    )
    fields = {name: getattr(header, name) for name in ModelHeader.model_fields}
    del fields["format_version"], fields["temperature"]
    model = GlobalModel(head=tensors["head"], posterior=posterior, **fields)
    model.__dict__["content"] = content
    return model


def _check(tensors: dict[str, npt.NDArray[Any]], classes: int, where: str) -> None:
    for name in _TENSORS:
        if name not in tensors:
            raise InputError(f"{where}: has no tensor `{name}`")
    width = tensors["head"].shape[0] if tensors["head"].ndim else 0
    shapes = {
        "head": (width, classes),
        "posterior_weight": (classes, classes),
        "posterior_bias": (classes,),
        "priors": (classes,),
    }
    for name, shape in shapes.items():
        value = tensors[name]
        if value.shape != shape:
            raise InputError(f"{where}: `{name}` has shape {value.shape}, expected {shape}")
        if value.dtype != np.float64 or not np.isfinite(value).all():
            raise InputError(f"{where}: `{name}` has {value.dtype} values, expected finite float64")
