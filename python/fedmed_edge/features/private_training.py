"""Local training under differential privacy: one patient is the unit, whatever images a patient has.

In every step each patient is drawn with the same probability, independently of all others. For each one
drawn, the gradient of the loss over some of the images is clipped as a whole; the gradients are added up, and
Gaussian noise goes on the sum. The result tells no more of a patient than these noisy sums do: the optimiser,
the cycle of its rate and whatever is made of the weights later see nothing else.

How many patients there are is in nothing that follows: the number of steps is that of the epochs over the
probability, and the sums are divided by nothing, since AdamW goes as far whatever the gradients' scale.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016; by person, McMahan et al., ICLR 2018.
"""

import logging
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedmed_edge.features.feed import Feed
from fedmed_edge.features.objectives import Objective
from fedmed_edge.features.patients import PrivateTraining
from fedmed_edge.features.training import (
    BATCH,
    LEARNING_RATE,
    Network,
    Progress,
    TrainResult,
    cycle,
    objective_of,
    optimiser_of,
    session,
    set_rate,
)
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Training
from fedmed_edge.statistics.header import Privacy
from fedmed_edge.statistics.privacy import gaussian_noise
from fedmed_edge.statistics.style import Style

__all__ = ["PatientFeed", "clipped_gradient", "noisy_gradient", "train_private"]

log = logging.getLogger(__name__)


def train_private(
    network: Network,
    dataset: Dataset,
    private: PrivateTraining,
    *,
    styles: Sequence[Style] = (),
    how: Training | None = None,
    learning_rate: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> TrainResult:
    """Train a network in place on the labelled images of a data set, with noise.

    Unlike in `training.train`, patients are drawn, not classes; draws and noise follow from no seed that
    somebody else knows; and the proximal term is left out, whose strength stands beside a mean over patients.
    Shifts and episodes see the images of one patient at a time.

    Args:
        styles: Of other sites, towards which amplitudes move.
        how: Shifts and what else holds the training; default the recipe's `training`.

    Raises:
        InputError: No labelled image, an image that cannot be prepared, or a style of another shape; then
            nothing is spent.
        DeviceError: `cuda` asked for where there is none.
        Withheld: As `private.spend`.
    """
    recipe, privacy, seed = network.recipe, private.privacy, secrets.randbits(31)
    with session(network, device, seed, dimensions=recipe.dimensions):
        feed = PatientFeed(dataset, count=BATCH[recipe.dimensions])
        objective = objective_of(recipe, how or recipe.training, styles, seed)
        rate = learning_rate or LEARNING_RATE[recipe.kind]
        optimiser = optimiser_of(network, rate)
        private.spend()
        began, losses = time.perf_counter(), []
        for step in range(privacy.steps):
            set_rate(optimiser, rate * cycle(step / privacy.steps))
            losses += noisy_gradient(network, objective, feed.draw(privacy.sampling), privacy)
            optimiser.step()
            if progress:
                progress(f"loss {np.mean(losses[-feed.patients :] or 0.0):.3f}")
    seconds = time.perf_counter() - began
    log.info("trained %d steps with noise on %d patients in %.1f s", privacy.steps, feed.patients, seconds)
    return TrainResult(np.array(losses or [0.0], np.float32), seconds)


def noisy_gradient(
    network: nn.Module, objective: Objective, drawn: Iterable[tuple[Tensor, Tensor]], privacy: Privacy
) -> list[float]:
    """Set every weight's gradient to the sum of the clipped ones of the patients drawn, with noise.

    Args:
        drawn: Images and targets of each.

    Returns:
        Each one's loss, which stays at the site.
    """
    weights = [value for value in network.parameters() if value.requires_grad]
    sizes, place = [value.numel() for value in weights], weights[0].device
    total, losses = torch.zeros(sum(sizes), device=place), []
    for images, targets in drawn:
        loss = objective(network, images.to(place), targets.to(place))
        total += clipped_gradient(loss, weights, privacy.clip)
        losses.append(float(loss.detach()))
    noise = torch.from_numpy(gaussian_noise(len(total)).astype(np.float32))
    total += privacy.noise * privacy.clip * noise.to(place)
    for value, gradient in zip(weights, torch.split(total, sizes), strict=True):
        value.grad = gradient.view_as(value)
    return losses


def clipped_gradient(loss: Tensor, weights: Sequence[Tensor], clip: float) -> Tensor:
    """Gradient of a loss by all weights, flat, of length at most `clip`; 0 where it is not finite."""
    slopes = torch.autograd.grad(loss, list(weights), allow_unused=True)
    flat = torch.cat(
        [
            torch.zeros(value.numel(), device=value.device) if slope is None else slope.reshape(-1)
            for value, slope in zip(weights, slopes, strict=True)
        ]
    )
    length = float(flat.double().norm())
    if not math.isfinite(length):
        return torch.zeros_like(flat)
    return flat * min(1.0, clip / max(length, 1e-30))


class PatientFeed:
    """Patients of one site, each drawn with the same probability, apart from all others.

    Every image is read once when this is made, so that what cannot be read is found before anything is spent.

    Args:
        dataset: Its labelled items are drawn.
        count: Most images of a patient in a step.

    Attributes:
        patients: How many there are.

    Raises:
        InputError: The data set has no labelled item, or an image cannot be prepared.
    """

    def __init__(self, dataset: Dataset, *, count: int) -> None:
        self._feed, self._count = Feed(dataset, batch=count, seed=secrets.randbits(31)), count
        self._images: dict[str, list[int]] = {}
        for index, item in enumerate(self._feed.drawing.items):
            self._images.setdefault(item.patient, []).append(index)
            self._feed.drawing.window(index)
        self._random = secrets.SystemRandom()
        self.patients = len(self._images)

    def draw(self, probability: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets of a patient who is drawn, as `Feed.batch` gives them; then of the next."""
        for images in self._images.values():
            if self._random.random() < probability:
                yield self._feed.batch_of(self._random.sample(images, min(self._count, len(images))))
