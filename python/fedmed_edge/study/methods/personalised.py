"""Networks of which every site keeps a part, or a whole one, of its own."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedmed_edge.features.backbones import seeded
from fedmed_edge.features.objectives import toward
from fedmed_edge.features.training import SiteTraining
from fedmed_edge.features.weights import Weights
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.study.methods.averaging import FedAvg, FedBN, alone, cycle_alone
from fedmed_edge.study.methods.work import (
    Learned,
    Option,
    Predictor,
    Work,
    network_predictor,
    size_of,
)
from fedmed_edge.study.scores import Answers

_HEADS = "heads."


class Ditto(FedAvg):
    """FedAvg, and at every site a model of its own, held to the common one by λ/2 ‖v − w‖².

    Source: Li et al., ICML 2021.
    """

    def __init__(self, work: Work, option: Option) -> None:
        super().__init__(work, option)
        self.own = {site: _Held(alone(work, site), option) for site in work.labelled}

    def cycle(self, number: int) -> None:
        """As `FedAvg.cycle`, and one of every site's own model.

        The paper takes the two by turns within a round. Here a site's own model goes through the cycle
        after the common one has, and is held to where that one ended.
        """
        super().cycle(number)
        for one in self.own.values():
            one.centre = self.common
        cycle_alone(self.work, self.own, number)

    def learned(self) -> Learned:
        """As `FedAvg.learned`."""
        at = {site: network_predictor(self.work, one.common) for site, one in self.own.items()}
        return Learned(network_predictor(self.work, self.common), at)


class _Held(FedAvg):
    """A site's own training, held to a centre."""

    centre: Weights

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        adjust = toward(self.centre, self.option["strength"])
        return training.turn(site, self.common, span, adjust=adjust)


class FedRep(FedBN):
    """The head stays at its site: in every round it is trained first, then the backbone under it.

    Source: Collins et al., ICML 2021.
    """

    def __init__(self, work: Work, option: Option) -> None:
        super().__init__(work, option)
        self.own_names = {name for name in self.common if name.startswith(_HEADS)}
        self.payload = size_of(self.common) - sum(self.common[name].nbytes for name in self.own_names)

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.exchange(site)
        middle = span.start + max(1, round(len(span) * self.option["head_share"]))
        try:
            self._train_only(head=True)
            state = training.turn(site, self.of(site), range(span.start, min(middle, span.stop)))
            if middle < span.stop:
                self._train_only(head=False)
                state = training.turn(site, state, range(middle, span.stop))
        finally:
            self.network.requires_grad_(True)
        self.own[site] = {name: state[name] for name in self.own_names}
        return state

    def _train_only(self, *, head: bool) -> None:
        for name, value in self.network.named_parameters():
            value.requires_grad_(name.startswith(_HEADS) == head)


class FedBABU(FedAvg):
    """The head stays as it was drawn while the backbone is learned; each site then tunes all for itself.

    A site without labels gets the common backbone under the average of the tuned heads and backbones.

    Source: Oh et al., ICLR 2022.
    """

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`."""
        self.exchange(site)
        for name, value in self.network.named_parameters():
            value.requires_grad_(not name.startswith(_HEADS))
        try:
            return training.turn(site, self.common, span)
        finally:
            self.network.requires_grad_(True)

    def learned(self) -> Learned:
        """As `FedAvg.learned`; a site tunes when it is first asked."""
        common = self.common

        @cache
        def tuned(site: str) -> Weights:
            one = _Tuned(alone(self.work, site), {"rate": self.option["tuning_rate"]}, common)
            cycle_alone(self.work, {site: one}, 0)
            return one.common

        def everywhere(data: Dataset) -> Answers:
            average = FedAvg(self.work, self.option)
            average.merge(
                {site: tuned(site) for site in self.work.labelled},
                {site: len(images) for site, images in self.work.labelled.items()},
            )
            return network_predictor(self.work, average.common)(data)

        def of(site: str) -> Predictor:
            return lambda data: network_predictor(self.work, tuned(site))(data)

        return Learned(everywhere, {site: of(site) for site in self.work.labelled})


class _Tuned(FedAvg):
    """Fine-tuning at one site, of as many steps as a site's own network gets."""

    @property
    def steps(self) -> tuple[int, int]:
        return 1, self.work.budget.local_steps


class PFedHN(FedAvg):
    """A network at the server makes every site's weights from an embedding of the site.

    A site's change of its weights is the gradient that trains it. The paper's network has hidden layers of
    100; ours 16, which is more than the sites there are, as its last layer has that many times the weights of
    the backbone. A site without labels gets the weights of the mean embedding.

    Source: Shamsian et al., ICML 2021.
    """

    hidden = 16

    def __init__(self, work: Work, option: Option) -> None:
        super().__init__(work, option)
        self.places = {site: index for index, site in enumerate(work.labelled)}
        with seeded(work.seed + 2):
            self.embedding = nn.Embedding(len(self.places), self.hidden)
            self.trunk = nn.Sequential(nn.Linear(self.hidden, self.hidden), nn.Tanh())
        self.offsets = {
            name: value.detach().clone().requires_grad_(True)
            for name, value in self.network.named_parameters()
        }
        self.maps = {
            name: torch.zeros(self.hidden, value.numel(), requires_grad=True)
            for name, value in self.offsets.items()
        }
        trained = [*self.embedding.parameters(), *self.trunk.parameters()]
        self.optimiser = torch.optim.SGD(
            [*trained, *self.maps.values(), *self.offsets.values()], lr=option["server_rate"]
        )

    def made(self, embedding: Tensor) -> dict[str, Tensor]:
        """Weights of an embedding (hidden,)."""
        inner = self.trunk(embedding) / self.hidden**0.5
        return {
            name: offset + (inner @ self.maps[name]).reshape(offset.shape)
            for name, offset in self.offsets.items()
        }

    def turn(self, training: SiteTraining, site: str, span: range) -> Weights:
        """As `FedAvg.turn`; the server learns from each site in turn."""
        self.exchange(site)
        weights = self.made(self.embedding.weight[self.places[site]])
        state = training.turn(site, {**self.common, **_plain(weights)}, span)
        self.optimiser.zero_grad()
        change = [value.detach() - torch.from_numpy(state[name]) for name, value in weights.items()]
        torch.autograd.backward(list(weights.values()), change)
        nn.utils.clip_grad_norm_([*self.embedding.parameters(), *self.trunk.parameters()], 1.0)
        self.optimiser.step()
        return state

    def merge(self, states: Mapping[str, Weights], images: Mapping[str, int]) -> None:
        """As `FedAvg.merge`: what answers where there is no embedding."""
        self.common = {**self.common, **_plain(self.made(self.embedding.weight.mean(dim=0)))}

    def learned(self) -> Learned:
        """As `FedAvg.learned`."""
        own = {
            site: {**self.common, **_plain(self.made(self.embedding.weight[place]))}
            for site, place in self.places.items()
        }
        at = {site: network_predictor(self.work, weights) for site, weights in own.items()}
        return Learned(network_predictor(self.work, self.common), at)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.generic]]:
    return {name: value.detach().numpy().copy() for name, value in weights.items()}
