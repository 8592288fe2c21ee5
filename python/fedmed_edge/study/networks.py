"""The networks that the closed form is compared with: FedAvg, pooled training, a site's own fine-tuning."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import Literal

import numpy as np

from fedmed_edge.features.training import Network, build_network, federated_rounds, train
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.plan import Budget
from fedmed_edge.study.scores import answers_of_network, score

log = logging.getLogger(__name__)

Watch = Callable[[str], None]
Column = Literal["fedavg", "pooled"]

VALIDATION_SHARE = 0.2
GAIN = 0.005
"""Rise of the validation score below which a further cycle counts as none."""


@dataclass(frozen=True)
class Cost:
    """What a network took: cycles, rounds, steps, bytes between all sites and the server, seconds."""

    rounds: int = 0
    steps: int = 0
    transferred_bytes: int = 0
    seconds: float = 0.0
    plateau: bool = False

    def document(self) -> dict[str, float | bool]:
        """As JSON values."""
        return asdict(self)


def reference_network(
    recipe: Recipe, sites: Mapping[str, Dataset], budget: Budget, *, seed: int, device: str, watch: Watch
) -> tuple[Network, Cost]:
    """FedAvg among the founding sites: the backbone of the generation."""
    network = build_network(recipe, seed=seed)
    return network, _rounds(network, sites, budget.rounds, budget, seed=seed, device=device, watch=watch)


def joint_network(
    column: Column,
    recipe: Recipe,
    sites: Mapping[str, Dataset],
    budget: Budget,
    *,
    cycles: int = 1,
    seed: int,
    device: str,
    watch: Watch,
) -> tuple[Network, Cost]:
    """One network for all sites, trained for a number of cycles.

    Args:
        column: `fedavg`, re-trained by everyone, the joining site included; or `pooled`, trained end to end
            on all images in one place, which privacy forbids.
        cycles: Of `budget`; `useful_cycles` finds how many pay.
    """
    network = build_network(recipe, seed=seed)
    costs = [
        _CYCLES[column](network, sites, budget, seed=seed + 77 * number, device=device, watch=watch)
        for number in range(cycles)
    ]
    return network, Cost(
        rounds=sum(cost.rounds for cost in costs),
        steps=sum(cost.steps for cost in costs),
        transferred_bytes=sum(cost.transferred_bytes for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        plateau=budget.until_plateau,
    )


def useful_cycles(
    column: Column,
    recipe: Recipe,
    sites: Mapping[str, Dataset],
    budget: Budget,
    *,
    seed: int,
    device: str,
    watch: Watch,
) -> int:
    """Cycles after which training patients that were kept out no longer score better.

    It trains on four fifths of every site's training patients and looks at the rest; test images take no
    part.
    """
    split = {name: split_by_patient(dataset, seed) for name, dataset in sites.items()}
    fitted = {name: fit for name, (fit, _) in split.items()}
    network = build_network(recipe, seed=seed)

    def values() -> Iterator[float]:
        for number in count():
            _CYCLES[column](network, fitted, budget, seed=seed + 77 * number, device=device, watch=watch)
            held = [
                score(recipe, answers_of_network(network, check, device=device))
                for _, check in split.values()
            ]
            yield float(np.nanmean(held))

    return plateau(values(), budget, column)


def plateau(values: Iterator[float], budget: Budget, what: str) -> int:
    """Cycles after which a validation score no longer rises by `GAIN`.

    Args:
        values: The score after every cycle; no more of them are asked for than it takes.
        budget: Its `patience` and `most_cycles`.
        what: For the log.

    Example:
        >>> budget = Budget(1, 1, 1, 1, 1, 1, until_plateau=True)
        >>> plateau(iter([0.5, 0.7, 0.7, 0.9]), budget, "fedavg")
        2
    """
    best, best_cycle = -np.inf, 1
    for number, value in enumerate(islice(values, budget.most_cycles), 1):
        log.info("%s: cycle %d, validation score %.3f", what, number, value)
        if value > best + GAIN:
            best, best_cycle = value, number
        elif number - best_cycle >= budget.patience:
            break
    return best_cycle


def local_network(
    reference: Network, dataset: Dataset, budget: Budget, *, seed: int, device: str, watch: Watch
) -> tuple[Network, Cost]:
    """The reference network, fine-tuned on one site's own training images."""
    network = copy.deepcopy(reference)
    result = train(
        network,
        dataset,
        steps=budget.local_steps,
        batch=budget.batch,
        learning_rate=1e-3,
        seed=seed,
        device=device,
        progress=watch,
    )
    return network, Cost(steps=budget.local_steps, seconds=result.seconds)


def _rounds(
    network: Network,
    sites: Mapping[str, Dataset],
    rounds: int,
    budget: Budget,
    *,
    seed: int,
    device: str,
    watch: Watch,
) -> Cost:
    done = list(
        federated_rounds(
            network,
            sites,
            rounds=rounds,
            local_steps=budget.round_steps,
            batch=budget.batch,
            seed=seed,
            device=device,
            progress=watch,
        )
    )
    return Cost(
        rounds=len(done),
        steps=len(done) * budget.round_steps * len(sites),
        transferred_bytes=sum(one.transferred_bytes for one in done),
        seconds=sum(one.seconds for one in done),
    )


def _fedavg_cycle(
    network: Network, sites: Mapping[str, Dataset], budget: Budget, *, seed: int, device: str, watch: Watch
) -> Cost:
    return _rounds(network, sites, budget.peer_rounds, budget, seed=seed, device=device, watch=watch)


def _pooled_cycle(
    network: Network, sites: Mapping[str, Dataset], budget: Budget, *, seed: int, device: str, watch: Watch
) -> Cost:
    result = train(
        network,
        merged(sites),
        steps=budget.pooled_steps,
        batch=budget.batch,
        seed=seed,
        device=device,
        progress=watch,
    )
    return Cost(steps=budget.pooled_steps, seconds=result.seconds)


_CYCLES = {"fedavg": _fedavg_cycle, "pooled": _pooled_cycle}


def merged(sites: Mapping[str, Dataset]) -> Dataset:
    """The images of all sites as one data set."""
    first, *_ = sites.values()
    return replace(first, items=tuple(item for data in sites.values() for item in data.items))


def split_by_patient(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Training images in two parts, by patient: what is fitted, and what is looked at.

    Args:
        seed: Of the draw of `VALIDATION_SHARE` of the patients.
    """
    patients = sorted({item.patient for item in dataset.items})
    order = np.random.default_rng(seed).permutation(len(patients))
    held = {patients[index] for index in order[: max(1, round(VALIDATION_SHARE * len(patients)))]}
    return (
        dataset.subset([i for i, item in enumerate(dataset.items) if item.patient not in held]),
        dataset.subset([i for i, item in enumerate(dataset.items) if item.patient in held]),
    )
