"""Style of an image: the log-amplitude of its low frequencies.

Source: method §2.4; the low-frequency block follows FDA (Yang & Soatto, CVPR 2020) and FedDG (Liu et al.,
CVPR 2021), which hand over single spectra. Here only sums over a site's images leave the hospital.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import amplitude_moments

RELATIVE_SIZE = 0.1
"""Side of the low-frequency block relative to the side of the image."""

FLOOR = 1e-6
"""Added to the amplitude (of an image whose values are about 0 to 1) before the logarithm."""


class Style(NamedTuple):
    """One site's style: (channels, h, w) float32 mean and deviation of the log-amplitude over its images."""

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]


def block_shape(size: tuple[int, ...]) -> tuple[int, int]:
    """Shape (h, w) of the low-frequency block of an image or volume of `size`; both odd, at least 1.

    Example:
        >>> block_shape((128, 128)), block_shape((48, 48, 48))
        ((13, 13), (5, 5))
    """
    return 2 * (int(RELATIVE_SIZE * size[0]) // 2) + 1, 2 * (int(RELATIVE_SIZE * size[1]) // 2) + 1


def log_amplitude(
    pixels: npt.NDArray[np.float32], size: tuple[int, ...] | None = None
) -> npt.NDArray[np.float64]:
    """Log-amplitude of the centred low-frequency block of the Fourier spectrum.

    The amplitude is divided by the number of pixels, so that the centre is the logarithm of the mean. Of a
    volume, the mean over its axial slices is taken.

    Args:
        pixels: (channels, rows, columns) or (channels, i, j, k) float32, a prepared image.
        size: Recipe size; a grid larger than it is cropped to its middle in the first two axes, so that
            the block has one shape for every volume of a site. Default: the shape of `pixels`.

    Returns:
        (channels, h, w) float64 with (h, w) = `block_shape(size)`.

    Raises:
        InputError: `pixels` has another number of axes, or is smaller than `size`.

    Example:
        >>> log_amplitude(np.ones((1, 32, 32), np.float32)).shape
        (1, 3, 3)
    """
    if pixels.ndim not in (3, 4):
        raise InputError(f"style: `pixels` has {pixels.ndim} axes, expected 3 or 4")
    sides = tuple(size or pixels.shape[1:])[:2]
    if any(have < want for have, want in zip(pixels.shape[1:3], sides, strict=True)):
        raise InputError(f"style: `pixels` has size {pixels.shape[1:3]}, expected at least {sides}")
    first, second = ((have - want) // 2 for have, want in zip(pixels.shape[1:3], sides, strict=True))
    middle = pixels[:, first : first + sides[0], second : second + sides[1]]
    slices, sums, _ = amplitude_moments(np.ascontiguousarray(middle), block_shape(sides), floor=FLOOR)
    return sums / slices
