"""A generation: the one feature map that every site of a federation shares.

One safetensors file holds the backbone's weights, its ONNX encoder, the standardisation, the optional
projection, the fixed lift and the reference Gaussian of image features. It is immutable, named by the SHA-256
of the file and signed by the server that published it. A generation whose `lift_dim` is 0 and which has no
standardisation yet is a *draft*: sites measure their features under it, and from those sums the server
completes it.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedmed_edge.atomic import read_regular
from fedmed_edge.encoder_graph import check_encoder
from fedmed_edge.errors import InputError
from fedmed_edge.recipe import Backbone, Frozen, Kind, Name, parse_settings
from fedmed_edge.tensorfile import (
    LARGEST,
    Tensor,
    load_tensors,
    parse_layout,
    refuse_unusable,
    strict_json,
    tensor_file,
)

FILE_CAP: Final = 1 << 32
METADATA_KEY: Final = "fedmed_generation"

ROW_DIM_CAP: Final = 1024
"""Widest lifted row D of a completed generation."""

RAW_CAP: Final = 8191
"""Most channels of all scales together: a row of a draft is one wider, and a contribution's at most 8,192."""

NETWORKS: Final = re.compile(
    r"residual_encoder|unet|UNet|SegResNet|ViT|ResNet|resnet(10|18|34|50|101|152|200)"
    r"|DenseNet(121|169|201|264)?"
)
"""Names of the networks that a backbone can be: ours, and MONAI's."""

_SIZE_CAP = 1 << 24

_LEAST_GAP = 1e-3

Sides = Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=2, max_length=3)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=RAW_CAP)], ...], Field(min_length=1, max_length=64)]

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]


class Architecture(Protocol):
    """What a backbone is built from: a recipe says it, and so does the header of a generation."""

    @property
    def kind(self) -> Kind:
        """For `segmentation` the input itself is the first scale."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the input."""
        ...

    @property
    def size(self) -> tuple[int, ...]:
        """Sides of the input."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The network."""
        ...


class GenerationHeader(Frozen):
    """What a generation says of itself.

    Attributes:
        kind: What the backbone was made for: for `segmentation` the input itself is its first scale. Recipes
            of either kind may share it; theirs says whether rows are images or pixels.
        size: Input size of the encoder, as in the recipe it was made from.
        widths: Channels of every scale, in the order of the encoder's outputs; for segmentation the first
            scale is the input itself.
        seed: Seed that the lift was drawn from.
        trained_by: Sites whose data the backbone learned from.
        measured_at: Sites on whose images standardisation and reference Gaussian were measured; none in a
            draft.
        reference_images: How many images they had.
    """

    format_version: Literal[1] = 1
    kind: Kind
    channels: Literal[1, 3]
    size: Sides
    backbone: Backbone
    widths: Widths
    lift_dim: Annotated[int, Field(ge=0, lt=ROW_DIM_CAP)]
    seed: Annotated[int, Field(ge=0, le=1 << 53)] = 0
    trained_by: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    measured_at: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    reference_images: Annotated[int, Field(ge=0, le=1 << 53)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if math.prod(self.size) > _SIZE_CAP:
            raise ValueError(f"size: has {math.prod(self.size)} elements, expected at most {_SIZE_CAP}")
        if sum(self.widths) > RAW_CAP:
            raise ValueError(f"widths: have {sum(self.widths)} channels, expected at most {RAW_CAP}")
        if not NETWORKS.fullmatch(self.backbone.network):
            raise ValueError(f"backbone: has an unknown network {ascii(self.backbone.network)[:40]}")
        for field_name in ("trained_by", "measured_at"):
            names = getattr(self, field_name)
            if len(set(names)) != len(names):
                raise ValueError(f"{field_name}: has a name twice")
        return self


@dataclass(frozen=True, eq=False)
class Generation:
    """Backbone, standardisation and lift; F0 raw features, F after projection, L lifted, D = L + F + 1.

    Attributes:
        weights: Backbone weights by name (for training and for the next generation).
        encoder: Serialised ONNX model: image (1, channels, *size) float32 → one map a scale (1, C_k, *s_k).
        mean, deviation: (F0,) float32, of the rows that are lifted.
        projection: (F0, F) float32, applied to standardised features; None: F = F0.
        lift_weight, lift_bias: (F, L) and (L,) float32.
        reference_mean, reference_covariance: (F,) and (F, F) float64, of pooled standardised image features;
            None in a draft.
    """

    header: GenerationHeader
    weights: dict[str, npt.NDArray[np.generic]] = field(repr=False)
    encoder: bytes = field(repr=False)
    mean: Array = field(repr=False)
    deviation: Array = field(repr=False)
    projection: Array | None = field(repr=False)
    lift_weight: Array = field(repr=False)
    lift_bias: Array = field(repr=False)
    reference_mean: Array64 | None = field(repr=False)
    reference_covariance: Array64 | None = field(repr=False)

    @property
    def feature_dim(self) -> int:
        """F, width of the standardised (and projected) features."""
        return int(self.mean.shape[0] if self.projection is None else self.projection.shape[1])

    @property
    def row_dim(self) -> int:
        """D = L + F + 1, width of a lifted row."""
        return self.header.lift_dim + self.feature_dim + 1

    @property
    def draft(self) -> bool:
        """True while standardisation, lift and reference Gaussian are still to be measured."""
        return self.reference_mean is None

    @cached_property
    def whitening(self) -> Array64:
        """(F, F) float64 matrix A with d² = ‖(f − reference mean) A‖²: inverse Cholesky factor, transposed.

        The reference covariance was shrunk when the generation was completed. The exported model holds this
        very matrix.

        Raises:
            InputError: The generation is a draft, or its reference covariance is not positive definite.
        """
        if self.reference_covariance is None:
            raise InputError(
                "generation: is a draft, which has no reference Gaussian to measure distances by",
                hint="complete it with the statistics of the sites that trained it",
            )
        try:
            factor = np.linalg.cholesky(self.reference_covariance)
        except np.linalg.LinAlgError:
            raise InputError("generation: `reference_covariance` is not positive definite") from None
        return np.ascontiguousarray(np.linalg.inv(factor).T)

    def squared_distance(self, features: npt.NDArray[np.floating]) -> Array64:
        """Squared Mahalanobis distance of image features to the reference.

        Args:
            features: (N, F) pooled, standardised (and projected), one row an image.

        Returns:
            (N,) float64.

        Raises:
            InputError: The generation is a draft, or the features have another width.

        Source: method §4.
        """
        whitening = self.whitening
        if features.ndim != 2 or features.shape[1] != len(whitening):
            raise InputError(
                f"generation: `features` has shape {features.shape}, expected (N, {len(whitening)})"
            )
        assert self.reference_mean is not None  # `whitening` refused a draft
        # One row at a time, so that a row's bits never depend on the rows beside it.
        centred = features.astype(np.float64) - self.reference_mean
        return np.array([float(np.sum((row @ whitening) ** 2)) for row in centred])

    def left_out(self, squared: float) -> float:
        """Squared distance of an image of the reference, as if the reference had been measured without it.

        An image pulls mean and covariance towards itself, the more so the fewer images there are for the
        width of the features; a new image does not. d²·n/(n − 1) / (1 − (1 − s)·d²/(n − 1)), by the inverse
        of a rank-one change of the share 1 − s of the covariance that is not shrunk; that its level moves too
        is left out.

        Args:
            squared: d² of the image to this reference of n images.

        Source: Sherman and Morrison 1950; method §4.
        """
        others = self.header.reference_images - 1
        if others < 1:
            return squared
        return squared * (others + 1) / others / max(1.0 - (1.0 - SHRINKAGE) * squared / others, _LEAST_GAP)

    @cached_property
    def content(self) -> bytes:
        """The file's bytes."""
        tensors: dict[str, Tensor] = {f"weights/{name}": value for name, value in self.weights.items()}
        tensors["encoder"] = np.frombuffer(self.encoder, np.uint8)
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value
        header = json.dumps(self.header.model_dump(mode="json"), sort_keys=True)
        return tensor_file(tensors, METADATA_KEY, header)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `content`, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


SHRINKAGE = 0.1
"""Share of its mean diagonal that a covariance of image features is shrunk by."""


def shrink(covariance: Array64) -> Array64:
    """0.9 · Σ + 0.1 · mean(diag Σ) · I: a covariance of few images, made safe to invert.

    Args:
        covariance: (F, F); one of all zeros becomes the identity.

    Source: method §4.

    Example:
        >>> shrink(np.diag([1.0, 3.0]))
        array([[1.1, 0. ],
               [0. , 2.9]])
    """
    level = float(np.trace(covariance)) / len(covariance)
    if level <= 0.0:
        return np.eye(len(covariance))
    out: Array64 = (1.0 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(len(covariance))
    return out


_ARRAYS = {
    "mean": np.float32,
    "deviation": np.float32,
    "projection": np.float32,
    "lift_weight": np.float32,
    "lift_bias": np.float32,
    "reference_mean": np.float64,
    "reference_covariance": np.float64,
}
_OPTIONAL = {"projection", "reference_mean", "reference_covariance"}
_SYMMETRIC = 1e-9


def read_generation(path: Path) -> Generation:
    """Read a generation file and check that its header, encoder and tensors fit together.

    Its signature is not checked here: a hospital gives `parse_generation` the bytes that `verify_file`
    checked.

    Raises:
        InputError: The file is missing, cut off, or no generation that can be used.
    """
    return parse_generation(read_regular(path, FILE_CAP), str(path))


def parse_generation(content: bytes, where: str) -> Generation:
    """Parse the bytes of a generation file; `where` names them in messages.

    Raises:
        InputError: The content is cut off, or no generation that can be used.
    """
    layout = parse_layout(content, METADATA_KEY, where)
    header = parse_settings(GenerationHeader, strict_json(layout.said, where), where)
    tensors = load_tensors(content, layout, where)
    for name, value in tensors.items():
        if name not in {"encoder", *_ARRAYS} and not name.startswith("weights/"):
            raise InputError(f"{where}: unknown tensor `{name}`")
        refuse_unusable(name, value, where, largest=LARGEST**2 if name == "reference_covariance" else LARGEST)
    generation = Generation(
        header=header,
        weights={k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")},
        encoder=_encoder(tensors, where),
        **{name: tensors.get(name) for name in _ARRAYS},  # type: ignore[arg-type]
    )
    _check_shapes(generation, where)
    _check_values(generation, where)
    check_encoder(
        generation.encoder,
        channels=header.channels,
        size=header.size,
        widths=header.widths,
        where=where,
    )
    generation.__dict__["content"] = content
    return generation


def encoder_of(content: bytes, where: str) -> bytes:
    """The encoder in the bytes of a generation file that was checked before; all else is left alone.

    Raises:
        InputError: The content is no generation.
    """
    layout = parse_layout(content, METADATA_KEY, where)
    entry = layout.entries.get("encoder")
    if entry is None:
        raise InputError(f"{where}: has no tensor `encoder`")
    return content[layout.data_start + entry.begin : layout.data_start + entry.end]


def _encoder(tensors: dict[str, Tensor], where: str) -> bytes:
    value = tensors.get("encoder")
    if value is None:
        raise InputError(f"{where}: has no tensor `encoder`")
    if value.dtype != np.uint8 or value.ndim != 1:
        raise InputError(f"{where}: `encoder` has {value.dtype} values, expected the bytes of an ONNX model")
    return value.tobytes()


def _check_shapes(generation: Generation, where: str) -> None:
    raw, lifted = sum(generation.header.widths), generation.header.lift_dim
    for name, dtype in _ARRAYS.items():
        value = getattr(generation, name)
        if value is None and name not in _OPTIONAL:
            raise InputError(f"{where}: has no tensor `{name}`")
        if value is not None and value.dtype != dtype:
            raise InputError(f"{where}: `{name}` has {value.dtype} values, expected {np.dtype(dtype)}")
    if generation.mean.ndim != 1:
        raise InputError(f"{where}: `mean` has {generation.mean.ndim} axes, expected 1")
    if generation.projection is not None and generation.projection.ndim != 2:
        raise InputError(f"{where}: `projection` has {generation.projection.ndim} axes, expected 2")
    features = generation.feature_dim
    shapes = {
        "mean": (raw,),
        "deviation": (raw,),
        "projection": (raw, features),
        "lift_weight": (features, lifted),
        "lift_bias": (lifted,),
        "reference_mean": (features,),
        "reference_covariance": (features, features),
    }
    for name, shape in shapes.items():
        value = getattr(generation, name)
        if value is not None and value.shape != shape:
            raise InputError(f"{where}: `{name}` has shape {value.shape}, expected {shape}")
    if (generation.reference_mean is None) != (generation.reference_covariance is None):
        raise InputError(f"{where}: has half a reference Gaussian")
    if not generation.draft and generation.row_dim > ROW_DIM_CAP:
        raise InputError(f"{where}: rows have width {generation.row_dim}, expected at most {ROW_DIM_CAP}")


def _check_values(generation: Generation, where: str) -> None:
    least = float(generation.deviation.min())
    if least < 1 / LARGEST:
        raise InputError(f"{where}: `deviation` has {least:.3g}, expected at least {1 / LARGEST:g}")
    covariance = generation.reference_covariance
    if covariance is None:
        return
    if np.abs(covariance - covariance.T).max() > _SYMMETRIC * np.abs(covariance).max():
        raise InputError(f"{where}: `reference_covariance` is not symmetric")
    try:
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise InputError(f"{where}: `reference_covariance` is not positive definite") from None
