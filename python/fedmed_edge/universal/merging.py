"""Where a stage starts from: one set of weights of several local models, or the generation's own.

`mean` (by training images, `image_weights`), `median`, `trimmed_mean` and `krum` look at weights alone;
`gram` is the regression mean, which brings every linear layer to (Σ_s G_s)⁻¹ Σ_s G_s W_s, G_s the Gram of its
inputs. Those are taken on the pool here: what a hospital's images give in the middle of a network never
leaves it.

Source: method §7; Blanchard et al., Krum, NeurIPS 2017; Jin et al., RegMean, ICLR 2023.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge import kernels
from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import MultiScale
from fedmed_edge.features.weights import Weights, image_weights

__all__ = ["Merge", "input_grams", "merge", "merge_by_gram"]

Merge: TypeAlias = Literal["none", "mean", "median", "trimmed_mean", "krum", "gram"]

TRIMMED = 0.1
"""Share of the models that `trimmed_mean` leaves out at either end of every value, rounded down, at least 1
where that leaves one."""

OFF_DIAGONAL = 0.9
"""What the Grams' values beside the diagonal are multiplied by, as the paper does."""

_RIDGE = 1e-6
_ROWS = 4096

Array = npt.NDArray[Any]


def merge(rule: Merge, models: Sequence[Weights], images: Sequence[int]) -> dict[str, Array]:
    """One set of weights of several, by a rule that looks at weights alone.

    Args:
        rule: Not `none` and not `gram`.
        models: Tensors of equal names and shapes; whole numbers are taken from the first.
        images: Training images behind each; `mean` alone asks.

    Raises:
        InputError: `krum` of fewer than three models, of which none stands out.

    Example:
        >>> models = [{"w": np.float32([value])} for value in (1, 2, 900)]
        >>> merge("median", models, [1, 1, 1])["w"].tolist()
        [2.0]
    """
    names = [name for name, value in models[0].items() if value.dtype.kind == "f"]
    flat = [np.concatenate([np.ravel(one[name]) for name in names]).astype(np.float32) for one in models]
    out = np.empty_like(flat[0])
    if rule == "mean":
        kernels.weighted_mean(flat, image_weights(images), out)
    elif rule == "median":
        kernels.median(flat, out)
    elif rule == "trimmed_mean":
        cut = min(max(1, int(TRIMMED * len(flat))), (len(flat) - 1) // 2)
        kernels.trimmed_mean(flat, cut, out)
    elif rule == "krum":
        out = flat[_central(kernels.pairwise_distances(flat))]
    else:
        raise ValueError(f"merge: `rule` has {rule}, expected mean, median, trimmed_mean or krum")
    merged = {name: np.array(value) for name, value in models[0].items()}
    start = 0
    for name in names:
        shape, kind = models[0][name].shape, models[0][name].dtype
        merged[name] = out[start : start + prod(shape)].reshape(shape).astype(kind)
        start += prod(shape)
    return merged


def _central(distances: npt.NDArray[np.float64]) -> int:
    """The model whose nearest neighbours are nearest, f = ⌊(S − 3) / 2⌋ of S being left out of account."""
    count = len(distances)
    if count < 3:
        raise InputError(
            f"stage: `krum` has {count} local models, expected at least 3", hint="merge by another rule"
        )
    near = count - (count - 3) // 2 - 2
    nearest = np.sort(distances**2, axis=1)[:, 1 : 1 + near]
    return int(nearest.sum(axis=1).argmin())


def merge_by_gram(
    models: Sequence[Weights], grams: Iterable[Mapping[str, Tensor]], others: Weights
) -> dict[str, Array]:
    """The regression mean: linear layers by their inputs' Grams, everything else as `others` has it.

    Args:
        models: Tensors by name.
        grams: Of every model, layer's weight → Gram (I, I) of its inputs, of `input_grams`; taken one after
            the other, since those of one model may be gigabytes.
        others: Such as the mean of the models.
    """
    totals: dict[str, Tensor] = {}
    crosses: dict[str, Tensor] = {}
    for model, own in zip(models, grams, strict=True):
        for name, inputs in own.items():
            gram = OFF_DIAGONAL * inputs + (1 - OFF_DIAGONAL) * torch.diag(inputs.diagonal())
            cross = gram @ torch.from_numpy(np.array(model[name])).double().flatten(1).T
            totals[name] = totals[name].add_(gram) if name in totals else gram
            crosses[name] = crosses[name].add_(cross) if name in crosses else cross
    merged = {name: np.array(value) for name, value in others.items()}
    for name, total in totals.items():
        level = _RIDGE * total.diagonal().mean().clamp_min(1e-12)
        solved = torch.linalg.solve(total + level * torch.eye(len(total)), crosses[name]).T
        merged[name] = solved.reshape(merged[name].shape).numpy().astype(merged[name].dtype)
    return merged


@torch.no_grad()
def input_grams(backbone: MultiScale, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Gram (I, I) float64, on the host, of what every linear layer and convolution takes in.

    Args:
        backbone: Its grouped and transposed convolutions are passed over.
        batches: Images (B, channels, *size).

    Returns:
        By the name of the layer's weight. Of a convolution I is its channels in times its places.
    """
    grams: dict[str, Tensor] = {}
    hooks = []
    for name, module in backbone.named_modules():
        wide = isinstance(module, nn.Conv2d | nn.Conv3d) and module.groups == 1
        if isinstance(module, nn.Linear) or wide:
            taken: Callable[..., None] = partial(_take, grams, f"{name}.weight")
            hooks.append(module.register_forward_pre_hook(taken))
    try:
        for images in batches:
            backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return grams


def _take(grams: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    rows = _input_rows(module, inputs[0]).double()
    gram = (rows.T @ rows).cpu() / len(rows)
    grams[name] = grams[name] + gram if name in grams else gram


def _input_rows(module: nn.Module, values: Tensor) -> Tensor:
    """Rows (N, I) whose product with the flattened weight, transposed, is what the layer puts out."""
    if isinstance(module, nn.Linear):
        rows = values.flatten(0, -2)
    else:
        assert isinstance(module, nn.Conv2d | nn.Conv3d)
        padding = [int(side) for side in module.padding for _ in (0, 1)][::-1]
        windows = functional.pad(values, padding)
        sides = [int(side) for side in module.kernel_size]
        for axis, (side, stride) in enumerate(zip(sides, module.stride, strict=True), start=2):
            windows = windows.unfold(axis, side, int(stride))
        axes = len(sides)
        order = [0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes)]
        windows = windows.permute(*order)  # a view, of which all rows together would be many gigabytes
        places = _evenly(prod(windows.shape[: 1 + axes]), values.device)
        return windows[torch.unravel_index(places, windows.shape[: 1 + axes])].flatten(1)
    return rows[_evenly(len(rows), values.device)]


def _evenly(count: int, place: torch.device) -> Tensor:
    """About `_ROWS` of so many rows: neighbours tell much the same."""
    return torch.arange(0, count, max(1, count // _ROWS), device=place)
