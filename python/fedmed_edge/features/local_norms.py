"""Norm layers that go on from where they were at this site, from one round of a federation to the next.

They are handed over all the same: the next generation is one for everybody. Beside the weights of another
training they mean nothing, so their file names the training whose rounds it is of.

Source: Li et al., FedBN, ICLR 2021, of which our backbones, that normalise by image, have the affine part.
"""

from pathlib import Path

from torch import nn

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.weights import Weights, read_backbone, write_backbone
from fedmed_edge.recipe import Recipe

__all__ = ["keep_norms", "kept_norms", "norm_names"]

_KINDS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def norm_names(network: nn.Module) -> set[str]:
    """Names of the weights of norm layers.

    Example:
        >>> sorted(norm_names(nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4))))
        ['1.bias', '1.weight']
    """
    return {
        f"{name}.{parameter}" if name else parameter
        for name, module in network.named_modules()
        if isinstance(module, _KINDS)
        for parameter, _ in module.named_parameters(recurse=False)
    }


def keep_norms(path: Path, backbone: nn.Module, recipe: Recipe, training: str) -> None:
    """Write the norm layers of a backbone to a file.

    Args:
        training: Names the training whose rounds they go on in.

    Raises:
        InputError: The file cannot be written.
    """
    state = state_of(backbone)
    write_backbone(path, {name: state[name] for name in norm_names(backbone)}, recipe, start=training)


def kept_norms(path: Path, backbone: nn.Module, training: str) -> Weights:
    """The norm layers in a file; none where there is no file, or one of another backbone or training.

    Raises:
        InputError: The file is damaged.
    """
    if not path.exists():
        return {}
    state, kept = state_of(backbone), read_backbone(path)
    shapes = {name: state[name].shape for name in norm_names(backbone)}
    fits = {name: value.shape for name, value in kept.weights.items()} == shapes
    return kept.weights if fits and kept.header.start == training else {}
