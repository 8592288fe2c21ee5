"""Networks that sites train in rounds, and a server averages: FedAvg and those that change one step of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.training import LEARNING_RATE, Network, SiteTraining, average_weights
from fedmed_edge.features.weights import Weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.study.methods.method import Case, Learn, Learned, Meter, Option, network_predictor, size_of
from fedmed_edge.study.networks import merged

CYCLE_SEED = 77
"""Between the seeds of two cycles."""

Adjust = Callable[[Network], None]


class FedAvg:
    """Every site trains from the common weights, then they are averaged, weighted by images.

    A subclass says what is different: `turn`, what a site does in a round; `merge`, what the server does
    with it; `learned`, who answers with what.

    Args:
        option: `rate`, by which the task's learning rate is multiplied.
        start: Weights to begin with; default the case's fresh ones.

    Source: McMahan et al., AISTATS 2017.
    """

    def __init__(self, case: Case, option: Option, start: Weights | None = None) -> None:
        self.case, self.option = case, option
        self.network = case.fresh()
        self.common: Weights = start or state_of(self.network)
        self.payload = size_of(self.common)

    @property
    def steps(self) -> tuple[int, int]:
        """Rounds of a cycle, and steps of a site in each of them."""
        return self.case.budget.peer_rounds, self.case.budget.round_steps

    def cycle(self, number: int) -> None:
        """One cycle of the budget: the learning rate goes up once and comes down."""
        rounds, steps = self.steps
        training = self.training(self.case.labelled, rounds * steps, number)
        for index in range(rounds):
            span = range(index * steps, (index + 1) * steps)
            with training.round(index):
                states = {site: self.turn(training, site, span) for site in training.images}
            self.merge(states, training.images)
            self.case.meter.rounds += 1
        for site, seconds in training.seconds.items():
            self.case.meter.compute(site, seconds)

    def training(self, sites: Mapping[str, Dataset], steps: int, number: int) -> SiteTraining:
        """Sites that train for a cycle."""
        return SiteTraining(
            self.network,
            sites,
            steps=steps,
            batch=self.case.budget.batch,
            learning_rate=LEARNING_RATE[self.case.recipe.kind] * self.option.get("rate", 1.0),
            seed=self.case.seed + CYCLE_SEED * number,
            device=self.case.device,
            progress=self.case.watch,
        )

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """What a site does in a round; gives its weights."""
        self.case.meter.transfer(site, sent=self.payload, received=self.payload)
        return training.turn(site, self.common, span)[0]

    def merge(self, states: Mapping[str, Weights], images: Mapping[str, int]) -> None:
        """What the server does with the sites' weights."""
        self.common = average_weights(list(states.values()), list(images.values()))

    def learned(self) -> Learned:
        """Who answers with what."""
        return Learned(network_predictor(self.case, self.common))


class Pooled(FedAvg):
    """All images in one place: one site, one round a cycle."""

    @property
    def steps(self) -> tuple[int, int]:
        """As `FedAvg.steps`."""
        return 1, self.case.budget.pooled_steps


class FedProx(FedAvg):
    """Local weights are held to the common ones: μ/2 ‖w − w₀‖² is added to the loss.

    Source: Li et al., MLSys 2020.
    """

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.case.meter.transfer(site, sent=self.payload, received=self.payload)
        adjust = toward(self.common, self.option["mu"])
        return training.turn(site, self.common, span, adjust=adjust)[0]


class FedBN(FedAvg):
    """Norm layers stay at their site; a site that has none gets their average.

    The paper keeps BatchNorm local. Our backbones normalise by image, so what stays here is the affine part
    of their norm layers.

    Source: Li et al., ICLR 2021.
    """

    def __init__(self, case: Case, option: Option, start: Weights | None = None) -> None:
        super().__init__(case, option, start)
        self.own_names = norm_names(self.network)
        self.own: dict[str, Weights] = {}
        kept = sum(self.common[name].nbytes for name in self.own_names)
        self.payload -= kept

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.case.meter.transfer(site, sent=self.payload, received=self.payload)
        state = training.turn(site, self.of(site), span)[0]
        self.own[site] = {name: state[name] for name in self.own_names}
        return state

    def of(self, site: str) -> Weights:
        """A site's weights: the common ones but for its own."""
        return {**self.common, **self.own.get(site, {})}

    def learned(self) -> Learned:
        """As `FedAvg.learned`."""
        at = {site: network_predictor(self.case, self.of(site)) for site in self.own}
        return Learned(network_predictor(self.case, self.common), at)


class Scaffold(FedAvg):
    """Control variates take each site's drift out of its gradients: g − c_s + c.

    The paper steps by SGD, where the new c_s (its option II) is the mean of the site's gradients along its
    turn; that mean is what is taken here, before AdamW sees the corrected gradients. c is the mean of c_s.

    Source: Karimireddy et al., ICML 2020.
    """

    def __init__(self, case: Case, option: Option, start: Weights | None = None) -> None:
        super().__init__(case, option, start)
        self.drifts: dict[str, dict[str, Tensor]] = {}
        self.drift: dict[str, Tensor] = {}
        self.measured: dict[str, dict[str, Tensor]] = {}

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.case.meter.transfer(site, sent=2 * self.payload, received=2 * self.payload)
        own, sums = self.drifts.get(site, {}), dict[str, Tensor]()

        def adjust(network: Network) -> None:
            for name, value in network.named_parameters():
                if value.grad is None:
                    continue
                sums[name] = value.grad.detach().clone() + sums.get(name, 0.0)
                if name in own:
                    value.grad += (self.drift[name] - own[name]).to(value.device)

        state = training.turn(site, self.common, span, adjust=adjust)[0]
        # Of use from the next round on: in this one every site is corrected by what the last one left.
        self.measured[site] = {name: value.cpu() / len(span) for name, value in sums.items()}
        return state

    def merge(self, states: Mapping[str, Weights], images: Mapping[str, int]) -> None:
        """As `FedAvg.merge`."""
        super().merge(states, images)
        self.drifts, self.measured = self.measured, {}
        first = next(iter(self.drifts.values()))
        self.drift = {
            name: sum(own[name] for own in self.drifts.values()) / len(self.drifts)  # type: ignore[misc]
            for name in first
        }


def learner(kind: type[FedAvg]) -> Learn:
    """A method that trains in rounds, as the harness wants it."""

    def learn(case: Case, option: Option) -> Iterator[Learned]:
        trained = kind(case, option)
        for number in count():
            trained.cycle(number)
            yield trained.learned()

    return learn


def pooled(case: Case, option: Option) -> Iterator[Learned]:
    """End-to-end training on all images in one place, which privacy forbids: the ceiling."""
    one_place = replace(case, sites={"one place": merged(case.labelled)})
    yield from learner(Pooled)(one_place, option)


def local(case: Case, option: Option) -> Iterator[Learned]:
    """Every site for itself, from fresh weights."""
    yield from _alone(case, option, None)


def fine_tuned(case: Case, option: Option) -> Iterator[Learned]:
    """Every site for itself, from what the others had learned."""
    yield from _alone(case, option, state_of(case.referred()))


def _alone(case: Case, option: Option, start: Weights | None) -> Iterator[Learned]:
    """FedAvg at each site by itself, where nothing is sent."""
    trained = {site: FedAvg(alone(case, site), option, start) for site in case.labelled}
    for number in count():
        for site, one in trained.items():
            one.cycle(number)
            case.meter.compute(site, sum(one.case.meter.seconds.values()))
            one.case.meter.seconds.clear()
        at = {site: network_predictor(case, one.common) for site, one in trained.items()}
        yield Learned(None if start is None else network_predictor(case, start), at)


def alone(case: Case, site: str) -> Case:
    """The case with one site in it, and a meter of its own."""
    return replace(case, sites={site: case.sites[site]}, meter=Meter())


def toward(centre: Weights, strength: float) -> Adjust:
    """Gradient of strength/2 ‖w − centre‖² is added to that of the loss."""
    values: dict[str, Tensor] = {}

    def adjust(network: Network) -> None:
        for name, value in network.named_parameters():
            if value.grad is not None:
                if name not in values:
                    values[name] = torch.from_numpy(np.array(centre[name])).to(value.device)
                value.grad += strength * (value.detach() - values[name])

    return adjust


def norm_names(network: nn.Module) -> set[str]:
    """Names of the weights of norm layers."""
    kinds = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return {
        f"{name}.{parameter}" if name else parameter
        for name, module in network.named_modules()
        if isinstance(module, kinds)
        for parameter, _ in module.named_parameters(recurse=False)
    }
