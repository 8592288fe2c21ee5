"""What a batch costs: the task's loss, with generated shifts that of both views and how far they are apart.

Source: method §6. Episodes follow FedDG (Liu et al., CVPR 2021), the proximal term FedProx (Li et al., MLSys
2020).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedmed_edge.images.preprocess import IGNORE
from fedmed_edge.recipe import Recipe, Training

__all__ = [
    "INNER_RATE",
    "Adjust",
    "Objective",
    "consistency",
    "plain_objective",
    "shifted_objective",
    "task_loss",
    "toward",
]

INNER_RATE = 1e-3
"""Of an episode's step on the original images, as in FedDG."""

Objective = Callable[[Any, Tensor, Tensor], Tensor]
"""Loss of a batch: network, images and their targets, all on one device."""

Loss = Callable[[Tensor, Tensor], Tensor]
Adjust = Callable[[Any], None]
"""Changes a network's gradients."""


def plain_objective(recipe: Recipe) -> Objective:
    """The task's loss on the images as they are."""
    loss = task_loss(recipe)
    return lambda network, images, targets: loss(network(images).float(), targets)


def shifted_objective(
    recipe: Recipe, shift: Callable[[Tensor], Tensor], how: Training, *, weight: float = 1.0
) -> Objective:
    """Loss on the images as they are and on their shifted view, and how far the two answers are apart.

    Args:
        shift: The other view of a batch (`shifts.Shift`).
        how: Its `consistency` and whether training is `episodic`: then the shifted view is answered after a
            step on the original one. The step counts as fixed (first order), so that an episode costs no
            more than two views do.
        weight: Of the loss on the shifted view, the original's being 1.
    """
    loss = task_loss(recipe)

    def objective(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        shifted = shift(images)
        scores = network(images).float()
        first, asked = loss(scores, targets), network
        if how.episodic:
            scores = scores.detach()
            first, asked = _after_a_step(network, first)
        others = asked(shifted).float()
        total = (first + weight * loss(others, targets)) / (1 + weight)
        if how.consistency:
            total = total + how.consistency * consistency(recipe, scores, others, targets != IGNORE)
        return total

    return objective


def _after_a_step(network: nn.Module, first: Tensor) -> tuple[Tensor, Any]:
    """`first` once more, its gradient at hand; and the network a step down from it."""
    named = {name: value for name, value in network.named_parameters() if value.requires_grad}
    slopes = torch.autograd.grad(first, list(named.values()), allow_unused=True)
    known = [
        (name, value, slope)
        for (name, value), slope in zip(named.items(), slopes, strict=True)
        if slope is not None
    ]
    # Linear with the same gradient, so that nothing goes back through the original view a second time.
    line = torch.stack([(value * slope).sum() for _, value, slope in known]).sum()
    moved = {name: value - INNER_RATE * slope for name, value, slope in known}
    return first.detach() + line - line.detach(), partial(functional_call, network, moved)


def consistency(recipe: Recipe, scores: Tensor, others: Tensor, known: Tensor | None = None) -> Tensor:
    """How far two answers to the same images are apart; 0 where they are equal.

    Classification: the mean of both Kullback-Leibler divergences. Segmentation: 1 minus soft Dice with
    squares below, mean over classes.

    Args:
        scores, others: (B, C, …) float32.
        known: (B, …) bool, segmentation only: False is padding, which takes no part.

    Example:
        >>> recipe = Recipe(name="lesion", kind="classification", classes=("a", "b"))
        >>> float(consistency(recipe, torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])))
        0.0
    """
    if recipe.kind == "classification":
        one, other = scores.log_softmax(1), others.log_softmax(1)
        return ((one.exp() - other.exp()) * (one - other)).sum(1).mean() / 2
    inside = 1.0 if known is None else known[:, None]
    one, other = ((values.softmax(1) * inside).movedim(1, 0).flatten(1) for values in (scores, others))
    return 1 - (2 * (one * other).sum(1) / (one.square() + other.square()).sum(1)).mean()


def toward(centre: Mapping[str, npt.NDArray[np.generic]], strength: float) -> Adjust:
    """Gradient of strength/2 ‖w − centre‖² is added to that of the loss.

    Args:
        centre: Weights by name; those that are not in it are left alone.
    """
    values: dict[str, Tensor] = {}

    def adjust(network: nn.Module) -> None:
        for name, value in network.named_parameters():
            if value.grad is not None and name in centre:
                if name not in values:
                    values[name] = torch.from_numpy(np.array(centre[name])).to(value.device)
                value.grad += strength * (value.detach() - values[name])

    return adjust


def task_loss(recipe: Recipe) -> Loss:
    """What a task is trained by: loss of scores (B, C, …) float32 against labels (B, …)."""
    return _classification_loss if recipe.kind == "classification" else _SegmentationLoss()


def _classification_loss(scores: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(scores, labels, label_smoothing=0.1)


class _SegmentationLoss:
    """Cross-entropy plus soft Dice of the foreground over the batch; padding takes part in neither."""

    def __init__(self) -> None:
        self.dice = DiceLoss(include_background=False, batch=True)

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        known = (labels != IGNORE)[:, None]
        classes = scores.shape[1]
        wanted = functional.one_hot(labels.clamp_max(classes - 1), classes).movedim(-1, 1)
        dice = self.dice(scores.softmax(1) * known, wanted * known)
        entropy = functional.cross_entropy(scores, labels, ignore_index=IGNORE)
        total: Tensor = dice + entropy
        return total
