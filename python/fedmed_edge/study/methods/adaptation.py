"""Models of the others, fitted to the unlabelled images of the hospital in question."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.local_norms import norm_names
from fedmed_edge.features.training import LEARNING_RATE, Network
from fedmed_edge.features.weights import Weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.images.windows import cover
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.work import Learned, Option, network_predictor

Chosen = Callable[[Network], set[str]]


def tent(case: Case, option: Option) -> Iterator[Learned]:
    """Entropy of the answers is made small, by the norm layers' affine part alone.

    The paper also takes BatchNorm's statistics from the batch; our backbones have none.

    Source: Wang et al., TENT, ICLR 2021.
    """
    yield from _adapted(case, option, norm_names)


def entropy(case: Case, option: Option) -> Iterator[Learned]:
    """Entropy of the answers is made small, by all weights of the backbone; the head stays.

    Source: Grandvalet & Bengio, NeurIPS 2004; the head stays as in SHOT (Liang et al., ICML 2020).
    """
    yield from _adapted(
        case,
        option,
        lambda network: {name for name, _ in network.backbone.named_parameters(prefix="backbone")},
    )


def _adapted(case: Case, option: Option, chosen: Chosen) -> Iterator[Learned]:
    network = case.referred()
    start = state_of(network)
    names, data = chosen(network), case.sites[case.site]
    for name, value in network.named_parameters():
        value.requires_grad_(name in names)
    trained = [value for value in network.parameters() if value.requires_grad]
    rate = LEARNING_RATE[case.recipe.kind] * option["rate"]
    optimiser = torch.optim.Adam(trained, lr=rate)
    batches = _batches(data, case.budget.batch, case.seed)
    while True:
        began = time.perf_counter()
        _sharpen(network, optimiser, batches, case.budget.local_steps)
        case.meter.compute(case.site, time.perf_counter() - began)
        weights: Weights = state_of(network.eval())
        yield Learned(network_predictor(case, start), {case.site: network_predictor(case, weights)})


def _sharpen(
    network: Network, optimiser: torch.optim.Optimizer, batches: Iterator[Tensor], steps: int
) -> None:
    """Some steps down the entropy of the answers."""
    network.eval()  # without dropout: what is sharpened is what will be answered
    for _ in range(steps):
        log_probabilities = network(next(batches)).float().log_softmax(dim=1)
        loss = -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()


def _batches(data: Dataset, size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches (B, C, *size) of a site's images as they are, in random order."""
    random = np.random.default_rng(seed)
    images = [
        np.ascontiguousarray(window)
        for item in data
        for window in cover(prepare(data.load(item), data.recipe).pixels, data.recipe.size)
    ]
    while True:
        order = random.permutation(len(images))
        for start in range(0, len(order), size):
            yield torch.from_numpy(np.stack([images[index] for index in order[start : start + size]]))
