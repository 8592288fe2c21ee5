"""Locally tuned models, merged once at the server: no rounds."""

import time
from collections.abc import Iterator, Mapping
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.weights import Weights, average_weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.images.windows import cover
from fedmed_edge.model.solve import on_one_thread, one_thread
from fedmed_edge.study.methods.averaging import FedAvg, alone, cycle_alone
from fedmed_edge.study.methods.method import Case
from fedmed_edge.study.methods.work import Learned, Option, network_predictor, size_of, with_weights

Float64 = npt.NDArray[np.float64]

GRAM_IMAGES = 24
"""Training images whose activations a site takes its layers' Grams over."""


def weight_average(case: Case, option: Option) -> Iterator[Learned]:
    """Mean of the weights, by images, of models that every site tuned from the reference."""
    for mixed in averaged(case, option):
        yield Learned(network_predictor(case, mixed))


def averaged(case: Case, option: Option) -> Iterator[Weights]:
    """That mean, after each cycle."""
    for tuned in _tuned(case, option):
        began = time.perf_counter()
        mixed = average_weights(list(tuned.values()), [len(case.labelled[site]) for site in tuned])
        case.meter.server_seconds += time.perf_counter() - began
        yield mixed


def gram_merge(case: Case, option: Option) -> Iterator[Learned]:
    """Regression mean: every linear layer and convolution as the least-squares fit to all sites' layers.

    W = (Σ G_s)⁻¹ Σ G_s W_s with G_s the Gram of the layer's inputs, its off-diagonal part times `scale`; all
    other weights are averaged.

    Source: Jin et al., Dataless Knowledge Fusion (RegMean), ICLR 2023.
    """
    for tuned in _tuned(case, option):
        grams = {}
        for site, weights in tuned.items():
            began = time.perf_counter()
            grams[site] = layer_grams(case, weights, case.labelled[site])
            case.meter.compute(site, time.perf_counter() - began)
            case.meter.transfer(site, sent=sum(8 * gram.size // 2 for gram in grams[site].values()))
        began = time.perf_counter()
        counts = [len(case.labelled[site]) for site in tuned]
        mixed = dict(average_weights(list(tuned.values()), counts))
        for name in next(iter(grams.values())):
            mixed[name] = regression_mean(
                [grams[site][name] for site in tuned],
                [weights[name] for weights in tuned.values()],
                option["scale"],
            )
        case.meter.server_seconds += time.perf_counter() - began
        yield Learned(network_predictor(case, mixed))


@on_one_thread
def regression_mean(
    grams: list[Float64], weights: list[npt.NDArray[np.generic]], scale: float
) -> npt.NDArray[np.generic]:
    """Merged weight (out, in, …) of one layer.

    Args:
        grams: (I, I) of each site, I inputs of an output with its kernel.
        weights: (out, in, …) of each site.
        scale: Factor of the Grams' off-diagonal part, in [0, 1].
    """
    shape, dtype = weights[0].shape, weights[0].dtype
    total, right = np.zeros_like(grams[0]), np.zeros((grams[0].shape[0], shape[0]))
    for gram, weight in zip(grams, weights, strict=True):
        shrunk = scale * gram + (1 - scale) * np.diag(np.diag(gram))
        total += shrunk
        right += shrunk @ weight.reshape(shape[0], -1).T.astype(np.float64)
    total += 1e-6 * max(np.trace(total) / len(total), 1e-12) * np.eye(len(total))
    return np.asarray(np.linalg.solve(total, right).T.reshape(shape)).astype(dtype)


def layer_grams(case: Case, weights: Weights, data: Dataset) -> dict[str, Float64]:
    """Gram of the inputs of every linear layer and two-dimensional convolution, by its weight's name.

    Taken over the mean of a place, so that a layer's size and an image's do not weigh.
    """
    network = with_weights(case.recipe, weights).eval()
    grams: dict[str, Float64] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            rows = _rows(layer, inputs[0]).numpy().astype(np.float64)
            gram = rows.T @ rows / len(rows)
            grams[name] = grams[name] + gram if name in grams else gram

        layer.register_forward_hook(hook)

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and _plain(layer)):
            watch(f"{name}.weight", layer)
    picked = np.random.default_rng(case.seed).permutation(len(data))[:GRAM_IMAGES]
    with torch.inference_mode(), one_thread():  # the same bits whatever the cores
        for index in sorted(picked.tolist()):
            pixels = prepare(data.load(data.items[index]), data.recipe).pixels
            network(torch.from_numpy(np.ascontiguousarray(next(cover(pixels, data.recipe.size))))[None])
    return grams


def _plain(layer: nn.Conv2d) -> bool:
    """Whether its inputs can be laid out as rows."""
    return layer.groups == 1 and not isinstance(layer.padding, str)


def _rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer multiplies its weight with, one row an output place."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        patches = functional.unfold(
            inputs,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=layer.padding,
            stride=layer.stride,
        )
        return patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return inputs.reshape(-1, inputs.shape[-1])


def _tuned(case: Case, option: Option) -> Iterator[Mapping[str, Weights]]:
    """Every site's own model, tuned from the reference, after each cycle; sent to the server once."""
    start = state_of(case.referred())
    trained = {site: FedAvg(alone(case, site), option, start) for site in case.labelled}
    for site in trained:
        case.meter.transfer(site, sent=size_of(start))
    for number in count():
        cycle_alone(case, trained, number)
        yield {site: one.common for site, one in trained.items()}
