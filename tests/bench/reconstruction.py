"""How near an image comes that is optimised through the backbone until its features are those that leaked.

    .venv/bin/python tests/bench/reconstruction.py DATA GENERATION [--images 8] [--steps 300] [--quick]

The attacker knows the generation and the other images of the class, and looks for it among images made of
their principal axes, from their mean on. What leaked is the standardised feature of one image, which the
difference of two exact contributions shows, or the mean feature of ten (a class of `min_cohort` patients),
exact or with noise of ε 8. Beside the result stand the mean image and the other image that is nearest in
those features. PSNR in dB and SSIM, mean over the images with its 95 % interval.

`attack_style.py` and `attack_weights.py` look for images in the same way.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from attack_scores import mean_of, shown
from harness import end_with
from scipy.ndimage import uniform_filter

from fedmed_edge.features.backbones import build_backbone, set_state
from fedmed_edge.generation import Generation, read_generation
from fedmed_edge.images.dataset import read_dataset, read_task
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.statistics.accounting import noise_multiplier

Array = npt.NDArray[np.float64]
COHORT = 10
AXES = 200
RATE = 0.1
PENALTY = 1e-3


def read_class(data: Path) -> Array:
    """(N, channels, h, w) prepared images of the most frequent class."""
    task = read_task(data)
    found: dict[int, list[Array]] = {}
    for folder in task.sites.values():
        dataset = read_dataset(folder, task.recipe)
        for item in dataset:
            if item.label is not None:
                pixels = prepare(dataset.load(item), task.recipe).pixels
                found.setdefault(item.label, []).append(pixels.astype(np.float64))
    return np.stack(max(found.values(), key=len)).astype(np.float64)


class Encoder:
    """Pooled, standardised features of a generation's backbone, with gradients."""

    def __init__(self, generation: Generation) -> None:
        header = generation.header
        self.network: Any = build_backbone(
            header.backbone, kind=header.kind, channels=header.channels, size=header.size
        )
        set_state(self.network, generation.weights, "generation")
        self.network.eval().requires_grad_(False)
        self.mean, self.deviation = torch.tensor(generation.mean), torch.tensor(generation.deviation)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pooled = [scale.mean(dim=(2, 3)) for scale in self.network(images)]
        features: torch.Tensor = (torch.cat(pooled, dim=1) - self.mean) / self.deviation
        return features


@dataclass(frozen=True)
class Prior:
    """What the attacker knows of images: those of other patients, by their mean and principal axes.

    Attributes:
        mean: (P,) of all.
        axes: (K, P), each as long as the images deviate along it.
        shape: Of one image.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    shape: tuple[int, ...]

    def images(self, code: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) images of (B, K) deviations along the axes."""
        return (self.mean + code @ self.axes).view(len(code), *self.shape)


def prior_of(images: Array) -> Prior:
    """Of images (N, channels, h, w)."""
    rows = images.reshape(len(images), -1)
    mean = rows.mean(axis=0)
    centred = rows - mean
    vectors = np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, : min(AXES, len(rows) - 1)]
    axes = vectors.T @ centred / np.sqrt(len(rows))
    mean, axes = (torch.tensor(one, dtype=torch.float32) for one in (mean, axes))
    return Prior(mean, axes, images.shape[1:])


def searched(
    prior: Prior, count: int, loss: Callable[[torch.Tensor], torch.Tensor], steps: int, starts: int = 1
) -> Array:
    """The `count` images (B, channels, h, w) that make a loss of theirs least.

    Args:
        starts: The first search begins near the mean, further ones at images drawn from the prior.
    """
    random, found = torch.Generator().manual_seed(0), []
    for start in range(starts):
        # equal images would stay equal
        first = (1.0 if start else 0.1) * torch.randn(count, len(prior.axes), generator=random)
        code = first.requires_grad_(True)
        optimiser = torch.optim.Adam([code], lr=RATE)
        cycle = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            total = loss(prior.images(code)) + PENALTY * code.square().mean()
            (code.grad,) = torch.autograd.grad(total, code)
            optimiser.step()
            cycle.step()
        made = np.asarray(prior.images(code).detach().numpy(), np.float64)
        found.append((float(total.detach()), made))
    return min(found, key=lambda one: one[0])[1]


def optimised(encoder: Encoder, target: Array, prior: Prior, steps: int) -> Array:
    """The image whose features come nearest to `target`."""
    wanted = torch.tensor(target[None], dtype=torch.float32)
    return np.asarray(searched(prior, 1, lambda image: ((encoder(image) - wanted) ** 2).mean(), steps)[0])


def psnr(image: Array, truth: Array) -> float:
    span = float(truth.max() - truth.min())
    return float(10 * np.log10(span**2 / max(float(((image - truth) ** 2).mean()), 1e-12)))


def ssim(image: Array, truth: Array) -> float:
    """Wang et al. 2004 with a window of 7, mean over channels."""
    span = float(truth.max() - truth.min())
    first, second = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = []
    for one, two in zip(image, truth, strict=True):
        mean, other = uniform_filter(one, 7), uniform_filter(two, 7)
        variance = uniform_filter(one**2, 7) - mean**2
        varied = uniform_filter(two**2, 7) - other**2
        both = uniform_filter(one * two, 7) - mean * other
        values.append(
            ((2 * mean * other + first) * (2 * both + second))
            / ((mean**2 + other**2 + first) * (variance + varied + second))
        )
    return float(np.mean(values))


def leaked(name: str, features: Array, chosen: int, random: np.random.Generator) -> Array:
    """What the attacker holds of the image `chosen`."""
    if name == "one image":
        return np.asarray(features[chosen])
    others = random.permutation(np.delete(np.arange(len(features)), chosen))[: COHORT - 1]
    mean = features[[chosen, *others]].mean(axis=0)
    if name == "mean of ten":
        return np.asarray(mean)
    # a row is scaled to a length of √2 before it is clipped to 1; the noise is stretched back with it
    length = np.sqrt(features.shape[1])
    noise = noise_multiplier(8.0, 1 / COHORT**2) * np.sqrt(0.5) * 2.0 * length / COHORT
    return np.asarray(mean + noise * random.standard_normal(len(mean)))


def interval(values: Sequence[float]) -> str:
    """Mean and its 95 % interval."""
    return shown(mean_of(list(values), np.random.default_rng(0)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("generation", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="two images, fifty steps")
    options = parser.parse_args()
    if options.quick:
        options.images, options.steps = 2, 50
    torch.set_num_threads(1)
    random, encoder = np.random.default_rng(0), Encoder(read_generation(options.generation))
    images = read_class(options.data)
    with torch.no_grad():
        batches = np.array_split(images, max(1, len(images) // 16))
        features = np.concatenate(
            [encoder(torch.tensor(batch, dtype=torch.float32)).numpy() for batch in batches]
        ).astype(np.float64)
    chosen = random.permutation(len(images))[: options.images]
    print("| leaked | image | PSNR | SSIM |\n|---|---|---|---|")
    for name in ("one image", "mean of ten", "mean of ten, ε 8"):
        figures: dict[str, tuple[list[float], list[float]]] = {}
        for number in chosen:
            rest = np.delete(np.arange(len(images)), number)
            target, start = leaked(name, features, int(number), random), images[rest].mean(axis=0)
            nearest = rest[((features[rest] - target) ** 2).sum(axis=1).argmin()]
            found = {
                "optimised": optimised(encoder, target, prior_of(images[rest]), options.steps),
                "nearest other": images[nearest],
                "mean of the others": start,
            }
            for kind, image in found.items():
                both = figures.setdefault(kind, ([], []))
                both[0].append(psnr(image, images[number]))
                both[1].append(ssim(image, images[number]))
        for kind, both in figures.items():
            print(f"| {name} | {kind} | {' | '.join(interval(one) for one in both)} |", flush=True)


if __name__ == "__main__":
    end_with(main)
