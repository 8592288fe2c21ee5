"""What a hospital trains: a backbone on its own images, with noise where its policy asks for it.

In: a `Dataset`, a `Generation` to start from. Out: a backbone file.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fedmed_edge.errors import InputError
from fedmed_edge.features.encoder import require_fit
from fedmed_edge.features.extract import extract
from fedmed_edge.features.held_out import head_error, network_error
from fedmed_edge.features.patients import PrivateTraining
from fedmed_edge.features.weights import Error, Weights, write_backbone
from fedmed_edge.generation import Architecture, Generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.own_sums import own_model
from fedmed_edge.recipe import Recipe, Training
from fedmed_edge.statistics.style import Style

log = logging.getLogger(__name__)

NORMS = "norms.backbone"
"""Name of the file, in a site's folder, of norm layers that stay there."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainedBackbone:
    """A backbone trained at one site: weights, images behind it, seconds, last loss, errors, noise."""

    recipe: Recipe
    architecture: Architecture
    site: str
    weights: Weights = field(repr=False)
    images: int
    seconds: float
    loss: float
    errors: Mapping[Error, float] = field(default_factory=dict)
    private: PrivateTraining | None = None

    def write(self, path: Path) -> None:
        """Write the backbone file, whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        write_backbone(
            path,
            self.weights,
            self.recipe,
            architecture=self.architecture,
            trained_by=(self.site,),
            images=self.images,
            errors=self.errors,
            privacy=self.private.privacy if self.private else None,
            training=self.private.id if self.private else "",
        )


def train_backbone(
    dataset: Dataset,
    start: Generation | None,
    *,
    epochs: float,
    site: str,
    styles: Sequence[Style] = (),
    how: Training | None = None,
    held_out: Dataset | None = None,
    norms: Path | None = None,
    rounds_of: str = "",
    private: PrivateTraining | None = None,
    seed: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> TrainedBackbone:
    """Train a backbone on the labelled images of a data set. Needs torch and MONAI.

    Args:
        dataset: Give `dataset.train`.
        start: Generation whose backbone it starts from, which may be another than the recipe asks for; None
            starts the recipe's from random weights.
        epochs: Passes over the labelled images.
        styles: Of other sites, towards which images are moved as well.
        how: Shifts and what else holds the training; default the recipe's `training`.
        held_out: The site's test images. On them the trained network is asked, and, where `start` is no
            draft, a head that is solved on its features.
        norms: File of this site's norm layers, read and written where training has `local_norms`.
        rounds_of: Names the training that this is a round of; norm layers of another do not go on in it.
        seed: Of what the training draws: images, shifts, dropout, a fresh head. Default drawn here and told
            to nobody, since who knows it and the weights can make a first step again from an image. Random
            weights to start from are those of this seed, or of 0, so that hospitals begin alike.
        private: Train with this noise, which also says for how long. Norm layers of the site's then stay out
            of it: they may be of a training without noise.

    Raises:
        InputError: No labelled image, or the recipe's images do not fit the generation.
        DeviceError: The asked device is not here.
        Withheld: The policy has no room for the noise.
    """
    from fedmed_edge.features.backbones import set_state, state_of
    from fedmed_edge.features.local_norms import keep_norms, kept_norms
    from fedmed_edge.features.private_training import train_private
    from fedmed_edge.features.training import build_network, train

    if start is not None:
        require_fit(start, dataset.recipe)
    architecture: Architecture = dataset.recipe if start is None else start.header
    drawn = secrets.randbits(31) if seed is None else seed
    first = drawn if start is not None else seed or 0
    network = build_network(dataset.recipe, seed=first, architecture=architecture)
    if start is not None:
        set_state(network.backbone, start.weights, f"generation {start.digest[:12]}")
    how = how or dataset.recipe.training
    # to random weights they mean nothing
    own = norms if how.local_norms and start is not None and private is None else None
    if own is not None:
        kept = kept_norms(own, network.backbone, rounds_of)
        set_state(network.backbone, {**state_of(network.backbone), **kept})
    if private is None:
        learn = partial(train, epochs=epochs, seed=drawn)
    else:
        learn = partial(train_private, private=private)
    result = learn(network, dataset, styles=styles, how=how, device=device, progress=progress)
    if own is not None:
        keep_norms(own, network.backbone, dataset.recipe, rounds_of)
    errors: dict[Error, float] = {}
    if held_out is not None and len(held_out.labelled):
        try:
            errors = _errors(network, start, dataset, held_out, device)
        except InputError as error:  # what was trained is not lost for a test image that cannot be read
            log.warning("warning: how wrong it is on held-out images was not measured: %s", error)
    return TrainedBackbone(
        dataset.recipe,
        architecture,
        site,
        state_of(network.backbone),
        len(dataset.labelled),
        result.seconds,
        float(result.losses[-1]),
        errors,
        private,
    )


def _errors(
    network: Any, start: Generation | None, dataset: Dataset, held_out: Dataset, device: str
) -> dict[Error, float]:
    """What tells whether a generation has grown too old for the site; of one that has no rows yet, half."""
    errors: dict[Error, float] = {"tuned_error": network_error(network, held_out, device=device)}
    if start is None or start.draft:
        return errors
    sums = extract(start, dataset.labelled, min_cohort=1, device=device)
    if len({index for _, index in sums.blocks}) > 1:
        errors["head_error"] = head_error(start, own_model(sums, dataset.recipe), held_out, device=device)
    return errors
