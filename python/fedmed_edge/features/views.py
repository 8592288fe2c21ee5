"""A shifted view of one image, without torch: how it might look from another hospital's scanner or stain.

Intensities go through a random smooth curve, as `shifts` draws them for training; what is drawn depends on
the image and the settings alone, so that its rows never depend on their company. Every image has a view, and
other settings draw all views anew: else a Gram of few of a site's patients, or the difference of two, would
show them.
"""

import hashlib
from math import comb

import numpy as np
import numpy.typing as npt

from fedmed_edge.recipe import Training

__all__ = ["DEGREE", "shifted_view"]

DEGREE = 5
"""Of the curves, Bernstein polynomials."""

Float32 = npt.NDArray[np.float32]


def shifted_view(pixels: Float32, how: Training) -> Float32:
    """The image with each channel's intensities through a curve of its own.

    Args:
        pixels: (channels, *grid) float32.
        how: `inversion`, the share of the images whose curves fall.

    Source: method §6; Zhou et al., Models Genesis, MICCAI 2019.

    Example:
        >>> image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
        >>> turned = shifted_view(image, Training(maps=1, inversion=1))
        >>> bool((np.diff(turned.ravel()) <= 0).all()), float(turned.min()), float(turned.max())
        (True, 0.0, 1.0)
    """
    drawn_by = hashlib.sha256(np.float64(how.inversion).tobytes())
    drawn_by.update(np.ascontiguousarray(pixels).data)
    random = np.random.Generator(np.random.PCG64(int.from_bytes(drawn_by.digest()[:8], "little")))
    falls = random.random() < how.inversion
    steps = random.exponential(size=(len(pixels), DEGREE))
    view = np.empty_like(pixels, np.float32)
    for channel, ends in enumerate(np.cumsum(steps, axis=1) / steps.sum(axis=1, keepdims=True)):
        curve = np.concatenate([[0.0], ends])
        view[channel] = _mapped(pixels[channel], curve[::-1] if falls else curve)
    return view


def _mapped(values: Float32, curve: npt.NDArray[np.float64]) -> Float32:
    """Values through a Bernstein polynomial whose ends are the least and the greatest of them."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return values
    part = ((values - low) / (high - low)).astype(np.float32)
    rest = 1 - part
    mapped = np.zeros_like(part)
    for power, coefficient in enumerate(curve.tolist()):
        mapped += np.float32(comb(DEGREE, power) * coefficient) * part**power * rest ** (DEGREE - power)
    return low + (high - low) * np.clip(mapped, 0, 1)
