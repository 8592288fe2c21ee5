"""Generated domain shifts: a batch as it would look from another hospital's scanners.

Three kinds, each drawn image by image, and applied one after another:

- the low-frequency log-amplitude moves along a straight path towards that of another site, as its style tells
  (`statistics.style`): the mean and deviation over its images, never one image's spectrum. Phase, and with it
  what lies where, stays;
- intensities go through a random smooth curve that rises from the least to the greatest value of a channel,
  or, for all channels of an image, falls. An amplitude alone cannot turn a contrast round;
- the mean and deviation of each channel move.

Flips, turns, blur and noise, which no hospital is known by, are `feed.Changes`.

Source: method §6; Liu et al., FedDG, CVPR 2021, where single spectra are exchanged; the curves follow the
non-linear transformation of Zhou et al., Models Genesis, MICCAI 2019, as Bernstein polynomials.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedmed_edge.errors import InputError
from fedmed_edge.features.views import DEGREE
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.style import FLOOR, Style, block_shape

__all__ = ["Shift", "StyleShift", "draw_curves", "map_intensities", "move_amplitude", "move_moments"]

MEAN_SPREAD, DEVIATION_SPREAD = 0.5, 0.5
"""How far a channel's mean moves, in its deviations, and the logarithm of its deviation."""

_FLAT = 1e-3
"""Deviation below which a channel is not stretched: of values about 0 to 1, it would be its rounding."""


class Shift:
    """Shifted views of batches.

    Args:
        styles: Of other sites; none: no amplitude moves.
        how: Which share of the images each kind of shift changes.
        amplitude: Moves amplitudes in place of `StyleShift`.

    Raises:
        InputError: A style has another shape than the recipe's images give.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        styles: Sequence[Style] = (),
        how: Training,
        amplitude: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self.how = how
        if amplitude is None and styles and self.how.amplitude:
            amplitude = StyleShift(styles, recipe, seed=seed)
        self._amplitude = amplitude
        # The host's generator: the same draws whatever the device.
        self._random = torch.Generator().manual_seed(seed + 1)

    @property
    def moves(self) -> bool:
        """Whether any image is ever changed."""
        return self._amplitude is not None or max(self.how.maps, self.how.moments) > 0

    def __call__(self, images: Tensor) -> Tensor:
        """The batch (B, channels, *size), shifted; on its device."""
        how = self.how
        if self._amplitude is not None:
            images = self._some(how.amplitude, images, self._amplitude)
        if how.maps:
            images = self._some(how.maps, images, self._mapped)
        if how.moments:
            images = self._some(how.moments, images, self._moved)
        return images

    def _some(self, share: float, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        chosen = torch.rand(len(images), generator=self._random) < share
        chosen = chosen.reshape(-1, *(1,) * (images.ndim - 1)).to(images.device)
        return torch.where(chosen, change(images), images)

    def _mapped(self, images: Tensor) -> Tensor:
        count, channels = images.shape[:2]
        curves = draw_curves((count, channels), self._random)
        falls = torch.rand(count, 1, 1, generator=self._random) < self.how.inversion
        return map_intensities(images, torch.where(falls, curves.flip(-1), curves).to(images.device))

    def _moved(self, images: Tensor) -> Tensor:
        shape = tuple(images.shape[:2])
        mean, deviation = moments(images)
        up, wide = ((2 * torch.rand(shape, generator=self._random) - 1).to(images.device) for _ in range(2))
        wanted = mean + MEAN_SPREAD * up * deviation, deviation * torch.exp(DEVIATION_SPREAD * wide)
        return move_moments(images, *wanted)


class StyleShift:
    """Moves batches towards styles drawn from those of other sites.

    Each image goes its own way: towards a site drawn evenly, a spectrum drawn from that site's mean and
    deviation, and a part of the way drawn evenly from 0 to 1.

    Args:
        styles: One or more, of the recipe's channels and size.

    Raises:
        InputError: A style has another shape than the recipe's images give.
    """

    def __init__(self, styles: Sequence[Style], recipe: Recipe, *, seed: int = 0) -> None:
        wanted = (recipe.channels, *block_shape(recipe.size))
        for style in styles:
            if style.mean.shape != wanted or style.deviation.shape != wanted:
                raise InputError(f"style: has shape {style.mean.shape}, expected {wanted}")
        self._means, self._deviations = (
            torch.from_numpy(np.stack([getattr(style, name) for style in styles])) for name in Style._fields
        )
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """The batch (B, channels, *size), moved; on its device."""
        count, random = len(images), self._random
        chosen = torch.randint(len(self._means), (count,), generator=random)
        noise = torch.randn((count, *self._means.shape[1:]), generator=random)
        # a real image's amplitude is the same at opposite frequencies
        noise = (noise + noise.flip(-1, -2)) / 2**0.5
        noise[..., noise.shape[-2] // 2, noise.shape[-1] // 2] /= 2**0.5
        towards = self._means[chosen] + self._deviations[chosen] * noise
        parts = torch.rand(count, generator=random)
        return move_amplitude(images, towards.to(images.device), parts.to(images.device))


def move_amplitude(images: Tensor, towards: Tensor, parts: Tensor) -> Tensor:
    """Low-frequency log-amplitudes moved a part of the way; phases, and all other frequencies, stay.

    Args:
        images: (B, channels, rows, columns) or (B, channels, i, j, k): of a volume every axial slice moves.
        towards: (B, channels, h, w) log-amplitudes, as `statistics.style.log_amplitude` has them.
        parts: (B,) 0 leaves an image as it is.

    Returns:
        Images of the same shape and type.

    Example:
        >>> images = torch.rand(2, 1, 32, 32)
        >>> moved = move_amplitude(images, torch.zeros(2, 1, 3, 3), torch.zeros(2))
        >>> bool((moved - images).abs().max() < 1e-5)
        True
    """
    rows, columns = (
        torch.arange(-(extent // 2), extent // 2 + 1, device=images.device) % side
        for extent, side in zip(towards.shape[2:], images.shape[2:4], strict=True)
    )
    spectrum = torch.fft.fft2(images.float(), dim=(2, 3))
    block = spectrum[:, :, rows[:, None], columns[None, :]]
    now = torch.log(block.abs() / (images.shape[2] * images.shape[3]) + FLOOR)
    apart = (1,) * (images.ndim - 4)
    steps = towards.reshape(*towards.shape, *apart) - now
    spectrum[:, :, rows[:, None], columns[None, :]] = block * torch.exp(
        parts.reshape(-1, 1, 1, 1, *apart) * steps
    )
    moved: Tensor = torch.fft.ifft2(spectrum, dim=(2, 3)).real
    return moved.to(images.dtype)


def draw_curves(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Bernstein coefficients (*shape, DEGREE + 1) of curves that rise from 0 to 1; their mean is straight.

    Example:
        >>> curves = draw_curves((4, 3), torch.Generator().manual_seed(0))
        >>> curves.shape, bool((curves.diff(dim=-1) > 0).all()), curves[0, 0, 0].item()
        (torch.Size([4, 3, 6]), True, 0.0)
    """
    # Exponential steps over their sum are uniform on the simplex; the floor keeps the logarithm finite.
    steps = -torch.rand((*shape, DEGREE), generator=random).clamp_min(1e-6).log()
    ends = (steps / steps.sum(-1, keepdim=True)).cumsum(-1).clamp_max(1)
    return torch.cat([torch.zeros(*shape, 1), ends], dim=-1)


def map_intensities(images: Tensor, curves: Tensor) -> Tensor:
    """Every channel's values through its curve, whose ends are the least and the greatest of them.

    Args:
        images: (B, channels, *size).
        curves: (B, channels, K) Bernstein coefficients on [0, 1], of degree K − 1.

    Example:
        >>> images, straight = torch.rand(2, 1, 8, 8), torch.linspace(0, 1, 6).expand(2, 1, 6)
        >>> torch.allclose(map_intensities(images, straight), images, atol=1e-5)
        True
        >>> turned = images.amax((2, 3), keepdim=True) + images.amin((2, 3), keepdim=True) - images
        >>> torch.allclose(map_intensities(images, straight.flip(-1)), turned, atol=1e-5)
        True
    """
    axes = tuple(range(2, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    wide = (high - low).clamp_min(torch.finfo(images.dtype).tiny)
    values, degree = (images - low) / wide, curves.shape[-1] - 1
    powers = (curves @ _powers(degree).to(curves)).to(images.dtype)
    powers = powers.reshape(*powers.shape, *(1,) * len(axes))
    mapped = powers[:, :, degree].expand_as(values)
    for power in range(degree - 1, -1, -1):
        mapped = mapped * values + powers[:, :, power]
    return low + wide * mapped.clamp(0, 1)


def _powers(degree: int) -> Tensor:
    """(degree + 1, degree + 1): row k holds the coefficients of the k-th Bernstein polynomial, by power."""
    rows = [
        [
            math.comb(degree, power) * math.comb(power, k) * (-1) ** (power - k) if power >= k else 0
            for power in range(degree + 1)
        ]
        for k in range(degree + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, channels) of images (B, channels, *size)."""
    flat = images.flatten(2)
    return flat.mean(2), flat.std(2, correction=0)


def move_moments(images: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    """Images (B, channels, *size) whose channels have these means and deviations (B, channels).

    Of a channel that hardly varies only the mean is reached.

    Example:
        >>> moved = move_moments(torch.rand(1, 1, 8, 8), torch.tensor([[2.0]]), torch.tensor([[0.5]]))
        >>> [round(float(value), 4) for value in moments(moved)]
        [2.0, 0.5]
    """
    mean, deviation = moments(images)
    gain = deviations / deviation.clamp_min(_FLAT)
    mean, gain, means = (one.reshape(*one.shape, *(1,) * (images.ndim - 2)) for one in (mean, gain, means))
    return (images - mean) * gain + means
