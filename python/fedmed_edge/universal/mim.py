"""Masked image modelling: random patches are hidden, and a light head says what they showed.

A patch is what lies under one place of the backbone's coarsest map, so that a transformer loses whole tokens
and a convolutional encoder whole places. It is hidden in the image itself, under one learned value a channel:
the same for every network. The head is one 1×1 map a scale, straight to pixels.

Source: method §7; Xie et al., SimMIM, CVPR 2022.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge.features.backbones import MultiScale

__all__ = ["MASKED", "MaskedModelling", "draw_mask"]

MASKED = 0.6
"""Share of the patches that are hidden."""


class MaskedModelling(nn.Module):
    """A backbone with the head that brings hidden pixels back.

    Args:
        backbone: What is learned.
        channels, size: Of its input.

    Attributes:
        patches: Sides of the grid of patches.
    """

    def __init__(self, backbone: MultiScale, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.size = size
        with torch.no_grad():
            grids = [tuple(one.shape[2:]) for one in scales_of(backbone, torch.zeros(1, channels, *size))]
        self.patches = tuple(max(2, side) for side in min(grids, key=prod))
        convolution = nn.Conv2d if len(size) == 2 else nn.Conv3d
        self._factors = [_factors(size, grid) for grid in grids]
        widths = backbone.widths[1:] if backbone.input_scale else backbone.widths
        self.heads = nn.ModuleList(
            convolution(width, channels * prod(factors), 1)
            for width, factors in zip(widths, self._factors, strict=True)
        )
        self.hidden = nn.Parameter(torch.zeros(channels))

    def hide(self, images: Tensor, mask: Tensor) -> Tensor:
        """Images (B, channels, *size) under a mask (B, 1, *size)."""
        shade = self.hidden.reshape(1, -1, *[1] * len(self.size))
        return torch.where(mask, shade.to(images.dtype), images)

    def loss(self, maps: Sequence[Tensor], images: Tensor, mask: Tensor) -> Tensor:
        """Mean absolute error over the hidden pixels.

        Args:
            maps: Of `hide`'s images, as `scales_of` gives them.
            images: (B, channels, *size) as they were.
            mask: (B, 1, *size) True where they were hidden.
        """
        error = (self._pixels(maps).float() - images).abs() * mask
        return error.sum() / (mask.sum() * images.shape[1]).clamp_min(1)

    def _pixels(self, maps: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for head, scale, factors in zip(self.heads, maps, self._factors, strict=True):
            part = _spread(head(scale), factors)
            if part.shape[2:] != self.size:
                part = functional.interpolate(part, size=self.size, mode="nearest")
            total = part if total is None else total + part
        assert total is not None
        return total


def scales_of(backbone: MultiScale, images: Tensor) -> list[Tensor]:
    """The maps that a network made: without the input itself, where that is the first scale."""
    maps: list[Tensor] = backbone(images)
    return maps[1:] if backbone.input_scale else maps


def draw_mask(count: int, patches: tuple[int, ...], size: tuple[int, ...], random: torch.Generator) -> Tensor:
    """(count, 1, *size) bool: of every image `MASKED` of its patches, rounded.

    Example:
        >>> mask = draw_mask(2, (4, 4), (8, 8), torch.Generator().manual_seed(0))
        >>> mask.shape, mask.float().mean(dim=(1, 2, 3)).tolist()
        (torch.Size([2, 1, 8, 8]), [0.625, 0.625])
    """
    places = prod(patches)
    order = torch.rand(count, places, generator=random).argsort(dim=1)
    hidden = (order < round(MASKED * places)).reshape(count, 1, *patches)
    return functional.interpolate(hidden.float(), size=size, mode="nearest") > 0.5


def _factors(size: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels that one place of a map stands for along every axis; 1 where they do not come out even."""
    even = all(side % places == 0 for side, places in zip(size, grid, strict=True))
    return tuple(side // places if even else 1 for side, places in zip(size, grid, strict=True))


def _spread(maps: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Channels laid out as pixels: (B, C · ∏ factors, *s) → (B, C, *(s · factors))."""
    batch, grid, axes = len(maps), maps.shape[2:], len(factors)
    apart = maps.reshape(batch, -1, *factors, *grid)
    order = [
        axis for pair in zip(range(2 + axes, 2 + 2 * axes), range(2, 2 + axes), strict=True) for axis in pair
    ]
    sides = [places * factor for places, factor in zip(grid, factors, strict=True)]
    return apart.permute(0, 1, *order).reshape(batch, -1, *sides)
