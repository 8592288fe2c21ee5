"""How near an image comes that is optimised through the backbone until its features are those that leaked.

    .venv/bin/python tests/bench/reconstruction.py DATA GENERATION [--images 8] [--steps 300]

The attacker knows the generation and the other images of the class, and starts from their mean. What leaked
is the standardised feature of one image, which the difference of two exact contributions shows, or the mean
feature of ten (a class of `min_cohort` patients), exact or with noise of ε 8. Beside the result stand the
mean image and the other image that is nearest in those features. PSNR in dB and SSIM, mean over the images
with its 95 % interval.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import uniform_filter

from fedmed_edge.features.backbones import build_backbone, set_state
from fedmed_edge.generation import Generation, read_generation
from fedmed_edge.images.dataset import read_dataset, read_task
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.statistics.accounting import noise_multiplier

Array = npt.NDArray[np.float64]
COHORT = 10
SMOOTH = 1e-3


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


def optimised(encoder: Encoder, target: Array, start: Array, steps: int) -> Array:
    """The image whose features come nearest to `target`, smooth, from `start` on."""
    image = torch.tensor(start[None], dtype=torch.float32, requires_grad=True)
    wanted = torch.tensor(target[None], dtype=torch.float32)
    optimiser = torch.optim.Adam([image], lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        across = (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
        along = (image[..., 1:] - image[..., :-1]).abs().mean()
        loss = ((encoder(image) - wanted) ** 2).mean() + SMOOTH * (across + along)
        torch.autograd.backward(loss)
        optimiser.step()
    return np.asarray(image.detach().numpy()[0], np.float64)


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


def interval(values: list[float], random: np.random.Generator) -> str:
    spread = [random.choice(values, len(values)).mean() for _ in range(500)]
    return f"{np.mean(values):.2f} ({np.quantile(spread, 0.025):.2f} to {np.quantile(spread, 0.975):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("generation", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
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
                "optimised": optimised(encoder, target, start, options.steps),
                "nearest other": images[nearest],
                "mean of the others": start,
            }
            for kind, image in found.items():
                both = figures.setdefault(kind, ([], []))
                both[0].append(psnr(image, images[number]))
                both[1].append(ssim(image, images[number]))
        for kind, both in figures.items():
            print(f"| {name} | {kind} | {' | '.join(interval(one, random) for one in both)} |", flush=True)


if __name__ == "__main__":
    main()
