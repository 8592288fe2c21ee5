"""Training with noise: whose gradient counts how much, what noise is on it, and what is spent when."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import functional_call, jacrev

from fedmed_edge.errors import InputError, Withheld
from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.objectives import plain_objective, task_loss
from fedmed_edge.features.patients import PrivateTraining
from fedmed_edge.features.private_training import PatientFeed, noisy_gradient, train_private
from fedmed_edge.features.training import Network, build_network
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Training
from fedmed_edge.statistics.header import Privacy

Task = tuple[Any, Dataset, Any]
SILENT = 1e-12
"""Of a noise that is none."""


def privacy(noise: float = SILENT, **more: Any) -> Privacy:
    return Privacy(**({"epsilon": 8.0, "delta": 1e-5, "clip": 1.0, "noise": noise, "sampling": 0.5} | more))


def planned(spend: Callable[[], None] = lambda: None, **more: Any) -> PrivateTraining:
    return PrivateTraining("0" * 32, privacy(**more), spend)


def three_each(dataset: Dataset) -> Dataset:
    """Every patient has three images."""
    items = [replace(item, patient=f"p{index // 3}") for index, item in enumerate(dataset.items)]
    return replace(dataset, items=tuple(items))


def gradient_of(network: Network) -> torch.Tensor:
    parts = [value.grad for value in network.parameters()]
    assert all(part is not None for part in parts)
    return torch.cat([part.reshape(-1) for part in parts if part is not None])


# --- clipping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
@pytest.mark.parametrize("clip", [0.05, 1e3])
def test_each_patients_mean_gradient_is_clipped_as_a_whole(
    kind: str, clip: float, images_task: Task, pixels_task: Task
) -> None:
    recipe, dataset, _ = images_task if kind == "classification" else pixels_task
    network = build_network(recipe).eval()  # no dropout
    drawn = list(PatientFeed(three_each(dataset), count=4).draw(1.0))
    assert len(drawn) == len(dataset) // 3 and all(len(images) == 3 for images, _ in drawn)
    noisy_gradient(network, plain_objective(recipe), drawn, privacy(clip=clip))

    names, loss = [name for name, _ in network.named_parameters()], task_loss(recipe)
    wanted = torch.zeros(sum(value.numel() for value in network.parameters()))
    for images, targets in drawn:

        def of(weights: Any, images: Any = images, targets: Any = targets) -> Any:
            return loss(functional_call(network, weights, (images,)), targets)

        slopes = jacrev(of)(dict(network.named_parameters()))
        flat = torch.cat([slopes[name].detach().reshape(-1) for name in names])
        wanted += flat * min(1.0, clip / float(torch.linalg.vector_norm(flat)))
    torch.testing.assert_close(gradient_of(network), wanted, rtol=1e-4, atol=1e-6)
    if clip < 1:
        assert torch.linalg.vector_norm(wanted) <= clip * len(drawn) * (1 + 1e-5)


def test_no_patient_moves_the_sum_by_more_than_the_clip(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    network, drawn = build_network(recipe).eval(), []
    for images, targets in PatientFeed(three_each(dataset), count=4).draw(1.0):
        drawn.append((images * 1e3, targets))  # patients who would count for much
    noisy_gradient(network, plain_objective(recipe), drawn, privacy(clip=0.3))
    whole = gradient_of(network)
    for index in range(len(drawn)):
        others = drawn[:index] + drawn[index + 1 :]
        noisy_gradient(network, plain_objective(recipe), others, privacy(clip=0.3))
        moved = float(torch.linalg.vector_norm(whole - gradient_of(network)))
        assert moved <= 0.3 * (1 + 1e-4)


def test_a_patient_whose_gradient_is_none_counts_for_nothing(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    network = build_network(recipe).eval()
    first, other = list(PatientFeed(dataset, count=4).draw(1.0))[:2]
    noisy_gradient(network, plain_objective(recipe), [first], privacy())
    alone = gradient_of(network)
    broken = (torch.full_like(other[0], math.nan), other[1])
    noisy_gradient(network, plain_objective(recipe), [first, broken], privacy())
    torch.testing.assert_close(gradient_of(network), alone)


# --- noise and draws -------------------------------------------------------------------------------------


def test_the_noise_is_gaussian_of_the_stated_deviation_on_every_weight(images_task: Task) -> None:
    recipe, _, _ = images_task
    network, steps = build_network(recipe), []
    for _ in range(8):
        assert noisy_gradient(network, plain_objective(recipe), [], privacy(noise=1.7, clip=0.4)) == []
        steps.append(gradient_of(network).numpy())
    noise = np.array(steps)
    assert noise.size > 20_000 and stats.kstest(noise.ravel(), "norm", args=(0, 1.7 * 0.4)).pvalue > 1e-6
    assert np.abs(np.corrcoef(noise)[np.triu_indices(8, 1)]).max() < 5 / math.sqrt(noise.shape[1])
    ends = np.cumsum([value.numel() for value in network.parameters()])
    for part in np.split(noise, ends[:-1], axis=1):
        assert part.std() == pytest.approx(1.7 * 0.4, rel=5 / math.sqrt(part.size))


def test_every_patient_is_drawn_apart_and_as_often(images_task: Task) -> None:
    _, dataset, _ = images_task
    feed = PatientFeed(three_each(dataset), count=2)
    assert feed.patients == 8
    drawn: Counter[int] = Counter()
    sizes = []
    feed._feed.batch_of = lambda items: items  # type: ignore[method-assign,assignment,return-value]
    for _ in range(4000):
        step: list[Any] = list(feed.draw(0.3))
        assert all(len(items) == 2 and len({item // 3 for item in items}) == 1 for items in step)
        drawn.update(items[0] // 3 for items in step)
        sizes.append(len(step))
    assert stats.chisquare([drawn[index] for index in range(8)]).pvalue > 1e-6
    counts = np.bincount(sizes, minlength=9)
    wanted = stats.binom.pmf(np.arange(9), 8, 0.3) * len(sizes)
    few = wanted < 5
    got = [*counts[~few], counts[few].sum()]
    assert stats.chisquare(got, [*wanted[~few], wanted[few].sum()]).pvalue > 1e-6


# --- the whole -------------------------------------------------------------------------------------------


def test_with_next_to_no_noise_it_learns(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    backbone = recipe.backbone.model_copy(update={"arguments": {"norm": "group"}})
    network, told = build_network(recipe.model_copy(update={"backbone": backbone})), list[str]()
    private = planned(noise=1e-6, steps=100)
    result = train_private(
        network, three_each(dataset), private, learning_rate=3e-3, device="cpu", progress=told.append
    )
    assert len(told) == 100 and told[-1].startswith("loss ") and not network.training
    assert result.losses[-40:].mean() < 0.8 * result.losses[:40].mean()


@pytest.mark.parametrize("how", [Training(maps=1.0, consistency=1.0, episodic=True), Training(proximal=1.0)])
def test_shifts_and_episodes_see_one_patient_at_a_time(how: Training, pixels_task: Task) -> None:
    recipe, dataset, _ = pixels_task
    network = build_network(recipe)
    result = train_private(network, dataset, planned(noise=0.5, steps=3), how=how, device="cpu")
    assert np.isfinite(result.losses).all()
    assert all(np.isfinite(value).all() for value in state_of(network).values())


def test_nobody_knows_its_draws_whatever_seed_was_asked_for(images_task: Task) -> None:
    recipe, dataset, _ = images_task
    states = []
    for _ in range(2):
        network = build_network(recipe, seed=5)
        train_private(network, dataset, planned(noise=0.5, steps=2), device="cpu")
        states.append(state_of(network))
    assert not any(np.array_equal(value, states[1][name]) for name, value in states[0].items())


def test_it_is_spent_before_the_first_step_and_not_for_what_cannot_begin(
    images_task: Task, tmp_path: Path, make: SimpleNamespace
) -> None:
    recipe, dataset, _ = images_task
    network, spent = build_network(recipe), list[str]()

    def refuse() -> None:
        spent.append("asked")
        raise Withheld("privacy budget: none")

    before = state_of(network)
    with pytest.raises(Withheld, match="privacy budget"):
        train_private(network, dataset, planned(refuse, steps=2), device="cpu")
    assert spent == ["asked"]
    assert all(np.array_equal(value, before[name]) for name, value in state_of(network).items())
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = replace(dataset.items[3], image=tmp_path / "broken.png")
    items = (*dataset.items[:3], broken, *dataset.items[4:])
    with pytest.raises(InputError, match=r"broken\.png"):
        train_private(network, replace(dataset, items=items), planned(refuse, steps=2), device="cpu")
    assert spent == ["asked"]
