"""What a site's style tells: who is in it, and what its images look like.

    .venv/bin/python tests/bench/attack_style.py DATA [--only members,images] [--draws 200] [--images 20]
        [--steps 200] [--quick]

DATA is a task folder of a classification; its largest site hands over the style part, count, sum and squares
of its images' low-frequency log-amplitudes. Every image is a patient. Who attacks has images of other
patients of the same site.

members  Likelihood ratio of the sums with the image in them against those without, as if log-amplitudes and
         their squares were Gaussian.
images   The image with the style that leaked, among images made of the principal axes of the others': of one
         image alone, and the mean of `min_cohort`. Beside it stand the image of the others that is nearest in
         style, and their mean. There is no phase in a style: where things are it does not say.

Intervals as of `attacks.py`; PSNR in dB, SSIM.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from attack_scores import Array, Scores, percent, shown, sum_likelihood
from attack_weights import Site, read_site
from harness import end_with
from reconstruction import Prior, interval, prior_of, psnr, searched, ssim
from torch import Tensor

from fedmed_edge.statistics.style import FLOOR, block_shape, log_amplitude

COHORT = 10


def styles_of(site: Site) -> Array:
    """(N, channels, h, w) log-amplitudes of a site's images."""
    return np.stack([log_amplitude(one.astype(np.float32)) for one in site.pixels])


# --- members -----------------------------------------------------------------------------------------------


def told_members(site: Site, draws: int) -> Iterator[str]:
    """Rows of a table: AUC and TPR by number of patients."""
    flat = styles_of(site).reshape(len(site.pixels), -1)
    values = np.hstack([flat, flat**2])
    for count in (10, 20, 50, 100):
        random, scores = np.random.default_rng(0), Scores()
        for _ in range(draws):
            inside, outside, rest = np.split(random.permutation(len(values)), [count, 2 * count])
            total, known = values[inside].sum(axis=0), values[rest]
            scores.add(*(sum_likelihood(total, count, known, values[who]) for who in (inside, outside)))
        auc, tpr = scores.figures(random).values()
        yield f"| style | {count} | {shown(auc)} | {percent(tpr)} |"


# --- images ------------------------------------------------------------------------------------------------


def log_amplitudes(image: Tensor) -> Tensor:
    """(channels, h, w) of `style.log_amplitude`, with gradients."""
    height, width = image.shape[1:]
    rows, columns = block_shape((height, width))
    centred = torch.fft.fftshift(torch.fft.fft2(image).abs(), dim=(1, 2)) / (height * width)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    return torch.log(centred[:, top : top + rows, left : left + columns] + FLOOR)


def optimised(target: Array, prior: Prior, steps: int) -> Array:
    """The image whose style comes nearest to `target`."""
    wanted = torch.tensor(target, dtype=torch.float32)
    found = searched(prior, 1, lambda images: ((log_amplitudes(images[0]) - wanted) ** 2).mean(), steps)
    return np.asarray(found[0])


def told_images(site: Site, images: int, steps: int) -> Iterator[str]:
    """Rows of a table: how near an image comes."""
    styles, random = styles_of(site), np.random.default_rng(0)
    for count in (1, COHORT):
        found: dict[str, list[tuple[float, float]]] = {}
        for number in random.permutation(len(styles))[:images]:
            rest = random.permutation(np.delete(np.arange(len(styles)), number))
            company, others = np.split(rest, [count - 1])
            target = styles[[number, *company]].mean(axis=0)
            truth, mean = site.pixels[number], site.pixels[others].mean(axis=0)
            nearest = others[((styles[others] - target) ** 2).sum(axis=(1, 2, 3)).argmin()]
            made = {
                "optimised": optimised(target, prior_of(site.pixels[others]), steps),
                "nearest other": site.pixels[nearest],
                "mean of the others": mean,
            }
            for name, image in made.items():
                found.setdefault(name, []).append((psnr(image, truth), ssim(image, truth)))
        for name, figures in found.items():
            both = " | ".join(interval(one) for one in zip(*figures, strict=True))
            yield f"| style | {count} | {name} | {both} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="members,images")
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="images of 64 × 64, few draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.size, options.draws, options.images, options.steps = 64, 20, 4, 100
    site = read_site(options.data, options.size)
    if "members" in options.only:
        print("| part | n | AUC | TPR at 0.1 % false positives |\n|---|---|---|---|")
        for line in told_members(site, options.draws):
            print(line, flush=True)
    if "images" in options.only:
        print("\n| leaked | n | image | PSNR | SSIM |\n|---|---|---|---|---|")
        for line in told_images(site, options.images, options.steps):
            print(line, flush=True)


if __name__ == "__main__":
    end_with(main)
