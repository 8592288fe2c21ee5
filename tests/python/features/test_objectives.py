"""What a batch costs with generated shifts: consistency, episodes, the proximal term."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fedmed_edge.features.objectives import (  # noqa: E402
    INNER_RATE,
    consistency,
    plain_objective,
    shifted_objective,
    task_loss,
    toward,
)
from fedmed_edge.images.preprocess import IGNORE  # noqa: E402
from fedmed_edge.recipe import Training  # noqa: E402

KINDS = ["classification", "segmentation"]


def random_of(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


def toy(kind: str) -> tuple[Any, Any, Any]:
    """A linear network, images and targets."""
    images = torch.randn(6, 1, 8, 8, generator=random_of(0))
    torch.manual_seed(0)
    if kind == "classification":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images, torch.arange(6) % 2
    return nn.Conv2d(1, 2, 3, padding=1), images, (images[:, 0] > 0).long()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_predictions_cost_nothing_and_pull_nowhere(kind: str, make: SimpleNamespace) -> None:
    recipe = make.recipe(kind, (8, 8))
    shape = (4, 2) if kind == "classification" else (4, 2, 8, 8)
    scores = (30 * torch.randn(shape, generator=random_of(1))).requires_grad_()
    others = scores.detach().clone().requires_grad_()
    consistency(recipe, scores, others).backward()
    assert consistency(recipe, scores, others).item() == pytest.approx(0, abs=1e-6)
    assert max(scores.grad.abs().max(), others.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_unequal_predictions_cost_and_come_nearer(kind: str, scale: float, make: SimpleNamespace) -> None:
    recipe = make.recipe(kind, (8, 8))
    shape = (4, 2) if kind == "classification" else (4, 2, 8, 8)
    one, other = ((scale * torch.randn(shape, generator=random_of(n))).requires_grad_() for n in (1, 2))
    before = consistency(recipe, one, other)
    before.backward()
    assert before > 0
    assert all(torch.isfinite(scores.grad).all() for scores in (one, other))
    if scale == 1:
        nearer = [scores.detach() - 0.1 * scores.grad for scores in (one, other)]
        assert consistency(recipe, *nearer) < before


def test_consistency_is_what_scipy_and_numpy_say(make: SimpleNamespace) -> None:
    from scipy.stats import entropy

    one, other = (torch.randn(5, 3, generator=random_of(n)) for n in (1, 2))
    p, q = (scores.double().softmax(1).numpy() for scores in (one, other))
    wanted = (entropy(p, q, axis=1) + entropy(q, p, axis=1)).mean() / 2
    assert float(consistency(make.recipe("classification", (8, 8)), one, other)) == pytest.approx(
        wanted, rel=1e-4
    )
    one, other = (torch.randn(5, 3, 4, 4, generator=random_of(n)) for n in (1, 2))
    p, q = (np.moveaxis(scores.double().softmax(1).numpy(), 1, 0).reshape(3, -1) for scores in (one, other))
    wanted = 1 - np.mean(2 * (p * q).sum(1) / ((p * p).sum(1) + (q * q).sum(1)))
    assert float(consistency(make.recipe("segmentation", (8, 8)), one, other)) == pytest.approx(
        wanted, rel=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_task_s_on_both_views_and_their_difference(kind: str, make: SimpleNamespace) -> None:
    recipe, (network, images, targets) = make.recipe(kind, (8, 8)), toy(kind)
    loss, how = task_loss(recipe), Training(consistency=0.7)
    scores, others = network(images), network(1 - images)
    got = shifted_objective(recipe, lambda batch: 1 - batch, how, weight=3.0)(network, images, targets)
    both = (loss(scores, targets) + 3 * loss(others, targets)) / 4
    torch.testing.assert_close(got, both + 0.7 * consistency(recipe, scores, others))
    torch.testing.assert_close(plain_objective(recipe)(network, images, targets), loss(scores, targets))


def test_padding_takes_no_part_in_any_term(make: SimpleNamespace) -> None:
    recipe, (network, images, targets) = make.recipe("segmentation", (8, 8)), toy("segmentation")
    padded = images.clone()
    padded[..., 6:] = 0.0
    targets[..., 6:] = IGNORE
    objective = shifted_objective(recipe, lambda batch: 1 - batch, Training(consistency=0.7))
    wanted = objective(lambda image: network(image)[..., :6], padded, targets[..., :6])
    torch.testing.assert_close(objective(network, padded, targets), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_is_the_shifted_loss_after_a_step_on_the_original(
    kind: str, make: SimpleNamespace
) -> None:
    recipe, (network, images, targets) = make.recipe(kind, (8, 8)), toy(kind)
    loss, how = task_loss(recipe), Training(consistency=0, episodic=True)
    got = shifted_objective(recipe, lambda batch: 1 - batch, how)(network, images, targets)
    slopes = torch.autograd.grad(got, list(network.parameters()))

    names = [name for name, _ in network.named_parameters()]
    first = loss(network(images), targets)
    down = torch.autograd.grad(first, list(network.parameters()))
    moved = {
        name: (value - INNER_RATE * slope).detach().requires_grad_()
        for name, value, slope in zip(names, network.parameters(), down, strict=True)
    }
    second = loss(torch.func.functional_call(network, moved, (1 - images,)), targets)
    torch.testing.assert_close(got, (first + second) / 2)
    for slope, one, other in zip(
        slopes, down, torch.autograd.grad(second, list(moved.values())), strict=True
    ):
        torch.testing.assert_close(slope, (one + other) / 2)


def test_episodes_lower_the_shifted_loss(make: SimpleNamespace) -> None:
    recipe, (network, images, targets) = make.recipe("classification", (8, 8)), toy("classification")
    shift, loss = (lambda batch: 2 * batch + 0.5), task_loss(recipe)
    objective = shifted_objective(recipe, shift, Training(episodic=True))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    before = loss(network(shift(images)), targets).item()
    for _ in range(30):
        optimiser.zero_grad()
        objective(network, images, targets).backward()
        optimiser.step()
    assert loss(network(shift(images)), targets).item() < 0.8 * before


def test_frozen_weights_take_no_step(make: SimpleNamespace) -> None:
    recipe, (network, images, targets) = make.recipe("segmentation", (8, 8)), toy("segmentation")
    network.bias.requires_grad_(False)
    shifted_objective(recipe, lambda batch: -batch, Training(episodic=True))(
        network, images, targets
    ).backward()
    assert network.bias.grad is None and torch.isfinite(network.weight.grad).all()


def test_the_proximal_term_pulls_towards_the_centre() -> None:
    network = nn.Linear(3, 2)
    centre = {"weight": np.zeros((2, 3), np.float32)}
    network(torch.zeros(1, 3)).sum().backward()
    bias = network.bias.grad.clone()
    toward(centre, 0.5)(network)
    torch.testing.assert_close(network.weight.grad, 0.5 * network.weight.detach())
    torch.testing.assert_close(network.bias.grad, bias)  # what has no centre is left alone
