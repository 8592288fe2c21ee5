"""Sums to named tensors and back: the content of a contribution file, tensor by tensor."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmed_edge.config import Part
from fedmed_edge.statistics.calibration import COLUMNS, TEMPERATURES
from fedmed_edge.statistics.feature_statistics import REST, FeatureStatistics, packed_length
from fedmed_edge.statistics.header import ContributionHeader
from fedmed_edge.statistics.privacy import noisy_patients

Tensor = npt.NDArray[Any]
Tensors = dict[str, Tensor]

WEIGHT_NAME: Final = re.compile(r"^weights/[A-Za-z0-9_.]{1,200}$")
_MAX_AXES = 8


class TensorRule(NamedTuple):
    """What a tensor of a contribution must look like.

    Attributes:
        dtype: As safetensors writes it.
        shape: None for an axis that the file itself decides.
        meaning: For people.
        required: Whether it must be there when its part is.
    """

    part: Part
    dtype: str
    shape: tuple[int | None, ...]
    meaning: str
    required: bool = True


def tensor_rules(header: ContributionHeader) -> dict[str, TensorRule]:
    """Every tensor that a contribution with this header may hold, weights apart."""
    if header.privacy is not None and "classes" in header.parts:
        shape = (len(header.classes), packed_length(header.row_dim))
        return {"rest_grams": TensorRule("classes", "F64", shape, "Gram of the rows with noise, by class")}
    classes, width = len(header.classes), header.row_dim
    packed, images = packed_length(width), packed_length(header.feature_dim + 1)
    rules = {
        "class_counts": TensorRule("classes", "I64", (classes,), "rows of every class"),
        "class_sums": TensorRule("classes", "F64", (classes, width), "sum of the rows of every class"),
        "patients": TensorRule("classes", "I64", (classes,), "patients behind every class"),
        "class_grams": TensorRule(
            "classes", "F64", (header.folds, classes, packed), "Gram of the rows, by fold and class"
        ),
        "rest_grams": TensorRule(
            "classes", "F64", (classes, packed), "Gram of the rows that are never held out, by class", False
        ),
        "unlabelled_gram": TensorRule("unlabelled", "F64", (packed,), "Gram of the rows without a class"),
        "shift_gram": TensorRule(
            "shifts", "F64", (packed,), "Gram of [Δ, 1], Δ between rows and those of shifted views"
        ),
        "image_gram": TensorRule("images", "F64", (images,), "Gram of [feature, 1], one row an image"),
        "distance_moments": TensorRule("images", "F64", (3,), "count, Σd², Σd⁴ to the reference"),
        "channel_moments": TensorRule(
            "channels", "F64", (3, None), "count, sum, sum of squares by backbone channel"
        ),
        "style_count": TensorRule("style", "F64", (1,), "images in the style sums"),
        "style_sum": TensorRule("style", "F64", (None, None, None), "sum of low-frequency log-amplitudes"),
        "style_square": TensorRule("style", "F64", (None, None, None), "sum of their squares"),
        "calibration": TensorRule(
            "calibration", "F64", (len(TEMPERATURES), COLUMNS), "binned validation counts by temperature"
        ),
    }
    if not header.folds:
        del rules["class_grams"]
    return {name: rule for name, rule in rules.items() if rule.part in header.parts}


def weight_rule(axes: int) -> TensorRule:
    """What a weight tensor of so many axes must look like."""
    return TensorRule("weights", "F32", (None,) * min(axes, _MAX_AXES), "weights θ_s − θ⁰ of the local model")


def parts_of(statistics: FeatureStatistics | None, weights: Mapping[str, Tensor] | None) -> set[Part]:
    """Parts that hold something."""
    parts: set[Part] = {"weights"} if weights else set()
    if statistics is None:
        return parts
    held: dict[Part, bool] = {
        "classes": bool(statistics.blocks),
        "unlabelled": bool(statistics.unlabelled[-1]),
        "shifts": bool(statistics.shift_gram[-1]),
        "images": bool(statistics.image_gram[-1]),
        "channels": statistics.channel_moments.size > 0,
        "style": statistics.style_sum.size > 0,
        "calibration": statistics.calibration is not None,
    }
    return parts | {part for part, holds in held.items() if holds}


def restrict(statistics: FeatureStatistics, parts: Collection[Part]) -> FeatureStatistics:
    """The sums with nothing in them but the named parts."""
    empty = FeatureStatistics(statistics.classes, statistics.row_dim, statistics.feature_dim)
    gone = [name for part, names in _FIELDS.items() if part not in parts for name in names]
    return replace(statistics, **{name: getattr(empty, name) for name in gone})


def to_tensors(
    statistics: FeatureStatistics | None, parts: Iterable[Part], *, private: bool = False
) -> Tensors:
    """Tensors of the named parts of the sums; arrays are shared where they can be.

    Args:
        private: Noisy Grams go alone: whatever else there is to say is read from them.
    """
    if statistics is None:
        return {}
    if private:
        return {"rest_grams": statistics.rest_grams}
    tensors: Tensors = {}
    for part in parts:
        tensors |= _part_tensors(statistics, part)
    return tensors


def _part_tensors(statistics: FeatureStatistics, part: Part) -> Tensors:
    match part:
        case "classes":
            tensors: Tensors = {
                "class_counts": statistics.class_counts.astype(np.int64),
                "class_sums": statistics.class_sums,
                "patients": statistics.patients,
            }
            if statistics.folds:
                tensors["class_grams"] = statistics.class_grams
            if any(fold == REST for fold, _ in statistics.blocks):
                tensors["rest_grams"] = statistics.rest_grams
            return tensors
        case "unlabelled":
            return {"unlabelled_gram": statistics.unlabelled}
        case "shifts":
            return {"shift_gram": statistics.shift_gram}
        case "images":
            return {
                "image_gram": statistics.image_gram,
                "distance_moments": statistics.distance_moments,
            }
        case "channels":
            return {"channel_moments": statistics.channel_moments}
        case "style":
            return {
                "style_count": np.array([statistics.style_count]),
                "style_sum": statistics.style_sum,
                "style_square": statistics.style_square,
            }
        case "calibration":
            return {} if statistics.calibration is None else {"calibration": statistics.calibration}
        case "weights":
            return {}


def to_statistics(header: ContributionHeader, tensors: Mapping[str, Tensor]) -> FeatureStatistics | None:
    """The sums of checked tensors, which are shared and not copied; None where there are weights alone."""
    if header.parts == ("weights",):
        return None
    blocks = {}
    for fold, grams in enumerate(tensors.get("class_grams", ())):
        blocks.update({(fold, index): gram for index, gram in enumerate(grams) if gram[-1]})
    for index, gram in enumerate(tensors.get("rest_grams", ())):
        if gram[-1]:
            blocks[REST, index] = gram
    fields = {name: tensors[name] for name in _SAME_NAME if name in tensors}
    if header.privacy is not None:
        fields["patients"] = noisy_patients(blocks, len(header.classes), header.privacy.rows)
    if "unlabelled_gram" in tensors:
        fields["unlabelled"] = tensors["unlabelled_gram"]
    return FeatureStatistics(
        classes=header.classes,
        row_dim=header.row_dim,
        feature_dim=header.feature_dim,
        folds=header.folds,
        blocks=blocks,
        absent=header.absent,
        style_count=float(tensors["style_count"][0]) if "style_count" in tensors else 0.0,
        **fields,
    )


_FIELDS: Final[dict[Part, tuple[str, ...]]] = {
    "classes": ("blocks", "folds", "patients"),
    "unlabelled": ("unlabelled",),
    "shifts": ("shift_gram",),
    "images": ("image_gram", "distance_moments"),
    "channels": ("channel_moments",),
    "style": ("style_count", "style_sum", "style_square"),
    "calibration": ("calibration",),
}

_SAME_NAME: Final = (
    "patients",
    "shift_gram",
    "image_gram",
    "distance_moments",
    "channel_moments",
    "style_sum",
    "style_square",
    "calibration",
)
