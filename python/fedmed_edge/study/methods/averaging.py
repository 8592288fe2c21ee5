"""Networks that sites train in rounds, and a server averages: FedAvg and those that change one step of it."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fedmed_edge.features.backbones import state_of
from fedmed_edge.features.local_norms import norm_names
from fedmed_edge.features.objectives import toward
from fedmed_edge.features.training import LEARNING_RATE, Network, SiteTraining
from fedmed_edge.features.weights import Weights, average_weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.study.methods.work import Learned, Meter, Option, Work, network_predictor, size_of, styles_of

CYCLE_SEED = 77
"""Between the seeds of two cycles."""


class FedAvg:
    """Every site trains from the common weights, then they are averaged, weighted by images.

    A subclass says what is different: `turn`, what a site does in a round; `merge`, what the server does
    with it; `learned`, who answers with what.

    Args:
        option: `rate`, by which the task's learning rate is multiplied.
        start: Weights to begin with; default fresh ones.

    Source: McMahan et al., AISTATS 2017.
    """

    sends = True
    """Whether sites and server are two places."""

    def __init__(self, work: Work, option: Option, start: Weights | None = None) -> None:
        self.work, self.option = work, option
        self.network = work.fresh()
        self.common: Weights = start or state_of(self.network)
        self.payload = size_of(self.common)
        several = self.sends and len(work.labelled) > 1
        self.styles = styles_of(work.labelled) if several and work.recipe.training.amplitude else {}
        for site, style in self.styles.items():
            own = size_of(style._asdict())
            work.meter.transfer(site, sent=own, received=(len(self.styles) - 1) * own)

    @property
    def steps(self) -> tuple[int, int]:
        """Rounds of a cycle, and steps of a site in each of them."""
        return self.work.budget.peer_rounds, self.work.budget.round_steps

    def cycle(self, number: int) -> None:
        """One cycle of the budget: the learning rate goes up once and comes down."""
        rounds, steps = self.steps
        training = self.training(self.work.labelled, rounds * steps, number)
        for index in range(rounds):
            span = range(index * steps, (index + 1) * steps)
            with training.round(index):
                states = {site: self.turn(training, site, span) for site in training.images}
            self.merge(states, training.images)
            self.work.meter.rounds += self.sends
        for site, seconds in training.seconds.items():
            self.work.meter.compute(site, seconds)

    def training(self, sites: Mapping[str, Dataset], steps: int, number: int) -> SiteTraining:
        """Sites that train for a cycle."""
        return SiteTraining(
            self.network,
            sites,
            steps=steps,
            batch=self.work.budget.batch,
            learning_rate=LEARNING_RATE[self.work.recipe.kind] * self.option.get("rate", 1.0),
            styles=self.styles,
            seed=self.work.seed + CYCLE_SEED * number,
            device=self.work.device,
            progress=self.work.watch,
        )

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """What a site does in a round; gives its weights."""
        self.exchange(site)
        return training.turn(site, self.common, span)

    def exchange(self, site: str, times: int = 1) -> None:
        """Count a site's weights going down and up."""
        if self.sends:
            self.work.meter.transfer(site, sent=times * self.payload, received=times * self.payload)

    def merge(self, states: Mapping[str, Weights], images: Mapping[str, int]) -> None:
        """What the server does with the sites' weights."""
        self.common = average_weights(list(states.values()), list(images.values()))

    def learned(self) -> Learned:
        """Who answers with what."""
        return Learned(network_predictor(self.work, self.common))


class Pooled(FedAvg):
    """All images in one place, which the caller makes the only site: one round a cycle."""

    sends = False

    @property
    def steps(self) -> tuple[int, int]:
        """As `FedAvg.steps`."""
        return 1, self.work.budget.pooled_steps


class FedProx(FedAvg):
    """Local weights are held to the common ones: μ/2 ‖w − w₀‖² is added to the loss.

    Source: Li et al., MLSys 2020.
    """

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.exchange(site)
        adjust = toward(self.common, self.option["mu"])
        return training.turn(site, self.common, span, adjust=adjust)


class FedBN(FedAvg):
    """Norm layers stay at their site; a site that has none gets their average.

    The paper keeps BatchNorm local. Our backbones normalise by image, so what stays here is the affine part
    of their norm layers.

    Source: Li et al., ICLR 2021.
    """

    def __init__(self, work: Work, option: Option) -> None:
        super().__init__(work, option)
        self.own_names = norm_names(self.network)
        self.own: dict[str, Weights] = {}
        kept = sum(self.common[name].nbytes for name in self.own_names)
        self.payload -= kept

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.exchange(site)
        state = training.turn(site, self.of(site), span)
        self.own[site] = {name: state[name] for name in self.own_names}
        return state

    def of(self, site: str) -> Weights:
        """A site's weights: the common ones but for its own."""
        return {**self.common, **self.own.get(site, {})}

    def learned(self) -> Learned:
        """As `FedAvg.learned`."""
        at = {site: network_predictor(self.work, self.of(site)) for site in self.own}
        return Learned(network_predictor(self.work, self.common), at)


class Scaffold(FedAvg):
    """Control variates take each site's drift out of its gradients: g − c_s + c.

    The paper steps by SGD, where the new c_s (its option II) is the mean of the site's gradients along its
    turn; that mean is what is taken here, before AdamW sees the corrected gradients. c is the mean of c_s.

    Source: Karimireddy et al., ICML 2020.
    """

    def __init__(self, work: Work, option: Option) -> None:
        super().__init__(work, option)
        self.drifts: dict[str, dict[str, Tensor]] = {}
        self.drift: dict[str, Tensor] = {}
        self.measured: dict[str, dict[str, Tensor]] = {}

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.exchange(site, times=2)
        own, sums = self.drifts.get(site, {}), dict[str, Tensor]()

        def adjust(network: Network) -> None:
            for name, value in network.named_parameters():
                if value.grad is None:
                    continue
                sums[name] = value.grad.detach().clone() + sums.get(name, 0.0)
                if name in own:
                    value.grad += (self.drift[name] - own[name]).to(value.device)

        state = training.turn(site, self.common, span, adjust=adjust)
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


def alone(work: Work, site: str) -> Work:
    """The same with one site in it, and a meter of its own."""
    return replace(work, sites={site: work.sites[site]}, meter=Meter())


def cycle_alone(work: Work, trained: Mapping[str, FedAvg], number: int) -> None:
    """One cycle of every site's own training; its seconds go to the meter of the whole."""
    for site, one in trained.items():
        one.cycle(number)
        work.meter.compute(site, sum(one.work.meter.seconds.values()))
        one.work.meter.seconds.clear()
