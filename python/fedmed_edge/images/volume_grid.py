"""The recipe's grid over a volume, sampled where it is asked for: no copy of the volume is made."""

import numpy as np

from fedmed_edge.images.image import Float32, Float64, Image
from fedmed_edge.images.intensity import measure_scaling
from fedmed_edge.images.preprocess import check_fits, grid_of, in_memory_order, one_channel
from fedmed_edge.kernels import resample
from fedmed_edge.recipe import Recipe


class VolumeGrid:
    """What `preprocess.prepare` makes of a volume, window by window.

    Args:
        image: A volume; its pixels may be int16, as compact reading leaves them.
        recipe: The recipe that the grid is of.

    Attributes:
        shape: Sides of the grid, at least `recipe.size`.
        valid: Extent of the grid that is image; what lies beyond repeats its edge.
        source_shape: Sides of the volume.
        to_source: (3, 3) and (3,) float64: source index = matrix @ grid index + offset.

    Raises:
        InputError: As `preprocess.prepare`.

    Example:
        >>> from pathlib import Path
        >>> voxels = np.arange(8 * 8 * 8, dtype=np.float32).reshape(1, 8, 8, 8)
        >>> image = Image(voxels, np.eye(4), (1.0, 1.0, 1.0), "", "nifti", Path("a.nii"))
        >>> settings = {"kind": "segmentation", "classes": ("a", "b"), "spacing_mm": (1.0, 1.0, 1.0)}
        >>> grid = VolumeGrid(image, Recipe(name="spot", size=(8, 8, 8), **settings))
        >>> grid.shape, grid.window((0, 0, 4), (8, 8, 4)).shape
        ((8, 8, 8), (1, 8, 8, 4))
    """

    def __init__(self, image: Image, recipe: Recipe) -> None:
        check_fits(image, recipe)
        self._pixels = one_channel(image) if recipe.channels == 1 else image.pixels
        self._repeats = recipe.channels // len(self._pixels)
        self.to_source, self.valid = grid_of(image, recipe)
        self.shape = tuple(max(pair) for pair in zip(self.valid, recipe.size, strict=True))
        self.source_shape = image.shape
        self.source_strides = image.pixels.strides[1:]
        self._scaling = measure_scaling(self._pixels, recipe.intensity)

    def window(self, start: tuple[int, ...], size: tuple[int, ...]) -> Float32:
        """(C, *size) float32, the part of the grid that begins at `start`."""
        inside = tuple(
            min(side, extent - low) for side, extent, low in zip(size, self.valid, start, strict=True)
        )
        matrix, offset = self.to_source
        place = matrix @ np.array(start, np.float64) + offset
        region, first = self._region(matrix, place, inside)
        scaled = self._scaling.apply(self._pixels[region])
        sampled = resample(*in_memory_order(scaled, matrix, place - first), inside, mode="linear")
        missing = [side - extent for side, extent in zip(size, inside, strict=True)]
        if any(missing):
            sampled = np.pad(sampled, [(0, 0), *((0, rest) for rest in missing)], mode="edge")
        return sampled if self._repeats == 1 else np.repeat(sampled, self._repeats, axis=0)

    def _region(
        self, matrix: Float64, place: Float64, inside: tuple[int, ...]
    ) -> tuple[tuple[slice, ...], Float64]:
        """The part of the source that a window is sampled from, with a voxel to spare; where it begins."""
        reach = matrix * (np.array(inside) - 1)
        low = place + np.minimum(reach, 0).sum(axis=1)
        high = place + np.maximum(reach, 0).sum(axis=1)
        last = np.array(self.source_shape) - 1
        first = np.clip(np.floor(low) - 1, 0, last)
        end = np.clip(np.ceil(high) + 1, 0, last) + 1
        ranges = (slice(int(begin), int(stop)) for begin, stop in zip(first, end, strict=True))
        return (slice(None), *ranges), first
