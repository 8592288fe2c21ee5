"""From maps to rows z = [relu(f R + b), f, 1]: standardised, projected and lifted (method §1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.generation import Generation
from fedmed_edge.kernels import LiftWeights, lifted_class_gram

__all__ = ["Levels", "Lift", "grid_axes"]

Float32 = npt.NDArray[np.float32]
Axes = tuple[npt.NDArray[np.intp], ...]


def grid_axes(size: Sequence[int], stride: int) -> Axes:
    """Positions along every axis at which rows are taken: stride // 2, then every `stride` pixels.

    Example:
        >>> [axis.tolist() for axis in grid_axes((8, 9), 4)]
        [[2, 6], [2, 6]]
    """
    return tuple(np.arange(min(stride // 2, side // 2), side, stride, dtype=np.intp) for side in size)


class Lift:
    """The fixed map of a generation from raw features (F0) to rows (D = L + F + 1).

    Standardising, projecting and lifting are linear up to the relu, and so commute with upsampling: every
    scale goes through its own slice of the weights at the cheaper of its own and the label grid's resolution.
    """

    def __init__(self, generation: Generation) -> None:
        self.lift_dim = generation.header.lift_dim
        self.feature_dim = generation.feature_dim
        self.row_dim = generation.row_dim
        self.widths = generation.header.widths
        self._mean = generation.mean
        self._gain = (1.0 / generation.deviation.astype(np.float64)).astype(np.float32)
        self._projection = generation.projection
        self._bias = generation.lift_bias
        self._lift_weight = generation.lift_weight
        # raw standardised features straight to the lifted ones
        self._weight = self._lift_weight
        if self._projection is not None:
            together = self._projection.astype(np.float64) @ self._lift_weight.astype(np.float64)
            self._weight = together.astype(np.float32)
        self._generation = generation

    def standardise(self, pooled: npt.NDArray[np.floating]) -> Float32:
        """Standardised, projected features (F,) float32 of pooled raw ones (F0,).

        Raises:
            InputError: Another width.
        """
        if pooled.shape != self._mean.shape:
            raise InputError(f"lift: `pooled` has shape {pooled.shape}, expected {self._mean.shape}")
        feature = (pooled.astype(np.float32) - self._mean) * self._gain
        if self._projection is not None:
            feature = feature @ self._projection
        return np.asarray(feature, np.float32)

    def image_row(self, pooled: npt.NDArray[np.floating]) -> Float32:
        """Row (1, D) float32 of an image with pooled raw features (F0,).

        Raises:
            InputError: Another width.
        """
        feature = self.standardise(pooled)
        row = np.ones((1, self.row_dim), np.float32)
        row[0, : self.lift_dim] = np.maximum(feature @ self._lift_weight + self._bias, 0)
        row[0, self.lift_dim : -1] = feature
        return row

    def distance_squared(self, feature: npt.NDArray[np.floating]) -> float:
        """Squared Mahalanobis distance of an image's feature (F,) to the generation's reference Gaussian.

        Raises:
            InputError: The generation is a draft and has no reference yet, or another width.
        """
        return float(self._generation.squared_distance(feature[None])[0])

    def levels(self, maps: Sequence[Float32], size: tuple[int, ...], stride: int) -> "Levels":
        """Everything of one image that its rows are then read from, slab by slab.

        Args:
            maps: (C_k, *s_k) float32 of every scale.
            size: Label grid.
            stride: Step of the rows on that grid.

        Raises:
            InputError: The maps are not those of the generation.
        """
        self._require_widths(maps)
        axes = grid_axes(size, stride)
        rows = prod(len(axis) for axis in axes)
        groups: dict[tuple[bool, tuple[int, ...]], list[int]] = {}
        sampled = list(maps)
        for index, scale in enumerate(maps):
            # what is no coarser than the rows' grid is cheaper to sample before the product than after it
            before = prod(scale.shape[1:]) >= rows
            if before:
                sampled[index] = _sample(scale, _taps_of(scale.shape[1:], axes, size), first_axis=1)
            groups.setdefault((before, sampled[index].shape[1:]), []).append(index)
        parts = []
        for (before, shape), members in groups.items():
            taps = () if before else _taps_of(shape, axes, size)
            parts.append(self._level([sampled[index] for index in members], members, taps))
        return Levels(self, tuple(parts), axes)

    def pixel_rows(self, maps: Sequence[Float32], stride: int, size: tuple[int, ...]) -> tuple[Float32, Axes]:
        """Rows of an image's pixels on the strided grid.

        Returns:
            (N, D) float32, the last axis running fastest, and the positions along every axis.

        Raises:
            InputError: The maps are not those of the generation.
        """
        levels = self.levels(maps, size, stride)
        return levels.rows(0, len(levels.axes[0])), levels.axes

    def pixel_grams(
        self,
        maps: Sequence[Float32],
        stride: int,
        size: tuple[int, ...],
        classes: npt.NDArray[np.int32],
        *,
        count: int,
        picked: npt.NDArray[np.intp] | None = None,
    ) -> tuple[npt.NDArray[np.float64], Float32]:
        """Grams of the rows of `pixel_rows` by class, without ever holding those rows together.

        The rows agree with `pixel_rows` to float32 rounding of their sums over channels.

        Args:
            maps: (C_k, *s_k) float32 of every scale.
            stride: Step of the rows on the label grid.
            size: Label grid.
            classes: (N,) from −1, for rows that are left out, to `count` − 1.
            count: K.
            picked: Ascending numbers of rows to be given as they are.

        Returns:
            (K, D (D + 1) / 2) float64, and the picked rows (·, D) float32.

        Raises:
            InputError: The maps are not those of the generation.
        """
        self._require_widths(maps)
        weights = LiftWeights(self._mean, self._gain, self._weight, self._bias, self._projection)
        grams = np.zeros((count, self.row_dim * (self.row_dim + 1) // 2))
        rows = lifted_class_gram(
            maps, weights, size=size, stride=stride, classes=classes, grams=grams, picked=picked
        )
        return grams, rows

    def _require_widths(self, maps: Sequence[Float32]) -> None:
        got = tuple(scale.shape[0] for scale in maps)
        if got != self.widths:
            raise InputError(f"lift: `maps` has widths {got}, expected {self.widths}")

    def _level(self, maps: Sequence[Float32], scales: Sequence[int], taps: tuple["_Taps", ...]) -> "_Level":
        """Standardise, lift and project some scales of one resolution."""
        offsets = np.cumsum([0, *self.widths])
        columns = np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in scales])
        places = maps[0].shape[1:]
        features = np.concatenate([scale.reshape(len(scale), -1) for scale in maps]).T.copy()
        features -= self._mean[columns]
        features *= self._gain[columns]
        raw = features.reshape(*places, -1)
        lifted = (features @ self._weight[columns]).reshape(*places, -1) if self.lift_dim else None
        if self._projection is not None:
            raw = (features @ self._projection[columns]).reshape(*places, -1)
        return _Level(lifted, raw, None if self._projection is not None else columns, taps)

    def _finish(self, rows: Float32) -> None:
        """Bias and relu of the lifted columns, and the closing ones."""
        lifted = rows[:, : self.lift_dim]
        lifted += self._bias
        np.maximum(lifted, 0, out=lifted)
        rows[:, -1] = 1


# --- sampling ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Taps:
    """Two neighbours and the share of the upper one, for every position along one axis."""

    below: npt.NDArray[np.intp]
    above: npt.NDArray[np.intp]
    share: Float32

    def of(self, start: int, stop: int) -> "_Taps":
        return _Taps(self.below[start:stop], self.above[start:stop], self.share[start:stop])


@dataclass(frozen=True, eq=False)
class _Level:
    """Scales of one resolution: lifted (*s, L), raw (*s, ·), the raw's columns, taps to the rows' grid."""

    lifted: Float32 | None
    raw: Float32
    columns: npt.NDArray[np.intp] | None
    taps: tuple[_Taps, ...]


@dataclass(frozen=True, eq=False)
class Levels:
    """One image, ready to give its rows.

    Attributes:
        lift: The map that made it.
        axes: Positions of the rows along every axis of the label grid.
    """

    lift: Lift
    parts: tuple[_Level, ...]
    axes: Axes

    def rows(self, start: int, stop: int) -> Float32:
        """Rows (N, D) float32 of positions `start` to `stop` along the first axis and all of the others."""
        lift_dim, features = self.lift.lift_dim, self.lift.feature_dim
        places = (min(stop, len(self.axes[0])) - start, *(len(axis) for axis in self.axes[1:]))
        rows = np.zeros((*places, self.lift.row_dim), np.float32)
        raw = rows[..., lift_dim : lift_dim + features]
        for part in self.parts:
            if part.lifted is not None:
                rows[..., :lift_dim] += _slab(part.lifted, part.taps, start, stop)
            sampled = _slab(part.raw, part.taps, start, stop)
            if part.columns is None:
                raw += sampled
            else:
                raw[..., part.columns] = sampled
        flat = rows.reshape(-1, self.lift.row_dim)
        self.lift._finish(flat)
        return flat

    def slabs(self, values: int) -> Iterator[tuple[int, Float32]]:
        """All rows in slabs of about `values` numbers: the first position of each slab, and its rows."""
        across = prod(len(axis) for axis in self.axes[1:]) * self.lift.row_dim
        thickness = max(1, values // across)
        for start in range(0, len(self.axes[0]), thickness):
            yield start, self.rows(start, start + thickness)


def _slab(values: Float32, taps: tuple[_Taps, ...], start: int, stop: int) -> Float32:
    if not taps:
        return values[start:stop]
    return _sample(values, (taps[0].of(start, stop), *taps[1:]), first_axis=0)


def _sample(values: Float32, taps: tuple[_Taps, ...], *, first_axis: int) -> Float32:
    """Interpolate linearly along the axes from `first_axis` on."""
    for axis, tap in enumerate(taps, start=first_axis):
        if len(tap.below) == values.shape[axis] and not tap.share.any() and (np.diff(tap.below) == 1).all():
            continue
        below = values.take(tap.below, axis)
        if not tap.share.any():
            values = below
            continue
        above = values.take(tap.above, axis)
        above -= below
        above *= tap.share.reshape(-1, *[1] * (values.ndim - axis - 1))
        above += below
        values = above
    return values


def _taps_of(shape: tuple[int, ...], axes: Axes, size: tuple[int, ...]) -> tuple[_Taps, ...]:
    return tuple(_taps(axis, side, full) for axis, side, full in zip(axes, shape, size, strict=True))


def _taps(positions: npt.NDArray[np.intp], side: int, full: int) -> _Taps:
    """Where positions of an axis of `full` pixels lie in a map of `side`, pixel centres at half-integers.

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False), which it equals.
    """
    place = np.maximum((positions + 0.5) * (side / full) - 0.5, 0.0)
    below = np.minimum(place.astype(np.intp), side - 1)
    above = np.minimum(below + 1, side - 1)
    share = np.where(above > below, place - below, 0.0)
    return _Taps(below, above, share.astype(np.float32))
