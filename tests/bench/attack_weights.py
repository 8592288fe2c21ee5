"""What weights tell: the images that a local training saw, and who was among its patients.

    .venv/bin/python tests/bench/attack_weights.py DATA [--generation FILE] [--only images,members]
        [--size 32] [--counts 1,10] [--images 10] [--steps 400] [--trainings 16] [--quick]

DATA is a task folder of a classification; its largest site trains, from random weights as in a first round,
or from those of a generation. Who attacks knows the weights before and after, the task's head before (a
hospital draws it, but for weights from scratch), the settings of the training, how many images there are and
of which classes, and has images of other patients of the site.

images   The images whose gradient points as the weights have moved (Geiping et al., Inverting Gradients,
         NeurIPS 2020), by optimisation through the backbone, among images made of the principal axes of the
         other patients'. Beside them stand the mean of these and the one that is nearest to the truth, which
         no attacker could choose. What was made is turned, flipped and paired with the truth as fits best.
members  Is this image among those that were trained on? Every image is in half of the trainings. `loss`: by
         how much more a head that is solved on other images' features is sure of it than before; `gradient`:
         how far the weights have moved down the image's own gradient; each as it is, and against what it is
         in the trainings with and without the image (LiRA), all others being the shadows of each.

What leaves is made by the code that a hospital runs: `training.train` over one epoch, as in a round, and over
30, as by hand; `private_training` with noise. `descent` is one plain step on the images as they are, which no
part of the product takes; `replayed` makes the changes of the images again, whose seed a hospital draws and
keeps. Intervals as of `attacks.py`; PSNR in dB, SSIM.
"""

import argparse
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from attack_scores import Scores, lira, percent, shown
from harness import end_with
from monai.data.meta_obj import get_track_meta, set_track_meta
from reconstruction import Prior, interval, prior_of, psnr, searched, ssim
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from fedmed_edge.features.backbones import seeded, set_state
from fedmed_edge.features.feed import Changes
from fedmed_edge.features.objectives import plain_objective
from fedmed_edge.features.patients import PrivateTraining
from fedmed_edge.features.private_training import noisy_gradient, train_private
from fedmed_edge.features.training import BATCH, Network, build_network, train
from fedmed_edge.features.weights import Weights
from fedmed_edge.generation import read_generation
from fedmed_edge.images.dataset import Dataset, read_dataset, read_task
from fedmed_edge.images.preprocess import prepare
from fedmed_edge.statistics.accounting import step_multiplier
from fedmed_edge.statistics.header import Privacy

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

DELTA = 1e-5
SAMPLING = 0.1
REFERENCE = 150


@dataclass(frozen=True)
class Site:
    """A site's labelled images: the data set, prepared pixels (N, channels, h, w) and classes (N,)."""

    data: Dataset
    pixels: Array
    labels: Numbers
    start: Weights | None = None

    def network(self) -> Network:
        """What every training starts from."""
        network = build_network(self.data.recipe)
        if self.start is not None:
            set_state(network.backbone, self.start, "generation")
        return network.eval()

    def tensors(self, which: Numbers) -> tuple[Tensor, Tensor]:
        """Images and classes."""
        return torch.tensor(self.pixels[which], dtype=torch.float32), torch.tensor(self.labels[which])


def read_site(folder: Path, side: int, generation: Path | None = None) -> Site:
    """The task's largest site, its images brought to `side` × `side`."""
    task = read_task(folder)
    recipe = task.recipe.model_copy(update={"size": (side, side)})
    data = max((read_dataset(site, recipe).labelled for site in task.sites.values()), key=len)
    pixels = [prepare(data.load(item), recipe).pixels for item in data]
    labels = [item.label for item in data]
    start = None if generation is None else read_generation(generation).weights
    return Site(data, np.array(pixels, np.float64), np.array(labels, np.intp), start)


# --- what leaves -------------------------------------------------------------------------------------------


def backbone_weights(network: Network) -> list[Tensor]:
    """The weights that a contribution holds: those of the head stay at the site."""
    return list(network.backbone.parameters())


def flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values])


def descent(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """(W,) how one plain step of length 1 moves the backbone; with gradients of its own."""
    loss = plain_objective(network.recipe)(network, images, targets)
    return -flat(torch.autograd.grad(loss, backbone_weights(network), create_graph=images.requires_grad))


def replayed(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """(W,) as `descent`, of the first step of `training.train` on one image: what it draws, its seed says."""
    changes, tracked = Changes(network.recipe, 0), get_track_meta()
    set_track_meta(False)
    if images.requires_grad:
        # powers of 0 have no slope
        images.register_hook(torch.nan_to_num)  # type: ignore[no-untyped-call]
    try:
        with seeded(0):
            batch = torch.stack([changes(images[0], None)[0] for _ in range(BATCH[2])])
            return descent(network.train(), batch, targets.expand(len(batch)))
    finally:
        set_track_meta(tracked)


def noisy_descent(network: Network, images: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """The same with every image clipped and noise on the sum, all of ε being spent on this one step."""
    each = ((image[None], target[None]) for image, target in zip(images, targets, strict=True))
    noisy_gradient(network, plain_objective(network.recipe), each, privacy_of(epsilon, 1.0, 1))
    slopes = [torch.zeros_like(one) if one.grad is None else one.grad for one in backbone_weights(network)]
    network.zero_grad()
    return -flat(slopes)


def privacy_of(epsilon: float, sampling: float, steps: int) -> Privacy:
    noise = step_multiplier(epsilon, DELTA, sampling=sampling, steps=steps)
    return Privacy(epsilon=epsilon, delta=DELTA, clip=1.0, noise=noise, sampling=sampling, steps=steps)


def trained(network: Network, data: Dataset, epochs: float, epsilon: float | None, seed: int) -> Tensor:
    """(W,) how a hospital's training on the data set moves the backbone; the network has moved as well."""
    before = flat(backbone_weights(network)).detach().clone()
    if epsilon is None:
        train(network, data, epochs=epochs, seed=seed, device="cpu")
    else:
        privacy = privacy_of(epsilon, SAMPLING, max(1, round(epochs / SAMPLING)))
        train_private(network, data, PrivateTraining("0" * 32, privacy, lambda: None), device="cpu")
    return flat(backbone_weights(network)).detach() - before


# --- images ------------------------------------------------------------------------------------------------


def inverted(
    network: Network,
    moved: Tensor,
    targets: Tensor,
    prior: Prior,
    steps: int,
    *,
    starts: int = 1,
    signs: bool = False,
    step: Callable[[Network, Tensor, Tensor], Tensor] = descent,
) -> Array:
    """Images (B, channels, h, w) of these classes whose gradient points as the weights have moved.

    Args:
        network: As it was before.
        signs: The weights moved by the signs of their slopes, as in AdamW's first steps.
        step: How images move the weights.
    """

    def apart(images: Tensor) -> Tensor:
        made = step(network, images, targets)
        if signs:
            made = made / (made.abs() + made.detach().abs().median())
        return 1 - functional.cosine_similarity(made, moved, dim=0)

    return searched(prior, len(targets), apart, steps, starts)


def compared(made: Array, truth: Array, others: Array) -> dict[str, list[tuple[float, float]]]:
    """PSNR and SSIM of every true image with the made one that it is paired with, and with the baselines."""
    turned = [np.rot90(one, turns, axes=(2, 3)) for one in (made, made[..., ::-1]) for turns in range(4)]
    apart = np.array([[[((one - true) ** 2).mean() for one in turn] for true in truth] for turn in turned])
    best = [
        turned[int(apart[:, row, column].argmin())][column]
        for row, column in zip(*linear_sum_assignment(apart.min(axis=0)), strict=True)
    ]
    nearest = [others[((others - true) ** 2).mean(axis=(1, 2, 3)).argmin()] for true in truth]
    mean = [others.mean(axis=0)] * len(truth)
    return {
        name: [(psnr(one, true), ssim(one, true)) for one, true in zip(found, truth, strict=True)]
        for name, found in (("optimised", best), ("nearest other", nearest), ("mean of the others", mean))
    }


Leaving = Callable[[Site, Numbers], Tensor]
"""How the weights move that a site hands over of some of its images."""

LEAVING: dict[str, Leaving] = {
    "descent": lambda site, which: descent(site.network(), *site.tensors(which)),
    "1 epoch": lambda site, which: trained(site.network(), site.data.subset(which.tolist()), 1.0, None, 0),
    "1 epoch, replayed": lambda site, which: LEAVING["1 epoch"](site, which),
    "30 epochs": lambda site, which: trained(site.network(), site.data.subset(which.tolist()), 30.0, None, 0),
    "descent, ε 8": lambda site, which: noisy_descent(site.network(), *site.tensors(which), 8.0),
}


def told_images(site: Site, name: str, count: int, images: int, steps: int, starts: int) -> Iterator[str]:
    """Rows of a table: how near the images come, by what they are compared with."""
    if "replayed" in name and count > 1:
        return  # the order of several is not replayed here
    step = replayed if "replayed" in name else descent
    random, found = np.random.default_rng(0), dict[str, list[tuple[float, float]]]()
    for _ in range(max(2, images // count)):
        which, rest = np.split(random.permutation(len(site.pixels)), [count])
        moved, others = LEAVING[name](site, which), site.pixels[rest]
        given = site.network(), moved, site.tensors(which)[1], prior_of(others)
        made = inverted(*given, steps, starts=starts, signs="epoch" in name, step=step)
        for what, figures in compared(made, site.pixels[which], others).items():
            found.setdefault(what, []).extend(figures)
    for what, figures in found.items():
        both = " | ".join(interval(one) for one in zip(*figures, strict=True))
        yield f"| {name} | {count} | {what} | {both} | {len(figures)} |"


# --- members -----------------------------------------------------------------------------------------------


def told_members(
    site: Site, count: int, epochs: float, epsilon: float | None, trainings: int
) -> Iterator[str]:
    """Rows of a table: AUC and TPR of trainings on so many patients, by what is looked at."""
    scores: dict[str, Scores] = {}
    for pool in range(max(1, 50 // count)):
        random = np.random.default_rng(pool)
        asked, rest, _ = np.split(random.permutation(len(site.pixels)), [2 * count, 2 * count + REFERENCE])
        for name, inside, found in member_scores(site, asked, rest, epochs, epsilon, trainings, random):
            for one, values in zip(inside, found, strict=True):
                scores.setdefault(name, Scores()).add(values[one], values[~one])
    release = f"{epochs:g} epochs" + ("" if epsilon is None else f", ε {epsilon:g}")
    for name, score in scores.items():
        auc, tpr = score.figures(np.random.default_rng(0)).values()
        yield f"| {release} | {count} | {name} | {shown(auc)} | {percent(tpr)} | {len(score.members)} |"


def member_scores(
    site: Site,
    asked: Numbers,
    rest: Numbers,
    epochs: float,
    epsilon: float | None,
    trainings: int,
    random: np.random.Generator,
) -> Iterator[tuple[str, npt.NDArray[np.bool_], Array]]:
    """What is looked at; who of `asked` is in which training, and the scores (trainings, N) of all of them.

    Args:
        rest: Other patients' images, on whose features the attacker's head is solved.
    """
    half = [random.permutation(len(asked)) < len(asked) // 2 for _ in range(trainings // 2)]
    inside = np.array([one for each in half for one in (each, ~each)])
    slopes = own_slopes(site, asked)
    before = margins(site.network(), site, asked, rest)
    sure, down = [], []
    for number, one in enumerate(inside):
        network = site.network()
        moved = trained(network, site.data.subset(asked[one].tolist()), epochs, epsilon, number)
        sure.append(margins(network.eval(), site, asked, rest))
        down.append((slopes @ (moved / moved.norm())).double().numpy())
    for name, values in (("loss", np.array(sure) - before), ("gradient", np.array(down))):
        yield name, inside, values
        yield f"{name}, LiRA", inside, lira(values, inside)


def own_slopes(site: Site, asked: Numbers) -> Tensor:
    """(N, W) how each image alone would move the weights, at length 1."""
    network, (images, targets) = site.network(), site.tensors(asked)
    each = [descent(network, images[i : i + 1], targets[i : i + 1]) for i in range(len(asked))]
    return torch.stack([one / one.norm() for one in each])


def margins(network: Network, site: Site, asked: Numbers, rest: Numbers) -> Array:
    """(N,) score of an image's own class above the best other, of a ridge head on the others' features."""
    both = np.concatenate([asked, rest])
    with torch.no_grad():
        images = torch.tensor(site.pixels[both], dtype=torch.float32)
        pooled = [
            torch.cat([scale.mean(dim=(2, 3)) for scale in network.backbone(batch)], dim=1)
            for batch in torch.split(images, 32)
        ]
    rows = torch.cat(pooled).double().numpy()
    known, wanted = rows[len(asked) :], np.eye(int(site.labels.max()) + 1)[site.labels[rest]]
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-6
    rows, known = (rows[: len(asked)] - mean) / deviation, (known - mean) / deviation
    gram = known.T @ known + 0.1 * len(known) * np.eye(known.shape[1])
    scores = rows @ np.linalg.solve(gram, known.T @ (wanted - wanted.mean(axis=0)))
    own = scores[np.arange(len(asked)), site.labels[asked]].copy()
    scores[np.arange(len(asked)), site.labels[asked]] = -np.inf
    return np.asarray(own - scores.max(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--generation", type=Path, help="Where trainings start (default: random weights).")
    parser.add_argument("--only", default="images,members")
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--counts", default="1,10", help="images of a training whose images are looked for")
    parser.add_argument("--moved", default=";".join(LEAVING), help="what has moved the weights")
    parser.add_argument(
        "--starts", type=int, default=1, help="searches for an image, of which the best counts"
    )
    parser.add_argument("--images", type=int, default=10, help="how many in all are looked for")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--patients", default="10,50,100", help="of a training whose members are looked for")
    parser.add_argument("--epochs", default="1,30")
    parser.add_argument("--epsilon", type=float, help="noise of the trainings (default: none)")
    parser.add_argument("--trainings", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="few images, steps, patients and trainings")
    options = parser.parse_args()
    if options.quick:
        options.images, options.steps, options.trainings = 2, 60, 6
        options.patients, options.epochs = "10", "1"
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    site = read_site(options.data, options.size, options.generation)
    if "images" in options.only:
        print("| weights moved by | n | image | PSNR | SSIM | images |\n|---|---|---|---|---|---|")
        for count, name in itertools.product(options.counts.split(","), options.moved.split(";")):
            given = options.images, options.steps, options.starts
            for line in told_images(site, name, int(count), *given):
                print(line, flush=True)
    if "members" in options.only:
        print("\n| training | n | test | AUC | TPR at 0.1 % false positives | trainings |")
        print("|---|---|---|---|---|---|")
        asked = itertools.product(options.patients.split(","), options.epochs.split(","))
        for count, epochs in asked:
            rows = told_members(site, int(count), float(epochs), options.epsilon, options.trainings)
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    end_with(main)
