"""Networks that turn an image into maps at several scales: two of ours, and MONAI's by their stages.

Every network normalises by image (GroupNorm, InstanceNorm, LayerNorm). BatchNorm and running statistics are
refused: they do not survive several hospitals (method §1), and no noise is on them where weights have it.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge.errors import InputError
from fedmed_edge.generation import Architecture
from fedmed_edge.recipe import Backbone, Kind

__all__ = [
    "MultiScale",
    "backbone_of",
    "build_backbone",
    "load_weights",
    "seeded",
    "set_state",
    "state_of",
]

GROUP_WIDTH = 8
"""Channels in one group of our GroupNorm: defined at every map size, even one value a channel."""

SMALL_SIDE = 64
"""Images with a side below this keep their full resolution in the first stage of `residual_encoder`."""

VIT_SCALES = 4
"""Transformer blocks of a ViT that are taken, evenly spaced, the last one normalised."""


class MultiScale(nn.Module):
    """A backbone with the maps that make up its features.

    Attributes:
        net: The network; gives one map a stage.
        input_scale: True where scale 0 is the input itself (segmentation).
        widths: Channels of every scale, in the order of `forward`'s maps.
    """

    def __init__(self, net: nn.Module, *, input_scale: bool) -> None:
        super().__init__()
        self.net = net
        self.input_scale = input_scale
        self.widths: tuple[int, ...] = ()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of every scale.

        Args:
            image: (B, channels, *size) float32.

        Returns:
            One (B, C_k, *s_k) map a scale, each at its own resolution.
        """
        maps: list[Tensor] = self.net(image)
        return [image, *maps] if self.input_scale else maps


def build_backbone(
    backbone: Backbone, *, kind: Kind, channels: int, size: tuple[int, ...], seed: int = 0
) -> MultiScale:
    """Build a network with weights drawn from `seed`.

    Args:
        backbone: `residual_encoder` or `unet`, with the argument `norm`: `instance`, `group` (keeps more of
            an image's absolute intensity) or `mixed`, instance norm in the first half of the stages and
            group norm after; `mixed` is the encoder's default and `group` the U-Net's. Or a network of
            MONAI by name: ResNet and resnet10 … resnet200, DenseNet…, UNet, SegResNet, ViT; arguments are
            passed on to it.
        kind: For segmentation the input itself becomes scale 0.
        channels: Channels of the image.
        size: Input size, two or three sides.

    Raises:
        InputError: Unknown network or argument, BatchNorm, running statistics, or a size that it cannot take.

    Example:
        >>> net = build_backbone(Backbone(widths=(8, 16)), kind="classification", channels=1, size=(32, 32))
        >>> [tuple(scale.shape) for scale in net(torch.zeros(1, 1, 32, 32))]
        [(1, 8, 32, 32), (1, 16, 16, 16)]
    """
    build = _OWN.get(backbone.network) or _monai_builder(backbone.network)
    with seeded(seed):
        try:
            net = build(backbone, channels, size)
        except (TypeError, ValueError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"backbone: `{backbone.network}` cannot be built: {reason}") from None
    _refuse_running_statistics(net, backbone.network)
    model = MultiScale(net, input_scale=kind == "segmentation")
    model.widths = _widths(model, backbone.network, channels, size)
    return model


def backbone_of(made: Architecture, *, seed: int = 0) -> MultiScale:
    """The backbone that a recipe asks for, or that a generation has, with weights drawn from `seed`.

    Raises:
        InputError: As `build_backbone`.
    """
    return build_backbone(made.backbone, kind=made.kind, channels=made.channels, size=made.size, seed=seed)


def _widths(model: MultiScale, name: str, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    model.eval()
    try:
        with torch.no_grad():
            maps = model(torch.zeros(1, channels, *size))
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"backbone: `{name}` cannot take images of size {size}: {first}",
            hint="choose sides that it can halve at every stage, as 64, 96 or 128",
        ) from None
    model.train()
    return tuple(int(scale.shape[1]) for scale in maps)


def _refuse_running_statistics(net: nn.Module, name: str) -> None:
    norms = nn.modules.batchnorm
    if any(isinstance(module, norms._BatchNorm) for module in net.modules()):
        raise InputError(
            f"backbone: `{name}` has BatchNorm, expected normalisation by image: its running statistics do "
            "not survive several hospitals",
            hint='set `norm = ["group", {num_groups = 8}]` or `norm = ["instance", {affine = true}]` in '
            "the recipe's `backbone.arguments`",
        )
    if any(isinstance(module, norms._NormBase) and module.track_running_stats for module in net.modules()):
        raise InputError(
            f"backbone: `{name}` has norm layers with running statistics, expected none: these are sums over "
            "images, which would leave with the weights",
            hint="take `track_running_stats` out of the recipe's `backbone.arguments`",
        )


# --- our own networks --------------------------------------------------------------------------------------


def _conv(dimensions: int, inward: int, outward: int, side: int = 3, stride: int = 1) -> nn.Module:
    kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return kind(inward, outward, side, stride=stride, padding=side // 2, bias=False)


def _norm(name: str, dimensions: int, width: int) -> nn.Module:
    if name == "instance":
        return (nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d)(width, affine=True)
    if name != "group":
        raise ValueError(f"`norm` has {name}, expected group, instance or mixed")
    groups = math.gcd(max(1, width // GROUP_WIDTH), width)
    return nn.GroupNorm(groups, width)


def _norms(name: str, stages: int) -> list[str]:
    """Norm of every stage; `mixed` takes contrast and stain out early and keeps what the image shows later.

    Source: the division follows IBN-Net (Pan et al., ECCV 2018), with GroupNorm in BatchNorm's place.
    """
    if name != "mixed":
        return [name] * stages
    return ["instance" if index < stages // 2 else "group" for index in range(stages)]


def _upsample(coarse: Tensor, size: Sequence[int]) -> Tensor:
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return functional.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False)


class _Block(nn.Module):
    """Two convolutions with a shortcut around them; the first one may stride."""

    def __init__(self, dimensions: int, inward: int, outward: int, stride: int, norm: str) -> None:
        super().__init__()
        self.first = _conv(dimensions, inward, outward, stride=stride)
        self.first_norm = _norm(norm, dimensions, outward)
        self.second = _conv(dimensions, outward, outward)
        self.second_norm = _norm(norm, dimensions, outward)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inward != outward:
            self.shortcut = _conv(dimensions, inward, outward, side=1, stride=stride)

    def forward(self, image: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(image)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut(image))


class _ResidualEncoder(nn.Module):
    """A stem and one residual block a stage, each stage half the resolution of the one before."""

    def __init__(
        self, channels: int, size: tuple[int, ...], widths: Sequence[int], *, norm: str = "mixed"
    ) -> None:
        super().__init__()
        dimensions = len(size)
        stride = 2 if min(size) >= SMALL_SIDE else 1
        norms = _norms(norm, len(widths))
        self.stem = nn.Sequential(
            _conv(dimensions, channels, widths[0], stride=stride),
            _norm(norms[0], dimensions, widths[0]),
            nn.ReLU(),
        )
        before = (widths[0], *widths[:-1])
        self.stages = nn.ModuleList(
            _Block(dimensions, inward, outward, 1 if index == 0 else 2, norms[index])
            for index, (inward, outward) in enumerate(zip(before, widths, strict=True))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class _UNet(nn.Module):
    """An encoder and a decoder that adds what comes from below to what comes across; any size fits."""

    def __init__(
        self, channels: int, size: tuple[int, ...], widths: Sequence[int], *, norm: str = "group"
    ) -> None:
        super().__init__()
        dimensions = len(size)
        norms = _norms(norm, len(widths))
        before = (channels, *widths[:-1])
        self.down = nn.ModuleList(
            _Block(dimensions, inward, outward, 1 if index == 0 else 2, norms[index])
            for index, (inward, outward) in enumerate(zip(before, widths, strict=True))
        )
        pairs = list(pairwise(widths))[::-1]
        self.narrow = nn.ModuleList(_conv(dimensions, deep, shallow, side=1) for shallow, deep in pairs)
        self.up = nn.ModuleList(
            _Block(dimensions, shallow, shallow, 1, own)
            for (shallow, _), own in zip(pairs, norms[-2::-1], strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self.down:
            image = stage(image)
            maps.append(image)
        skips = maps[-2::-1]
        for narrow, up, skip in zip(self.narrow, self.up, skips, strict=True):
            image = up(skip + _upsample(narrow(image), skip.shape[2:]))
            maps.append(image)
        return maps


def _own(
    network: Callable[..., nn.Module], backbone: Backbone, channels: int, size: tuple[int, ...]
) -> nn.Module:
    if not 2 <= len(backbone.widths) <= 8 or any(not 1 <= width <= 1024 for width in backbone.widths):
        raise ValueError(f"`widths` has {backbone.widths}, expected 2 to 8 numbers of 1 to 1024")
    return network(channels, size, backbone.widths, **backbone.arguments)


Builder = Callable[[Backbone, int, tuple[int, ...]], nn.Module]
_OWN: dict[str, Builder] = {
    "residual_encoder": partial(_own, _ResidualEncoder),
    "unet": partial(_own, _UNet),
}


# --- MONAI's networks, tapped at their stages --------------------------------------------------------------


class _Tapped(nn.Module):
    """A network of MONAI whose stage outputs are kept by forward hooks."""

    def __init__(
        self, net: nn.Module, taps: Sequence[nn.Module], grid: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.count = len(taps)
        self.grid = grid
        self._kept: dict[int, Tensor] = {}
        for index, tap in enumerate(taps):
            tap.register_forward_hook(partial(self._keep, index))

    def _keep(self, index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._kept[index] = output

    def forward(self, image: Tensor) -> list[Tensor]:
        self._kept.clear()
        self.net(image)
        maps = [self._kept.pop(index) for index in range(self.count)]
        if self.grid is None:
            return maps
        # tokens (B, N, C) of a transformer back to their places
        return [tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid) for tokens in maps]


_FAMILIES = {
    "ResNet": re.compile(r"ResNet|resnet(10|18|34|50|101|152|200)"),
    "DenseNet": re.compile(r"DenseNet(121|169|201|264)?"),
    "UNet": re.compile(r"UNet"),
    "SegResNet": re.compile(r"SegResNet"),
    "ViT": re.compile(r"ViT"),
}


def _monai_builder(name: str) -> Builder:
    for family, pattern in _FAMILIES.items():
        if pattern.fullmatch(name):
            return partial(_monai, family)
    known = ", ".join(["residual_encoder", "unet", "resnet10 … resnet200", *_FAMILIES])
    raise InputError(f"backbone: network `{name}`, expected one of {known}")


def _monai(family: str, backbone: Backbone, channels: int, size: tuple[int, ...]) -> nn.Module:
    from monai.networks import nets

    if "pretrained" in backbone.arguments:
        raise InputError(
            "backbone: `pretrained` would fetch weights over the network, expected none",
            hint="give weights as a local file instead",
        )
    make = getattr(nets, backbone.network)
    arguments = _arguments(family, backbone, channels, size)
    net: nn.Module = make(**arguments)
    if family == "ResNet":
        _hand_norm_down(net, arguments.get("norm", "batch"), len(size))
    if family == "ViT":
        patch = arguments["patch_size"]
        sides = [patch] * len(size) if isinstance(patch, int) else list(patch)
        return _Tapped(net, _TAPS[family](net), tuple(s // p for s, p in zip(size, sides, strict=True)))
    return _Tapped(net, _TAPS[family](net))


def _arguments(family: str, backbone: Backbone, channels: int, size: tuple[int, ...]) -> dict[str, Any]:
    widths = backbone.widths
    fitting: dict[str, dict[str, Any]] = {
        "ResNet": {"n_input_channels": channels, "feed_forward": False, "conv1_t_stride": 2},
        "DenseNet": {"in_channels": channels, "out_channels": 2},
        "UNet": {
            "in_channels": channels,
            "out_channels": widths[0],
            "channels": widths,
            "strides": (2,) * (len(widths) - 1),
        },
        "SegResNet": {"in_channels": channels, "out_channels": 2, "init_filters": widths[0]},
        "ViT": {"in_channels": channels, "img_size": size, "patch_size": 16, "classification": False},
    }
    if backbone.network == "ResNet":
        fitting["ResNet"]["block_inplanes"] = widths
    given = {key: _tuples(value) for key, value in backbone.arguments.items()}
    return {"spatial_dims": len(size), **fitting[family], **given}


def _tuples(value: Any) -> Any:
    """TOML and JSON lists as the tuples that MONAI asks for."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list | tuple) else value


def _hand_norm_down(net: nn.Module, norm: Any, dimensions: int) -> None:
    """MONAI's ResNet hands `norm` to its first layer alone; bring the others in line with it."""
    from monai.networks.layers.utils import get_norm_layer

    if (norm if isinstance(norm, str) else norm[0]).lower() == "batch":
        return
    for parent in list(net.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                layer = get_norm_layer(name=norm, spatial_dims=dimensions, channels=module.num_features)
                setattr(parent, name, layer)


def _unet_taps(net: Any) -> list[nn.Module]:
    down, up, node = [], [], net.model
    # MONAI nests Sequential(down, SkipConnection(deeper), up) to the bottom layer
    while isinstance(node, nn.Sequential) and len(node) == 3 and hasattr(node[1], "submodule"):
        down.append(node[0])
        up.append(node[2])
        node = cast(Any, node[1]).submodule
    return [*down, node, *up[::-1]]


def _vit_taps(net: Any) -> list[nn.Module]:
    depth = len(net.blocks)
    places = sorted({math.ceil(depth * part / VIT_SCALES) - 1 for part in range(1, VIT_SCALES)})
    return [*(net.blocks[place] for place in places if place < depth - 1), net.norm]


def _densenet_taps(net: Any) -> list[nn.Module]:
    transitions = [module for name, module in net.features.named_children() if name.startswith("transition")]
    return [net.features.relu0, *transitions, net.class_layers.relu]


_TAPS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "ResNet": lambda net: [net.act, net.layer1, net.layer2, net.layer3, net.layer4],
    "DenseNet": _densenet_taps,
    "UNet": _unet_taps,
    "SegResNet": lambda net: [*net.down_layers, *net.up_layers],
    "ViT": _vit_taps,
}


# --- weights -----------------------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's generator as seeded here, and leave its state outside untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def state_of(module: nn.Module) -> dict[str, npt.NDArray[np.generic]]:
    """Weights of a module by name, as NumPy copies on the host."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}


def set_state(
    module: nn.Module, weights: Mapping[str, npt.NDArray[np.generic]], where: str = "weights"
) -> None:
    """Put `weights` into a module.

    Args:
        weights: Tensors by the module's names; or by those of MONAI's network inside it, whose classifier is
            then left out.
        where: What the weights come from, for the message.

    Raises:
        InputError: A name is missing, unknown or has another shape.
    """
    own = module.state_dict()
    weights = _aligned(set(own), weights)
    for name in sorted(set(own) ^ set(weights)):
        fault = "has no tensor" if name in own else "has an unknown tensor"
        raise InputError(f"{where}: {fault} `{name}`", hint="is it of another backbone or recipe?")
    for name, value in weights.items():
        if tuple(own[name].shape) != value.shape:
            raise InputError(f"{where}: `{name}` has shape {value.shape}, expected {tuple(own[name].shape)}")
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})


def load_weights(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read the tensors of a PyTorch checkpoint, as pretrained networks come; nothing in it is executed.

    Raises:
        InputError: The file is missing, or holds something else than tensors by name.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a checkpoint of tensors alone: {reason}") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: not a checkpoint of tensors alone, expected tensors by name")
    return {str(name).removeprefix("module."): value.numpy().copy() for name, value in content.items()}


def _aligned(
    own: set[str], weights: Mapping[str, npt.NDArray[np.generic]]
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Weights under the names of a backbone, where they have those of the network inside it."""
    for prefix in ("net.", "net.net."):
        named = {prefix + name: value for name, value in weights.items()}
        if own <= set(named):
            return {name: named[name] for name in own}
    return weights
