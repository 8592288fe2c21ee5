"""Generated domain shifts: a batch as it would look from another hospital's scanners.

The low-frequency log-amplitude of every image moves along a straight path towards that of another site, as
its style tells (`statistics.style`): the mean and deviation over its images, never one image's spectrum.
Phase, and with it what lies where, stays.

Source: method §6; Liu et al., FedDG, CVPR 2021, where single spectra are exchanged.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.style import FLOOR, Style, block_shape

__all__ = ["StyleShift", "move_amplitude"]


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
