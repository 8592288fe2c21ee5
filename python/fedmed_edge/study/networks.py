"""The networks that the closed form is compared with: FedAvg, pooled training, a site's own fine-tuning."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import Literal

import numpy as np

from fedmed_edge.features.training import Network, train
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.methods.averaging import FedAvg, Pooled
from fedmed_edge.study.methods.work import Work, with_weights
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
    rounds = replace(budget, peer_rounds=budget.rounds)
    return _trained(_start("fedavg", recipe, sites, rounds, seed=seed, device=device, watch=watch), 1)


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
    start = _start(column, recipe, sites, budget, seed=seed, device=device, watch=watch)
    network, cost = _trained(start, cycles)
    return network, replace(cost, plateau=budget.until_plateau)


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
    split = {name: split_by_patient(dataset.labelled, seed) for name, dataset in sites.items()}
    fitted = {name: fit for name, (fit, _) in split.items()}
    trained = _start(column, recipe, fitted, budget, seed=seed, device=device, watch=watch)

    def values() -> Iterator[float]:
        for number in count():
            trained.cycle(number)
            network = with_weights(recipe, trained.common)
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


def _start(
    column: Column,
    recipe: Recipe,
    sites: Mapping[str, Dataset],
    budget: Budget,
    *,
    seed: int,
    device: str,
    watch: Watch,
) -> FedAvg:
    """The column as `bench-method` has it, with its default option."""
    kind, sites = (Pooled, {"one place": merged(sites)}) if column == "pooled" else (FedAvg, sites)
    return kind(Work(recipe=recipe, sites=sites, budget=budget, seed=seed, device=device, watch=watch), {})


def _trained(start: FedAvg, cycles: int) -> tuple[Network, Cost]:
    for number in range(cycles):
        start.cycle(number)
    work, (rounds, steps) = start.work, start.steps
    return with_weights(work.recipe, start.common), Cost(
        rounds=work.meter.rounds,
        steps=cycles * rounds * steps * len(work.labelled),
        transferred_bytes=sum(work.meter.sent.values()) + sum(work.meter.received.values()),
        seconds=sum(work.meter.seconds.values()),
    )


def merged(sites: Mapping[str, Dataset]) -> Dataset:
    """The images of all sites as one data set."""
    first, *_ = sites.values()
    return replace(first, items=tuple(item for data in sites.values() for item in data.items))


def split_by_patient(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Training images in two parts, by patient: what is fitted, and what is looked at.

    Args:
        seed: Of the draw of `VALIDATION_SHARE` of the patients.
    """
    patients = sorted(dataset.patients)
    order = np.random.default_rng(seed).permutation(len(patients))
    held = {patients[index] for index in order[: max(1, round(VALIDATION_SHARE * len(patients)))]}
    looked_at, fitted = dataset.by_patient(held)
    return fitted, looked_at
