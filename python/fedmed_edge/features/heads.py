"""The answers of many heads on a data set: rows are made once an image and shared by all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of, require_fit
from fedmed_edge.features.lift import Lift
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.images.preprocess import Prepared, prepare, restore
from fedmed_edge.images.windows import blended, cover
from fedmed_edge.recipe import Recipe

__all__ = ["LinearHead", "Prediction", "evaluate_heads"]

Progress = Callable[[str], None]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# rows of one slab stay in the processor's cache or near it
_SLAB_VALUES = 1 << 19


class LinearHead(Protocol):
    """What can be scored: anything whose probabilities are softmax(rows · W + b)."""

    def linear(self) -> tuple[Float64, Float64]:
        """W (D, C) and b (C,)."""
        ...


@dataclass(frozen=True, eq=False)
class Prediction:
    """One head's answer on one image.

    Attributes:
        item: The image.
        probabilities: (C,) float32 of a classification; None for a segmentation.
        mask: uint8 class numbers at the file's own size, of a segmentation; None for a classification.
        distance_squared: Of the image to the generation's reference, the mean over its windows; None under a
            draft.
    """

    item: Item
    probabilities: Float32 | None
    mask: npt.NDArray[np.uint8] | None
    distance_squared: float | None


def evaluate_heads(
    generation: Generation,
    dataset: Dataset,
    models: Sequence[LinearHead],
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[list[Prediction]]:
    """Answers of several heads on every item.

    Segmentation is scored at every pixel (volumes by windows that overlap by a quarter, blended with Gaussian
    weights) and brought back to the file's own size. Classification of a volume takes the mean of its
    windows' rows: the normalised geometric mean of the windows' probabilities.

    Args:
        models: Heads whose classes are the recipe's, in its order.
        progress: Called after every image with what to show.

    Returns:
        One list a model, with one prediction an item in the data set's order.

    Raises:
        InputError: The recipe does not fit the generation, a head has another shape, or an image cannot be
            read.
        DeviceError: The asked device did not come up.
    """
    scorer = _Scorer(generation, dataset.recipe, models, device)
    answers: list[list[Prediction]] = [[] for _ in models]
    for index, item in enumerate(dataset):
        prepared = prepare(dataset.load(item), dataset.recipe)
        if dataset.recipe.kind == "classification":
            probabilities, distance = scorer.classify(prepared)
            for own, answer in zip(answers, probabilities, strict=True):
                own.append(Prediction(item, answer, None, distance))
        else:
            grids, distance = scorer.segment(prepared)
            for own, grid in zip(answers, grids, strict=True):
                own.append(Prediction(item, None, restore(grid, prepared), distance))
        if progress:
            progress(f"{index + 1} of {len(dataset)}")
    return answers


class _Scorer:
    """Encoder, lift and all heads side by side: weight (D, H·C), bias (H·C,)."""

    def __init__(
        self, generation: Generation, recipe: Recipe, models: Sequence[LinearHead], device: str
    ) -> None:
        require_fit(generation, recipe)
        self.recipe, self.draft = recipe, generation.draft
        self.encoder, self.lift = Encoder(generation, device), Lift(generation)
        self.heads, self.classes = len(models), len(recipe.classes)
        pairs = [model.linear() for model in models]
        wanted = (self.lift.row_dim, self.classes)
        for weight, _ in pairs:
            if weight.shape != wanted:
                raise InputError(f"head: `weight` has shape {weight.shape}, expected {wanted}")
        self.weight = np.concatenate([np.zeros((wanted[0], 0)), *(weight for weight, _ in pairs)], axis=1)
        self.bias = np.concatenate([np.zeros(0), *(bias for _, bias in pairs)])
        self.weight32 = self.weight.astype(np.float32)
        self.bias32 = self.bias.astype(np.float32)

    def classify(self, prepared: Prepared) -> tuple[Float32, float | None]:
        """Probabilities (H, C) of one image, and its distance."""
        rows, distances = [], []
        for window in cover(prepared.pixels, self.recipe.size):
            pooled = pooled_of(moments_of(self.encoder.maps(window)))
            rows.append(self.lift.image_row(pooled)[0])
            distances.append(self._distance(pooled))
        row = np.mean(rows, axis=0, dtype=np.float32)
        scores = (row.astype(np.float64) @ self.weight + self.bias).reshape(self.heads, self.classes)
        return _softmax(scores, axis=1), _mean(distances)

    def segment(self, prepared: Prepared) -> tuple[Float32, float | None]:
        """Probabilities (H, C, *grid) of one image, and its distance."""
        distances: list[float | None] = []

        def answer(window: Float32) -> Float32:
            return self._window(window, distances)

        whole = blended(prepared.pixels, self.recipe.size, answer, channels=self.heads * self.classes)
        return whole.reshape(self.heads, self.classes, *prepared.grid), _mean(distances)

    def _window(self, pixels: Float32, distances: list[float | None]) -> Float32:
        """Probabilities (H·C, *size) of one window; its distance is appended."""
        size = self.recipe.size
        maps = self.encoder.maps(pixels)
        distances.append(self._distance(pooled_of(moments_of(maps))))
        out = np.empty((self.heads * self.classes, *size), np.float32)
        for start, rows in self.lift.levels(maps, size, 1).slabs(_SLAB_VALUES):
            scores = (rows @ self.weight32 + self.bias32).reshape(-1, self.heads, self.classes)
            thickness = len(rows) // (out[0, 0].size or 1)
            answer = _softmax(scores, axis=2).reshape(thickness, *size[1:], -1)
            out[:, start : start + thickness] = np.moveaxis(answer, -1, 0)
        return out

    def _distance(self, pooled: Float32) -> float | None:
        return None if self.draft else self.lift.distance_squared(self.lift.standardise(pooled))


def _softmax(scores: npt.NDArray[np.floating], axis: int) -> Float32:
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True), np.float32)


def _mean(distances: Sequence[float | None]) -> float | None:
    known = [distance for distance in distances if distance is not None]
    return float(np.mean(known)) if known else None
