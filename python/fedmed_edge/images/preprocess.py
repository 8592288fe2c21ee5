"""Preprocessing: an image onto the recipe's grid, and answers on that grid back onto the image.

Training and inference share it. The recipe's intensity rule comes first, on the file's own pixels, so that
clipped values (metal, padding) do not bleed into their neighbours; then the geometry.
"""

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError, Misfit
from fedmed_edge.images.geometry import world_axes
from fedmed_edge.images.image import VOXEL_CAP, Float32, Float64, Image, UInt8, sides
from fedmed_edge.images.intensity import scale_intensity
from fedmed_edge.kernels import argmax_slab, resample
from fedmed_edge.recipe import Recipe

# Label of grid points that are padding: no class, left out of training and of statistics.
IGNORE = 255

# A spacing this close to the recipe's is kept as it is.
_SAME_SPACING_MM = 1e-3
_SLAB_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on the recipe's grid.

    Attributes:
        pixels: (C, *grid) float32; grid is `recipe.size` in 2-D, at least that in 3-D.
        valid: Extent of the grid that is image; what lies beyond is padding at the end.
        source_shape: Sides of the image it was made from.
        to_source: (d, d) and (d,) float64: source index = matrix @ grid index + offset.
    """

    pixels: Float32 = field(repr=False)
    valid: tuple[int, ...]
    source_shape: tuple[int, ...]
    to_source: tuple[Float64, Float64] = field(repr=False)

    @property
    def grid(self) -> tuple[int, ...]:
        """Sides of the grid."""
        return self.pixels.shape[1:]


def prepare(image: Image, recipe: Recipe) -> Prepared:
    """Bring an image onto the recipe's grid.

    Channels: grey is repeated for a recipe of three channels; three equal channels are taken as grey for a
    recipe of one. 2-D: stretched to `recipe.size`, linear, with Gaussian smoothing along the axes that
    shrink. 3-D: axes to the patient's right, anterior, superior, resampled linearly to `recipe.spacing_mm`,
    then padded at the end with the edge's value up to at least `recipe.size`.

    Raises:
        InputError: The image has another modality or number of dimensions than the recipe takes, colours
            where it takes grey, or a grid too large.

    Source: MONAI's Orientation, Spacing, Resize, ScaleIntensityRange and NormalizeIntensity, which it equals.
    """
    check_fits(image, recipe)
    pixels = one_channel(image) if recipe.channels == 1 else image.pixels
    pixels = scale_intensity(pixels, recipe.intensity)
    prepared = _prepare_3d(pixels, image, recipe) if recipe.dimensions == 3 else _prepare_2d(pixels, recipe)
    if prepared.pixels.shape[0] == recipe.channels:
        return prepared
    repeated = np.repeat(prepared.pixels, recipe.channels, axis=0)
    return Prepared(repeated, prepared.valid, prepared.source_shape, prepared.to_source)


def prepare_mask(mask: UInt8, prepared: Prepared) -> UInt8:
    """Bring a mask onto the grid of its prepared image: the label at each grid point's centre.

    Args:
        mask: uint8 of the image's own shape.

    Returns:
        (*grid) uint8; padding is `IGNORE`.

    Raises:
        InputError: `mask` is of another size than the image.
    """
    matrix, offset = prepared.to_source
    if mask.shape != prepared.source_shape:
        raise InputError(f"mask has size {sides(mask.shape)}, expected {sides(prepared.source_shape)}")
    values, matrix, offset = in_memory_order(mask.astype(np.float32)[None], matrix, offset)
    labels = resample(values, matrix, offset, prepared.valid, mode="nearest")[0]
    out = np.full(prepared.grid, IGNORE, np.uint8)
    out[tuple(slice(side) for side in prepared.valid)] = labels
    return out


def restore(probabilities: Float32, prepared: Prepared) -> UInt8:
    """Bring class probabilities on the grid back to the image's own size, as labels.

    Probabilities are resampled linearly and then compared, slab by slab, so that memory does not grow with
    the image times the classes.

    Args:
        probabilities: (C, *grid) float32.

    Returns:
        uint8 of `prepared.source_shape`.

    Raises:
        InputError: `probabilities` is of another size than the grid.
    """
    matrix, offset = prepared.to_source
    if probabilities.shape[1:] != prepared.grid:
        raise InputError(
            f"probabilities have size {sides(probabilities.shape[1:])}, expected {sides(prepared.grid)}"
        )
    inside = (slice(None), *(slice(side) for side in prepared.valid))
    values = np.ascontiguousarray(probabilities[inside], np.float32)
    inverse = np.linalg.inv(matrix)
    shape = prepared.source_shape
    labels = np.empty(shape, np.uint8)
    thickness = max(1, _SLAB_VALUES // (values.shape[0] * math.prod(shape[1:])))
    for start in range(0, shape[0], thickness):
        slab = (min(thickness, shape[0] - start), *shape[1:])
        first = np.array([start, *[0] * (len(shape) - 1)])
        sampled = resample(values, inverse, inverse @ (first - offset), slab, mode="linear")
        argmax_slab(sampled, labels[start : start + slab[0]])
    return labels


def check_fits(image: Image, recipe: Recipe) -> None:
    """Refuse an image of another modality or number of dimensions than the recipe takes.

    Raises:
        Misfit: With what it has and what is expected.
    """
    if recipe.modality and image.modality and image.modality not in recipe.modality:
        raise Misfit(
            f"{image.source}: `modality` has {image.modality}, expected {' or '.join(recipe.modality)}"
        )
    if image.dimensions != recipe.dimensions:
        hint = "give the folder of the series" if image.format == "dicom" and recipe.dimensions == 3 else None
        raise Misfit(
            f"{image.source}: image has {image.dimensions} dimensions, expected {recipe.dimensions}",
            hint=hint,
        )


def one_channel(image: Image) -> Float32:
    """The one channel of a grey image, (1, ...), also where it is stored as three equal ones.

    Raises:
        Misfit: The channels differ.
    """
    first = image.pixels[:1]
    if any(not np.array_equal(first[0], other) for other in image.pixels[1:]):
        raise Misfit(
            f"{image.source}: image has {image.channels} channels that differ (colour), expected 1",
            hint="a recipe with channels = 3 takes colour and grey images mixed",
        )
    return first


def _prepare_2d(pixels: Float32, recipe: Recipe) -> Prepared:
    source = pixels.shape[1:]
    factors = np.array(source) / np.array(recipe.size)
    stretched = _stretch(_stretch(pixels, recipe.size[0]).swapaxes(1, 2), recipe.size[1]).swapaxes(1, 2)
    to_source = (np.diag(factors), 0.5 * factors - 0.5)
    return Prepared(np.ascontiguousarray(stretched), recipe.size, source, to_source)


def _stretch(pixels: Float32, side: int) -> Float32:
    """Smooth and sample (C, rows, columns) along its rows in one pass, at the `side` rows that are wanted."""
    if pixels.shape[1] == side:
        return pixels
    rows, weights = _taps(pixels.shape[1], side)
    contiguous = np.ascontiguousarray(pixels)
    out = np.zeros((pixels.shape[0], side, pixels.shape[2]), np.float32)
    for tap in range(rows.shape[1]):
        out += contiguous[:, rows[:, tap]] * weights[:, tap, None]
    return out


@functools.lru_cache(maxsize=32)
def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], Float32]:
    """Source rows, and their weights, that each target row is the weighted sum of.

    Half-pixel linear interpolation of the signal smoothed by a Gaussian of (factor - 1) / 2 pixels, cut off
    at 4 deviations, with zeros beyond the border, as MONAI's Resize(mode="bilinear", anti_aliasing=True)
    has it.
    """
    factor = source / target
    smooth = _gaussian(max(0.0, (factor - 1) / 2))
    tail = len(smooth) // 2
    centre = np.clip((np.arange(target) + 0.5) * factor - 0.5, 0, source - 1)
    below = np.floor(centre).astype(np.intp)
    share = (centre - below)[:, None]
    # One tap more than the Gaussian has: its copy around the upper neighbour is shifted by one.
    weights = (1 - share) * np.append(smooth, 0.0) + share * np.append(0.0, smooth)
    rows = below[:, None] + np.arange(-tail, tail + 2)
    weights[(rows < 0) | (rows >= source)] = 0
    return np.clip(rows, 0, source - 1), weights.astype(np.float32)


def _gaussian(sigma: float) -> Float64:
    if sigma == 0:
        return np.ones(1)
    tail = int(max(4 * sigma, 0.5) + 0.5)
    edges = [math.erf((x - 0.5) / (math.sqrt(2) * sigma)) for x in range(-tail, tail + 2)]
    return np.diff(edges) / 2


def _prepare_3d(pixels: Float32, image: Image, recipe: Recipe) -> Prepared:
    to_source, valid = grid_of(image, recipe)
    resampled = resample(*in_memory_order(pixels, *to_source), valid, mode="linear")
    missing = [max(0, side - extent) for side, extent in zip(recipe.size, valid, strict=True)]
    if any(missing):
        resampled = np.pad(resampled, [(0, 0), *((0, rest) for rest in missing)], mode="edge")
    return Prepared(resampled, valid, image.shape, to_source)


def grid_of(image: Image, recipe: Recipe) -> tuple[tuple[Float64, Float64], tuple[int, ...]]:
    """The recipe's grid over a volume: grid index → source index as matrix and offset, and its sides.

    Raises:
        InputError: The volume has no place in the patient, or the grid is too large.
    """
    if image.affine_ras is None or recipe.spacing_mm is None:
        raise InputError(f"{image.source}: image has no place in the patient, expected one for a volume")
    to_source, valid = _grid_3d(image.affine_ras, image.shape, recipe.spacing_mm)
    if math.prod(valid) * image.channels > VOXEL_CAP:
        raise InputError(
            f"{image.source}: grid has {sides(valid)} voxels at `spacing_mm`, expected at most {VOXEL_CAP}"
        )
    return to_source, valid


def _grid_3d(
    affine: Float64, shape: tuple[int, ...], spacing_mm: tuple[float, float, float]
) -> tuple[tuple[Float64, Float64], tuple[int, ...]]:
    """Where the points of the recipe's grid lie in the source, and how many there are along each patient
    axis.

    The grid turns with the scan (its axes are the patient's only as closely as the scan's are), starts at the
    scan's corner and has no shear: a tilted gantry is straightened.
    """
    turn, start = _to_patient_axes(affine, shape)
    oriented = affine @ _homogeneous(turn, start)
    extent = np.abs(np.linalg.inv(turn)) @ np.array(shape, float)
    # QR with a positive diagonal: a rotation, and the spacings and shears that follow it.
    rotation, stretch = np.linalg.qr(oriented[:3, :3])
    rotation = rotation * np.sign(np.diag(stretch))
    own = np.linalg.norm(oriented[:3, :3], axis=0)
    wanted = np.where(np.abs(own - spacing_mm) <= _SAME_SPACING_MM, own, spacing_mm)
    step = np.linalg.solve(oriented[:3, :3], rotation * wanted)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (extent - 1)
    reached = corners @ np.linalg.inv(step).T
    points = np.round(np.ptp(reached, axis=0) + 1)
    first = np.zeros(3)
    if reached.min() < -1e-8:
        # Sheared: no corner of the scan is the first of all, so the middles are laid on each other.
        first = extent / 2 - step @ (points / 2)
    return (turn @ step, turn @ first + start), tuple(int(count) for count in points)


def _to_patient_axes(affine: Float64, shape: tuple[int, ...]) -> tuple[Float64, Float64]:
    """Signed permutation and offset: index along the patient's axes → index of the array."""
    turn, start = np.zeros((3, 3)), np.zeros(3)
    for array_axis, (patient_axis, direction) in enumerate(zip(*world_axes(affine), strict=True)):
        turn[array_axis, patient_axis] = direction
        start[array_axis] = 0 if direction > 0 else shape[array_axis] - 1
    return turn, start


def _homogeneous(matrix: Float64, offset: Float64) -> Float64:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, offset
    return affine


def in_memory_order(pixels: Float32, matrix: Float64, offset: Float64) -> tuple[Float32, Float64, Float64]:
    """Order the spatial axes as they lie in memory, so that the resampler needs no copy of the volume."""
    order = np.argsort([-abs(stride) for stride in pixels.strides[1:]], kind="stable")
    ordered = pixels.transpose(0, *(int(axis) + 1 for axis in order))
    return np.ascontiguousarray(ordered), matrix[order], offset[order]
