"""What noise in training costs: score of a backbone by ε, beside one that was trained without, and seconds.

    .venv/bin/python tests/bench/private_training.py DATA [--sites A,B] [--from SITE] [--epsilons 64,8]
        [--draws N] [--epochs E] [--side S]

DATA is a task folder of 2-D images, whose sites (default all) are taken for one hospital. Training starts
from random weights, or from what SITE trains without noise in 10 epochs. Two scores on the hospital's test
images: of the trained network, and of a head solved from the hospital's exact sums under its backbone.
`clipped`: the steps of `train --private`, with next to no noise.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness import end_with
from noise import read_sites

from fedmed_edge.config import Policy
from fedmed_edge.features.backbones import set_state, state_of
from fedmed_edge.features.extract import extract
from fedmed_edge.features.held_out import head_error, network_error
from fedmed_edge.features.patients import PrivateTraining
from fedmed_edge.features.private_training import train_private
from fedmed_edge.features.publish import complete_generation, draft_generation
from fedmed_edge.features.training import Network, TrainResult, build_network, train
from fedmed_edge.features.weights import Weights
from fedmed_edge.hospital import plan_training
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.model.own_sums import own_model
from fedmed_edge.statistics.header import Privacy

SILENT = 1e-6


def one_hospital(sites: dict[str, Dataset]) -> Dataset:
    """All images of these sites; no two share a patient."""
    items = [
        replace(item, patient=f"{site} {item.patient}") for site, one in sites.items() for item in one.items
    ]
    return replace(next(iter(sites.values())), items=tuple(items))


def scores(network: Network, data: Dataset) -> tuple[float, float]:
    """Of the network, and of a head on its features."""
    draft = draft_generation(data.recipe, state_of(network.backbone))
    sums = extract(draft, data.train, min_cohort=1, device="cpu")
    generation = complete_generation(draft, data.recipe, {"hospital": sums})
    head = own_model(extract(generation, data.train, min_cohort=1, device="cpu"), data.recipe)
    wrong = (
        network_error(network, data.test, device="cpu"),
        head_error(generation, head, data.test, device="cpu"),
    )
    return 1 - wrong[0], 1 - wrong[1]


def privacy_of(epsilon: float | None, data: Dataset, epochs: float) -> Privacy:
    """As a hospital plans it under the policy's defaults; None has next to no noise."""
    privacy = plan_training(data, Policy(epsilon=epsilon or 100.0), epochs)
    return privacy if epsilon else privacy.model_copy(update={"noise": SILENT})


def row(
    name: str, start: Weights | None, data: Dataset, run: Callable[[Network], TrainResult | None]
) -> None:
    """Train, score and print."""
    network = build_network(data.recipe)
    if start is not None:
        set_state(network.backbone, start)
    began = time.perf_counter()
    result = run(network)
    seconds, (whole, head) = time.perf_counter() - began, scores(network, data)
    steps = f", {seconds:.0f} s" if result is not None else ""
    print(f"{name}: network {whole:.3f}, head {head:.3f}{steps}", flush=True)


def main() -> None:
    """Print a line a training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sites", type=lambda text: text.split(","))
    parser.add_argument("--from", dest="start")
    parser.add_argument(
        "--epsilons", type=lambda text: [float(one) for one in text.split(",")], default="64,8"
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--side", type=int, default=64)
    given = parser.parse_args()
    recipe, sites = read_sites(given.data)
    recipe = recipe.model_copy(update={"size": (given.side, given.side)})
    sites = {name: replace(one, recipe=recipe) for name, one in sites.items()}
    data = one_hospital({name: sites[name] for name in given.sites or sites})
    start: Weights | None = None
    if given.start:
        founder = build_network(recipe)
        train(founder, sites[given.start].train, epochs=10, device="cpu")
        start = state_of(founder.backbone)
    print(f"{len(data.train)} training images, {len(data.test)} test images: {data.test.counts()}")
    row("as it begins", start, data, lambda network: None)
    row("plain", start, data, lambda network: train(network, data.train, epochs=given.epochs, device="cpu"))
    for epsilon in [None, *[one for one in given.epsilons for _ in range(given.draws)]]:
        privacy = privacy_of(epsilon, data, given.epochs)
        private = PrivateTraining("0" * 32, privacy, lambda: None)
        name = (
            "clipped" if epsilon is None else f"ε {epsilon:g} (σ {privacy.noise:.2f}, {privacy.steps} steps)"
        )
        row(name, start, data, lambda network, p=private: train_private(network, data.train, p, device="cpu"))  # type: ignore[misc]


if __name__ == "__main__":
    end_with(main)
